package vaulttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
)

// testArchive: what retention drops is in a file before, which verifies on its own, and names what somebody does to it.
func testArchive(r *rig) {
	s, t := r.signed(), r.trail(1)
	for _, n := range []int{6, 3} {
		one := r.store(s.signs)
		t.write(one, n)
		one.Close()
	}
	files, full := map[string][]byte{}, errors.New("the disk is full")
	fail := full
	keep := vault.Retention{Age: 90 * 24 * time.Hour, Archive: func(_ context.Context, name string, write func(io.Writer) error) error {
		var b bytes.Buffer
		if err := write(&b); err != nil {
			return err
		}
		if fail == nil {
			files[name] = b.Bytes()
		}
		return fail
	}}
	b := &later{Store: r.backend(), ahead: ahead}
	trimmer := r.store(func(vc *vault.Config, rc *redisstore.Config) {
		s.signs(vc, rc)
		vc.Backend, vc.Now, vc.Retention = b, func() time.Time { return time.Now().Add(ahead) }, keep
	})
	if _, err := trimmer.TrimTrail(r.ctx()); !errors.Is(err, full) || r.raw("XLEN", t.stream) != "9" {
		r.Errorf("without a place: %v, %s entries are left", err, r.raw("XLEN", t.stream))
	}
	if at := trimmer.Retained(); !at.Mine || !errors.Is(at.Failure, full) || at.Behind < 270*24*time.Hour || at.Behind > 276*24*time.Hour {
		r.Errorf("without a place it says: %+v", at)
	}
	fail = nil
	r.trimmed(trimmer)
	if at := trimmer.Retained(); !at.Mine || at.Failure != nil || at.Behind != 0 {
		r.Errorf("with a place it says: %+v", at)
	}
	trimmer.Close()
	if r.raw("XLEN", t.stream) != "0" || len(files) == 0 {
		r.Fatalf("%s entries are left, %d files", r.raw("XLEN", t.stream), len(files))
	}
	var content []byte
	for _, c := range files {
		if bytes.Contains(c, []byte(t.tenant+`"`)) && bytes.Count(c, []byte(`{"entry"`)) == 9 {
			content = c
		}
	}
	verify := func(content []byte, keys ...vault.PublicKey) vault.ArchiveReport {
		return vault.VerifyArchive([]vault.ArchiveFile{{Name: "a", From: bytes.NewReader(content)}}, vault.Signers{Keys: keys})
	}
	keys := s.keys.Public()
	if got := verify(content, keys...); len(got.Faults) > 0 || got.Entries != 9 || got.Signed != 9 || got.Events != 18 || got.Selection {
		r.Fatalf("untouched: %+v\n%s", got, content)
	}
	if got := verify(content); len(got.Faults) > 0 || got.Signed != 0 {
		r.Errorf("without a key: %+v", got)
	}
	rows := strings.SplitAfter(string(content), "\n")
	unsigned := slices.DeleteFunc(slices.Clone(rows), func(row string) bool { return strings.HasPrefix(row, `{"checkpoint"`) })
	if got := verify([]byte(strings.Join(unsigned, "")), keys...); len(got.Faults) > 0 || got.Signed != 0 || got.Entries != 9 || t.names[got.FirstUnsigned.Event] == "" {
		r.Errorf("without a checkpoint: %+v", got)
	}
	at := slices.IndexFunc(rows, func(row string) bool { return strings.HasPrefix(row, `{"entry"`) }) + 3
	number := func(event string) string { return t.names[event] }
	for what, c := range map[string]struct {
		change func(rows []string) []string
		event  string // that is named
		want   string
	}{
		"an entry is gone":  {func(rows []string) []string { return slices.Delete(rows, at, at+1) }, "4", "dropped"},
		"two are exchanged": {func(rows []string) []string { rows[at], rows[at+1] = rows[at+1], rows[at]; return rows }, "4", "dropped"},
		"an event shows otherwise": {func(rows []string) []string {
			rows[at] = strings.Replace(rows[at], `"agent-1"`, `"agent-2"`, 1)
			return rows
		}, "3", "changed: the event that is shown"},
		"a payload is another": {func(rows []string) []string {
			rows[at] = strings.Replace(rows[at], `"payload":"`, `"payload":"AAAA`, 1)
			return rows
		}, "3", "changed: its link"},
		"it is cut off":             {func(rows []string) []string { return rows[:at+2] }, "", "dropped: the file ends before its end"},
		"the end of a chain is off": {func(rows []string) []string { return slices.Delete(rows, at+2, at+3) }, "", "dropped: the file had 9 entries"},
	} {
		got := verify([]byte(strings.Join(c.change(slices.Clone(rows)), "")), keys...)
		if len(got.Faults) == 0 || !strings.HasPrefix(got.Faults[0].What, c.want) || c.event != "" && number(got.Faults[0].Event) != c.event {
			r.Errorf("%s: %+v", what, got.Faults)
		}
	}
	if report := s.verify(s.paper.source()...); len(report.Faults) > 0 {
		r.Errorf("what is left: %+v", report.Faults)
	}
}

// testExport: a selection verifies as well, down to the checkpoints, and has nothing of what it leaves out.
func testExport(r *rig) {
	s := r.signed()
	one := r.store(s.signs)
	tenant, shard := tenant(r), one.Shard(tenant(r), "ann")
	other := ""
	for i := 0; other == ""; i++ {
		if name := fmt.Sprint("ben-", i); one.Shard(tenant, name) == shard {
			other = name
		}
	}
	for i := range 12 {
		subject := []string{"ann", other}[i%2]
		if err := one.Append(r.ctx(), entry(broker.EventTokenIssued, broker.Connection{Tenant: tenant, Subject: subject, Connector: "files"}, "a")); err != nil {
			r.Fatal(err)
		}
	}
	one.Close()
	var b bytes.Buffer
	entries, events, faults, err := r.store().Export(r.ctx(), &b, vault.ExportQuery{Tenant: tenant, Subject: "ann"}, s.by(), s.paper.source())
	if err != nil || entries != 6 || events != 6 || len(faults) > 0 || strings.Contains(b.String(), other) {
		r.Fatalf("%d entries, %d events, %+v, %v\n%s", entries, events, faults, err, b.String())
	}
	verify := func(text string) vault.ArchiveReport {
		return vault.VerifyArchive([]vault.ArchiveFile{{Name: "a", From: strings.NewReader(text)}}, s.by())
	}
	if got := verify(b.String()); len(got.Faults) > 0 || got.Entries != 6 || got.Signed != 6 || !got.Selection {
		r.Errorf("untouched: %+v", got)
	}
	rows := strings.SplitAfter(b.String(), "\n")
	for i, row := range rows {
		if strings.HasPrefix(row, `{"links"`) {
			rows[i] = strings.Replace(row, `"links":["`, `"links":["AAAA`, 1)
		}
	}
	if got := verify(strings.Join(rows, "")); len(got.Faults) == 0 {
		r.Error("changed links pass")
	}
}
