package vault

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"tokenbroker/broker"
)

// scripted answers steps as the test says.
type scripted struct {
	Backend
	apply func(Step) Result
}

func (b scripted) Apply(_ context.Context, steps []Step) []Result {
	results := make([]Result, len(steps))
	for i, step := range steps {
		results[i] = b.apply(step)
	}
	return results
}

func scriptedStore(t testing.TB, now func() time.Time, apply func(Step) Result) *Store {
	t.Helper()
	keyset, err := NewEphemeralKeyset()
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Backend: scripted{apply: apply}, Keyset: keyset, Now: now, Random: rand.Reader, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// TestBeginOfUnknownOutcome: an attempt without an answer is made again under its name until there is one.
func TestBeginOfUnknownOutcome(t *testing.T) {
	start := time.UnixMilli(1_800_000_000_000)
	now := start
	var owners []string
	answer := Result{}
	lost := Result{Err: errors.New("no answer")}
	s := scriptedStore(t, func() time.Time { return now }, func(step Step) Result {
		owners = append(owners, step.Checks[0].Value)
		if step.Writes[0].Args[1] != step.Checks[0].Value {
			t.Errorf("asks whether it is %q and writes %q", step.Checks[0].Value, step.Writes[0].Args[1])
		}
		return answer
	})
	conn := broker.Connection{ID: testID(0), Tenant: "acme", Generation: 3, Status: broker.ConnectionActive}
	begin := func(conn broker.Connection, holder string, r Result) (owner string, lease broker.Lease, err error) {
		r.Reads = []map[string][]byte{{fieldFence: []byte("7")}, {}}
		answer, owners = r, nil
		ctx, cancel := context.WithTimeout(t.Context(), firstPause) // one request
		defer cancel()
		lease, _, err = s.BeginRefresh(ctx, conn, holder, time.Minute)
		if len(owners) != 1 {
			t.Fatalf("%d requests", len(owners))
		}
		return owners[0], lease, err
	}
	first, _, err := begin(conn, "me", lost)
	if !errors.Is(err, lost.Err) {
		t.Fatal(err)
	}
	now = now.Add(time.Second)
	if again, _, _ := begin(conn, "me", lost); again != first {
		t.Errorf("a second name after an unknown outcome: %q, then %q", first, again)
	}
	for what, other := range map[string]struct {
		change func(*broker.Connection)
		holder string
	}{
		"generation": {func(c *broker.Connection) { c.Generation++ }, "me"},
		"connection": {func(c *broker.Connection) { c.ID = testID(1) }, "me"},
		"tenant":     {func(c *broker.Connection) { c.Tenant = "globex" }, "me"},
		"holder":     {func(*broker.Connection) {}, "you"},
	} {
		c := conn
		other.change(&c)
		if owner, _, _ := begin(c, other.holder, Result{Verdict: VerdictRefused, Refused: 1}); owner == first {
			t.Errorf("another %s uses the name of this attempt", what)
		}
	}
	now = now.Add(time.Second)
	owner, lease, err := begin(conn, "me", Result{Verdict: VerdictApplied})
	if err != nil || owner != first || lease.Owner != first || lease.Fence != 7 || !lease.Until.Equal(start.Add(time.Minute)) {
		t.Errorf("taken by an earlier request: %+v, %v", lease, err)
	}
	// Each known outcome ends the name.
	last := first
	for what, known := range map[string]Result{
		"applied": {Verdict: VerdictApplied}, "done": {Verdict: VerdictDone}, "busy": {Verdict: VerdictRefused, Refused: 5}, "moved on": {Verdict: VerdictRefused, Refused: 3},
	} {
		now = now.Add(time.Second)
		unknown, _, _ := begin(conn, "me", lost)
		if unknown == last {
			t.Errorf("%s: the name lived on", what)
		}
		last = unknown
		now = now.Add(time.Second)
		owner, lease, err := begin(conn, "me", known)
		if owner != unknown {
			t.Errorf("%s: a second name after an unknown outcome", what)
		}
		if known.Verdict == VerdictDone && (err != nil || !lease.Until.Equal(now.Add(time.Minute))) {
			t.Errorf("taken by this request: %+v, %v", lease, err)
		}
	}
}

// TestBeginOneAtATime: the name of an attempt is one caller's, and what comes meanwhile is not sent.
func TestBeginOneAtATime(t *testing.T) {
	entered, answer := make(chan struct{}), make(chan Result)
	s := scriptedStore(t, time.Now, func(Step) Result {
		entered <- struct{}{}
		return <-answer
	})
	conn := broker.Connection{ID: testID(0), Tenant: "acme", Generation: 1, Status: broker.ConnectionActive}
	done := make(chan error)
	begin := func() {
		_, _, err := s.BeginRefresh(t.Context(), conn, "me", time.Minute)
		done <- err
	}
	go begin()
	<-entered
	if _, _, err := s.BeginRefresh(t.Context(), conn, "me", time.Minute); !errors.Is(err, broker.ErrBusy) {
		t.Errorf("beside another call: %v", err)
	}
	answer <- Result{Verdict: VerdictDone, Reads: []map[string][]byte{{fieldFence: []byte("1")}, {}}}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	go begin()
	<-entered // asked again: the call before has left
	answer <- Result{Verdict: VerdictRefused, Refused: 5}
	if err := <-done; !errors.Is(err, broker.ErrBusy) {
		t.Errorf("the store says busy: %v", err)
	}
}

func TestBeginsAreBounded(t *testing.T) {
	b := begins{all: make(map[beginKey]begin)}
	key := func(i int) beginKey { return beginKey{connection: fmt.Sprint(i)} }
	at := func(i int) begin { return begin{owner: fmt.Sprint(i), until: time.UnixMilli(int64(i))} }
	if _, ok := b.enter(key(0), at(0)); !ok { // stays on its way
		t.Fatal("the first attempt is refused")
	}
	for i := 1; i <= maxBegins+10; i++ {
		if _, ok := b.enter(key(i), at(i)); !ok {
			t.Fatalf("attempt %d is refused", i)
		}
		b.leave(key(i), false)
	}
	if len(b.all) != maxBegins {
		t.Errorf("%d remembered", len(b.all))
	}
	if _, there := b.all[key(0)]; !there {
		t.Error("an attempt on its way was forgotten")
	}
	if _, there := b.all[key(1)]; there {
		t.Error("the oldest is still there")
	}
	if got, ok := b.enter(key(maxBegins+10), at(1)); !ok || got.owner != fmt.Sprint(maxBegins+10) {
		t.Errorf("the newest: %+v, %v", got, ok)
	}
}

// testID is a record's id of shard 0.
func testID(n byte) string {
	raw := make([]byte, 18)
	raw[1] = n
	return base64.RawURLEncoding.EncodeToString(raw)
}
