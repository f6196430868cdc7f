package vaulttest

import (
	"fmt"
	"slices"
	"strings"

	"tokenbroker/broker"
	"tokenbroker/vault"
)

// trail is a stream of a tenant of its own, which a test spoils.
type trail struct {
	*rig
	tenant, stream, heads, index string
	store                        *vault.Store // writes nothing
	entries                      int
	names                        map[string]string // of the events, by id: "2" and "2+" are those of the third entry
	allLost                      bool
}

// trail is an empty stream of a tenant of its own, and not the one in which that tenant's own events are written, which come when
// trimming begins: one shard of 256 would be both, by the keyset.
func (r *rig) trail(number int) *trail {
	t := &trail{rig: r, tenant: fmt.Sprintf("%s.%d", tenant(r), number), store: r.store(), names: map[string]string{"": ""}}
	for t.store.Shard(t.tenant, "u") == t.store.Shard(t.tenant, "") {
		t.tenant += "."
	}
	prefix := tag(t.store.Shard(t.tenant, "u"))
	t.stream, t.heads, t.index = prefix+"a:"+t.tenant, prefix+"h:"+t.tenant, prefix+"t"
	return t
}

// write appends entries and returns the fields that their writer has among the heads.
func (t *trail) write(s *vault.Store, n int) (head []string) {
	t.Helper()
	before := lines(t.raw("HKEYS", t.heads))
	for range n {
		e := entry(broker.EventTokenIssued, broker.Connection{Tenant: t.tenant, Subject: "u"}, "a", "b")
		if err := s.Append(t.ctx(), e); err != nil {
			t.Fatal(err)
		}
		t.names[e.Scopes[0].ID], t.names[e.Scopes[1].ID] = fmt.Sprint(t.entries), fmt.Sprintf("%d+", t.entries)
		t.entries++
	}
	for _, f := range lines(t.raw("HKEYS", t.heads)) {
		if !slices.Contains(before, f) {
			head = append(head, f)
		}
	}
	return head
}

// drop deletes entries, counted from 0.
func (t *trail) drop(numbers ...int) {
	t.Helper()
	ids := streamIDs(t.rig, t.stream)
	for _, n := range numbers {
		t.raw("XDEL", t.stream, ids[n])
	}
}

func (t *trail) dropHead(fields []string) {
	t.Helper()
	if len(fields) != 2 {
		t.Fatalf("%d fields of a writer", len(fields))
	}
	for _, f := range fields {
		t.raw("HDEL", t.heads, f)
	}
}

// fault verifies, cleans up and returns what was found first; allLost tells then that a crash of the store can explain it all.
func (t *trail) fault() *vault.Fault {
	t.Helper()
	report, err := t.store.Verify(t.ctx())
	if err != nil {
		t.Fatal(err)
	}
	var found *vault.Fault
	t.allLost = true
	for _, f := range report.Faults {
		if strings.HasPrefix(f.Stream, t.tenant+"/") {
			if !t.allLost {
				t.Fatal("a stream with two faults that are no losses")
			}
			if t.allLost = f.Lost; found == nil {
				found = &f
			}
		}
	}
	t.raw("DEL", t.stream)
	t.raw("DEL", t.heads)
	t.raw("SREM", t.index, t.tenant)
	return found
}

// place tells which events a fault names: the bad one, or those around it.
func (t *trail) place(f *vault.Fault) string {
	if f.Event != "" {
		return t.names[f.Event]
	}
	return t.names[f.After] + ">" + t.names[f.Before]
}

// testHiddenTrails: taking a stream out of the index, or away with all that tells of it but one thing, hides nothing.
func testHiddenTrails(r *rig) {
	number := 0
	for name, spoil := range map[string]func(*trail){
		"out of the index":                        func(t *trail) { t.raw("SREM", t.index, t.tenant) },
		"out of the index, an entry dropped":      func(t *trail) { t.raw("SREM", t.index, t.tenant); t.drop(1) },
		"out of the index, only the heads left":   func(t *trail) { t.raw("SREM", t.index, t.tenant); t.raw("DEL", t.stream) },
		"out of the index, only the entries left": func(t *trail) { t.raw("SREM", t.index, t.tenant); t.raw("DEL", t.heads) },
		"only the index left":                     func(t *trail) { t.raw("DEL", t.stream); t.raw("DEL", t.heads) },
		"an empty stream left": func(t *trail) {
			t.raw("SREM", t.index, t.tenant)
			t.drop(0, 1, 2)
			t.raw("DEL", t.heads)
		},
	} {
		t := r.trail(number)
		number++
		t.write(r.store(), 3)
		if number == 1 {
			r.verified(t.store)
		}
		spoil(t)
		if f := t.fault(); f == nil || !strings.HasPrefix(f.What, "dropped: ") {
			r.Errorf("%s: found %+v", name, f)
		}
	}
}

// testDeadWriters: what a process wrote can't be dropped after its end, its head neither, once another one has begun to
// write; and what is dropped is named by what is around it.
func testDeadWriters(r *rig) {
	type writers struct{ one, two *vault.Store }
	for i, c := range []struct {
		name  string
		write func(*trail, writers) (head []string) // returns the head of writer one
		drop  []int
		place string
		whole bool // the head of writer one stays
		lost  bool // a store that loses its last writes could have done it
	}{
		{"all, nothing newer", func(t *trail, w writers) []string { return t.write(w.one, 3) }, []int{0, 1, 2}, ">", false, false},
		{"all, newer ones of another", func(t *trail, w writers) []string {
			head := t.write(w.one, 3)
			t.write(w.two, 2)
			return head
		}, []int{0, 1, 2}, ">3", false, true},
		{"the end, newer ones of another", func(t *trail, w writers) []string {
			head := t.write(w.one, 3)
			t.write(w.two, 2)
			return head
		}, []int{1, 2}, "0+>3", false, false},
		{"all, ones of another before and after", func(t *trail, w writers) []string {
			t.write(w.two, 1)
			head := t.write(w.one, 2)
			t.write(w.two, 1)
			t.write(r.store(), 1)
			return head
		}, []int{1, 2}, ">4", false, true},
		{"two dead ones, of which the second attests the first", func(t *trail, w writers) []string {
			head := t.write(w.one, 2)
			second := t.write(w.two, 2)
			t.write(r.store(), 1)
			t.dropHead(second)
			return head
		}, []int{0, 1, 2, 3}, ">4", false, true},
		{"only the head", func(t *trail, w writers) []string { return t.write(w.one, 2) }, nil, "1+>", false, false},
		{"the middle, head and all else there", func(t *trail, w writers) []string { return t.write(w.one, 4) }, []int{2}, "1+>3", true, false},
		{"the end, head there", func(t *trail, w writers) []string { return t.write(w.one, 3) }, []int{2}, "1+>", true, false},
		{"the end, head there, newer ones of another that had begun before", func(t *trail, w writers) []string {
			t.write(w.two, 1)
			head := t.write(w.one, 2)
			t.write(w.two, 2)
			return head
		}, []int{2}, "1+>3", true, false},
		{"all, head there, others around", func(t *trail, w writers) []string {
			t.write(w.two, 1)
			head := t.write(w.one, 2)
			t.write(w.two, 2)
			return head
		}, []int{1, 2}, "0+>3", true, false},
	} {
		t := r.trail(i)
		head := c.write(t, writers{r.store(), r.store()})
		if i == 3 {
			r.verified(t.store)
		}
		t.drop(c.drop...)
		if !c.whole {
			t.dropHead(head)
		}
		f := t.fault()
		switch {
		case f == nil:
			r.Errorf("%s: not noticed", c.name)
		case !strings.HasPrefix(f.What, "dropped: ") || t.place(f) != c.place:
			r.Errorf("%s: %+v, at %s, want %s", c.name, f, t.place(f), c.place)
		case t.allLost != c.lost:
			r.Errorf("%s: passes for a loss: %v", c.name, t.allLost)
		}
	}
	// What can't be read itself is named so too.
	t := r.trail(100)
	t.write(r.store(), 3)
	ids := streamIDs(r, t.stream)
	rows := []map[string]string{rangeOne(r, t.stream, ids[0]), {"m": "bad", "b": "bad"}, rangeOne(r, t.stream, ids[2])}
	t.raw("DEL", t.stream)
	for i, row := range rows {
		t.raw("XADD", t.stream, ids[i], "m", row["m"], "b", row["b"])
	}
	if f := t.fault(); f == nil || f.Entry != ids[1] || t.place(f) != "0+>2" {
		r.Errorf("an unreadable entry: %+v", f)
	}
}
