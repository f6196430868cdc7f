package vaulttest

import (
	"fmt"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
)

// RunRetentionMemory prints what an entry and its postings take in the memory of Redis, what a step costs it that drops some, and how
// much is left then: almost nothing.
func RunRetentionMemory(t *testing.T, topology Topology) {
	r := newRig(t, topology)
	name := tenant(r)
	const entries, writers = 6000, 8
	used := func() float64 {
		t.Helper()
		// Key by key: what the server says of all its memory has the buffers of its clients in it, which come and go.
		sum := r.raw("EVAL", "local n = 0 for _, k in ipairs(redis.call('KEYS', '*')) do n = n + redis.call('MEMORY', 'USAGE', k, 'SAMPLES', '0') end return tostring(n)", "0")
		n, err := strconv.ParseFloat(sum, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	s := r.store()
	r.trailIndexed(s) // its scripts and claims are there
	before := used()
	var group sync.WaitGroup
	errs := make([]error, writers)
	for w := range writers {
		group.Go(func() {
			for i := range entries / writers {
				e := entry(broker.EventTokenIssued, broker.Connection{
					ID: fmt.Sprint("a-connection-of-36-characters-", w, i), Tenant: name, Subject: fmt.Sprint("user-", i%500, "@example.com"), Connector: "google-drive",
				}, "https://www.googleapis.com/auth/drive.readonly")
				e.Actor = broker.Actor{Agent: fmt.Sprint("agent-", i%200), Run: fmt.Sprint("run-", w, "-", i/4), Tool: "drive.search"}
				e.Reason = "look for the minutes of the board meeting"
				if errs[w] = s.Append(r.ctx(), e); errs[w] != nil {
					return
				}
			}
		})
	}
	group.Wait()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	written := used()
	r.trailIndexed(s)
	indexed := used()
	r.raw("CONFIG", "RESETSTAT")
	r.trimmed(r.retaining(vault.Retention{Age: 90 * 24 * time.Hour}))
	after := used()
	t.Logf("%d entries: %.0f bytes an entry, and %.1f in the index; %.1f bytes an entry are left when they are dropped", entries, (written-before)/entries, (indexed-written)/entries, (after-before)/entries)
	t.Logf("XTRIM: %s", regexp.MustCompile(`(?m)^cmdstat_xtrim:.*$`).FindString(r.raw("INFO", "commandstats")))
	if left, all := after-before, indexed-before; left > all/8 {
		t.Errorf("%.0f bytes are left of %.0f", left, all)
	}
	r.verified(s)
}

// RunRetentionStep prints what the longest step costs Redis that drops entries of one stream.
func RunRetentionStep(t *testing.T, topology Topology) {
	r := newRig(t, topology)
	tr := r.trail(0)
	s := r.store()
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() {
			for range 150 {
				if err := s.Append(r.ctx(), entry(broker.EventTokenIssued, broker.Connection{Tenant: tr.tenant, Subject: "u"}, "a", "b")); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	r.raw("CONFIG", "RESETSTAT")
	r.raw("CONFIG", "SET", "slowlog-log-slower-than", "5000")
	r.raw("SLOWLOG", "RESET")
	r.trimmed(r.retaining(vault.Retention{Age: 90 * 24 * time.Hour}))
	stats := r.raw("INFO", "commandstats")
	found := regexp.MustCompile(`(?m)^cmdstat_xtrim:calls=(\d+),usec=(\d+)`).FindStringSubmatch(stats)
	if found == nil {
		t.Fatal("nothing was dropped")
	}
	calls, _ := strconv.Atoi(found[1])
	usec, _ := strconv.Atoi(found[2])
	t.Logf("2400 entries in %d steps, %d µs of XTRIM each; slower than 5 ms: %s", calls, usec/max(1, calls), r.raw("SLOWLOG", "LEN"))
	if calls < 10 || calls > 11 {
		t.Errorf("%d steps for 2400 entries, want 10", calls)
	}
	if n := r.raw("XLEN", tr.stream); n != "0" && n != "1" {
		t.Errorf("%s entries are left", n)
	}
}
