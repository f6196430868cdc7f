package vault

import (
	"fmt"
	"testing"
	"time"

	"tokenbroker/broker"
)

// fakeRecord is a connection as it is stored, as far as it decides what is lost.
func fakeRecord(gen int, write, status string, consented, epoch int, token string) map[string][]byte {
	return map[string][]byte{
		fieldFormat: []byte(formatJSON), fieldGeneration: []byte(fmt.Sprint(gen)), fieldWrite: []byte(write), fieldTenant: []byte("t"),
		fieldStatus: []byte(status), fieldConsented: []byte(fmt.Sprint(consented)), fieldRefresh: []byte(token),
		fieldHeader: fmt.Appendf(nil, `{"cn":"files","rg":%d}`, epoch), fieldOwner: []byte("o"), fieldDeadline: []byte("1"), fieldFence: []byte("7"),
	}
}

// TestFind: what a record says about a write that is remembered.
func TestFind(t *testing.T) {
	now := time.Now()
	active, revoked := string(broker.ConnectionActive), string(broker.ConnectionRevoked)
	take := func(record map[string][]byte) *remembered {
		m := &remembered{tenant: "t", id: "id"}
		m.take(record)
		return m
	}
	ours := take(fakeRecord(5, "w5", active, 2, 5, "rt5"))
	ended := take(fakeRecord(5, "w5", revoked, 2, 0, ""))
	consented := take(fakeRecord(5, "w5", active, 5, 5, "rt5"))
	failed := take(fakeRecord(6, "w6", active, 2, 5, "rt5"))
	gone := &remembered{tenant: "t", id: "id", generation: 6, consented: 2}
	consent := &remembered{tenant: "t", id: "id", consent: true, generation: 3, write: "v3", fields: map[string]string{fieldFormat: consentFormat}, until: now.Add(time.Minute)}
	overConsent := *consent
	overConsent.until = now
	version := func(n int, write string) map[string][]byte {
		return map[string][]byte{fieldFormat: []byte(consentFormat), fieldVersion: []byte(fmt.Sprint(n)), fieldWrite: []byte(write)}
	}
	shared := func(generation, write string) map[string][]byte {
		record := map[string][]byte{fieldFormat: []byte(sharedFormat), fieldHolder + "id": []byte("1")}
		if generation != "" {
			record[fieldGeneration], record[fieldWrite], record[fieldGrant] = []byte(generation), []byte(write), []byte("sealed")
		}
		return record
	}
	grant := &remembered{id: "key", shared: "key"}
	grant.take(shared("5", "w5"))
	newer := fakeRecord(3, "w3", active, 2, 3, "rt3")
	newer[fieldFormat] = []byte("3")
	for _, c := range []struct {
		name   string
		m      *remembered
		record map[string][]byte
		want   finding
	}{
		{"the same", ours, fakeRecord(5, "w5", active, 2, 5, "rt5"), foundAsWritten},
		{"absent", ours, nil, foundBehind},
		{"set back", ours, fakeRecord(4, "w4", active, 2, 4, "rt4"), foundBehind},
		{"set back, and gone on by a failure", failed, fakeRecord(5, "x", active, 2, 4, "rt4"), foundBehind},
		{"of a newer format", ours, newer, foundAsWritten},
		{"refreshed since", ours, fakeRecord(6, "w6", active, 2, 6, "rt6"), foundAsWritten},
		{"failed since", ours, fakeRecord(7, "w7", active, 2, 5, "rt5"), foundAsWritten},
		{"revoked since", ours, fakeRecord(6, "w6", revoked, 2, 5, "rt5"), foundAsWritten},
		{"consented since", ours, fakeRecord(6, "w6", active, 6, 6, "rt6"), foundAsWritten},
		{"gone on from before, failing", ours, fakeRecord(5, "x", active, 2, 4, "rt4"), foundOlder},
		{"gone on from before, further", ours, fakeRecord(9, "x", active, 2, 4, "rt4"), foundOlder},
		{"gone on from before, of a later write", failed, fakeRecord(8, "x", active, 2, 4, "rt4"), foundOlder},
		{"gone on from before by a refresh", ours, fakeRecord(5, "x", active, 2, 5, "rt5x"), foundRival},
		{"gone on from before by a consent", ours, fakeRecord(4, "x", active, 4, 4, "rt4x"), foundForeign},
		{"gone on from before by a revocation", failed, fakeRecord(5, "x", revoked, 2, 4, "rt4"), foundForeign},
		{"a lost consent behind a revocation", consented, fakeRecord(4, "w4", revoked, 2, 3, "rt3"), foundBehind},
		{"a lost consent, gone on from before", consented, fakeRecord(6, "x", active, 2, 6, "rt6x"), foundOlder},
		{"a lost revocation", ended, fakeRecord(4, "w4", active, 2, 4, "rt4"), foundBehind},
		{"the end of a revocation lost", ended, fakeRecord(4, "w4", revoked, 2, 4, "rt4"), foundBehind},
		{"a lost revocation, gone on from before", ended, fakeRecord(7, "x", active, 2, 4, "rt4"), foundUnrevoked},
		{"consented after a revocation", ended, fakeRecord(6, "w6", active, 6, 6, "rt6"), foundAsWritten},
		{"a lost revocation, and a consent", ended, fakeRecord(4, "x", active, 4, 4, "rt4"), foundForeign},
		{"erased", gone, nil, foundAsWritten},
		{"a lost erasure", gone, fakeRecord(4, "w4", active, 2, 4, "rt4"), foundErased},
		{"a lost erasure, gone on from before", gone, fakeRecord(9, "x", active, 2, 4, "rt4"), foundErased},
		{"a lost erasure, and a consent", gone, fakeRecord(5, "x", active, 5, 5, "rt5x"), foundForeign},
		{"consent", consent, version(3, "v3"), foundAsWritten},
		{"consent set back", consent, version(2, "v2"), foundBehind},
		{"consent gone on", consent, version(3, "x"), foundAsWritten},
		{"consent absent", consent, nil, foundBehind},
		{"shared grant", grant, shared("5", "w5"), foundAsWritten},
		{"shared grant set back", grant, shared("4", "w4"), foundBehind},
		{"shared grant set back to its holders alone", grant, shared("", ""), foundBehind},
		{"shared grant without a holder, leased", grant, map[string][]byte{fieldFormat: []byte(sharedFormat), fieldOwner: []byte("o")}, foundAsWritten},
		{"shared grant gone on", grant, shared("6", "w6"), foundAsWritten},
		{"shared grant without holders", grant, nil, foundAsWritten},
		{"consent at its end of life", &overConsent, nil, foundAsWritten},
	} {
		if got := c.m.find(c.record, now); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	if _, there := ours.fields[fieldOwner]; there || ours.fence != 7 {
		t.Errorf("a lease is remembered, or its fence %d is not", ours.fence)
	}
}

// TestMemoryBounds: by number and by age, and entries with their writes.
func TestMemoryBounds(t *testing.T) {
	now := time.Now()
	m := newMemory(func() time.Time { return now })
	put := func(id string, gen int64, write, index string, stored time.Time, entries ...broker.Entry) {
		m.put(&remembered{id: id, tenant: "t", generation: gen, write: write, index: index, stored: stored, fields: map[string]string{}}, writtenEntries{generation: gen, write: write, entries: entries})
	}
	for i := range memoryRecords + 10 {
		put(fmt.Sprint(i), 1, "w", "s"+fmt.Sprint(i%2), now)
	}
	if n := len(m.newest()); n != memoryRecords || m.get("9") != nil || m.get("10") == nil {
		t.Fatalf("%d records remembered", n)
	}
	if ids := m.newest(); ids[0] != fmt.Sprint(memoryRecords+9) {
		t.Fatalf("the newest is %s", ids[0])
	}
	if n := len(m.ofSubject("s0")) + len(m.ofSubject("s1")); n != memoryRecords {
		t.Fatalf("%d under subjects", n)
	}
	one := func(kind broker.EventType) broker.Entry { return broker.Entry{Type: kind} }
	for gen := int64(1); gen <= memoryWrites+2; gen++ {
		put("a", gen, fmt.Sprint(gen), "s", now, one(broker.EventTokenRefreshed))
		put("a", gen, fmt.Sprint(gen), "", now, one(broker.EventTokenRefreshed)) // repeated
	}
	a := m.get("a")
	if n := len(a.lostEntries(0)); n != memoryWrites || len(a.lostEntries(memoryWrites+1)) != 1 || a.index != "s" {
		t.Fatalf("%d entries, index %q", n, a.index)
	}
	// Overtaken on its way: the later write counts. A later write at a lower generation counts too.
	put("a", 3, "late", "s", now.Add(-time.Second))
	if got := m.get("a"); got.generation != memoryWrites+2 {
		t.Fatalf("an older write took the place of a newer one: %d", got.generation)
	}
	put("a", 3, "after a failover", "s", now.Add(time.Second))
	if got := m.get("a"); got.generation != 3 {
		t.Fatalf("the write after a failover is not remembered: %d", got.generation)
	}
	m.forget(a) // not this one any more
	if m.get("a") == nil {
		t.Fatal("another one was forgotten")
	}
	now = now.Add(memoryLife + time.Second)
	if m.get("a") != nil || len(m.newest()) != 0 || len(m.ofSubject("s0")) != 0 {
		t.Fatal("remembered for longer than it should be")
	}
}
