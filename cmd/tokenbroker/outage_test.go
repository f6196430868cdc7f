package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"tokenbroker/vault/redisstore"
)

// TestOutageLines: one line when it begins, one a minute, one when it is over; the others stay, at level debug.
func TestOutageLines(t *testing.T) {
	var out bytes.Buffer
	now := time.Unix(0, 0)
	o := newOutage(func() time.Time { return now })
	log := slog.New(outageHandler{newLogger(&out, slog.LevelDebug).Handler(), o}).With("a", "b")
	lines := func() []string {
		var all []string
		for text := range strings.Lines(out.String()) {
			var line struct{ Level, Msg string }
			if err := json.Unmarshal([]byte(text), &line); err != nil {
				t.Fatal(err)
			}
			all = append(all, line.Level+" "+strings.SplitN(line.Msg, ":", 2)[0])
		}
		out.Reset()
		return all
	}
	want := func(want ...string) {
		t.Helper()
		if got := lines(); !slices.Equal(got, want) {
			t.Errorf("logged %q, want %q", got, want)
		}
	}
	about := fmt.Errorf("sweep: %w", redisstore.ErrStore)
	sweep := func() { log.Warn("sweep", "error", about) }

	sweep()
	want("WARN sweep") // nobody watches
	o.watch(true)
	sweep()
	log.Warn("other", "error", errors.New("of a provider"))
	want("WARN other")
	if len(o.look) != 1 {
		t.Error("nobody is asked whether redis is down")
	}
	o.tell(t.Context(), log, "") // it is not: one operation failed
	want("WARN sweep")
	sweep()
	o.tell(t.Context(), log, "down")
	want("DEBUG sweep", "ERROR redis can't be used")
	for range 3 {
		sweep()
		now = now.Add(25 * time.Second)
		o.tell(t.Context(), log, "down")
	}
	log.Info("request", "error", about)
	want("DEBUG sweep", "DEBUG sweep", "DEBUG sweep", "ERROR redis still can't be used", "INFO request")
	o.tell(t.Context(), log, "")
	want("INFO redis can be used again")
	o.tell(t.Context(), log, "")
	sweep()
	o.watch(false)
	want("WARN sweep") // held lines are not lost at the end
	for range 2 * maxHeld {
		sweep()
	}
	if got := len(lines()); got != 2*maxHeld {
		t.Errorf("%d lines", got)
	}
}
