package vaulttest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
)

// unswitched takes the table out of every shard, whatever the keyset: the next test begins without.
func (r *rig) unswitched() {
	r.Cleanup(func() {
		for _, key := range r.keys("tb:*:sw*") {
			_, _ = r.rawTry("DEL", key)
		}
	})
}

func off(name string) broker.Switch {
	return broker.Switch{Kind: broker.SwitchConnector, Tenant: "canary-tenant", Name: name, Since: time.Now().UTC().Truncate(time.Millisecond), By: "canary-op", Reason: "canary-why", Installation: true}
}

// names are what a table has off.
func names(table broker.SwitchTable) (all []string) {
	for _, one := range table.Off {
		all = append(all, one.Name)
	}
	slices.Sort(all)
	return all
}

// turnOff disables one thing more.
func (r *rig) turnOff(s *vault.Store, name string) {
	r.Helper()
	table, err := s.Switches(r.ctx())
	if err == nil {
		err = s.SetSwitches(r.ctx(), table, append(table.Off, off(name)))
	}
	if err != nil {
		r.Fatalf("disable %s: %v", name, err)
	}
}

func testSwitches(r *rig) {
	r.unswitched()
	a, b := r.store(), r.store()
	conn := r.connect(a, tenant(r), "u", "files", "1")
	conns, before, err := b.OfSubjectSwitched(r.ctx(), tenant(r), "u", "files")
	if err != nil || len(conns) != 1 || before.Mark != "" || len(before.Off) != 0 {
		r.Fatalf("before: %d connections, %+v, %v", len(conns), before, err)
	}
	stale, err := a.Switches(r.ctx())
	if err != nil {
		r.Fatal(err)
	}
	r.turnOff(a, "files")
	is(r, b.SetSwitches(r.ctx(), stale, []broker.Switch{off("crm")}), broker.ErrConflict, "a change of an older table")

	// The token that was about to leave by the table before stays.
	_, err = b.Release(r.ctx(), conns[0], "", entry(broker.EventTokenIssued, conn, "files.read"))
	is(r, err, broker.ErrConflict, "a release by an earlier table")
	if n := len(r.allEvents(a, tenant(r), broker.EventFilter{Type: broker.EventTokenIssued}, 10)); n != 0 {
		r.Fatalf("%d events of it", n)
	}
	_, now, err := b.OfSubjectSwitched(r.ctx(), tenant(r), "u", "files")
	if err != nil || !slices.Equal(names(now), []string{"files"}) || now.Mark == "" {
		r.Fatalf("read elsewhere: %+v, %v", now, err)
	}
	if got := now.Off[0]; got != off("files") && !got.Since.Equal(off("files").Since) && got.By != "canary-op" {
		r.Errorf("read back: %+v", got)
	}
	conn.Switches = now.Mark
	r.release(b, conn, "1")
	for i := range 20 {
		table, err := b.SwitchesFor(r.ctx(), tenant(r), fmt.Sprint("other-", i))
		if err != nil || !slices.Equal(names(table), []string{"files"}) {
			r.Fatalf("in another shard: %+v, %v", table, err)
		}
	}

	marks := r.keys("tb:*:sw")
	if len(marks) != 256 {
		r.Fatalf("%d copies", len(marks))
	}
	for _, key := range append(r.keys("tb:*:swb"), r.keys("tb:*:swh")...)[:3] {
		if stored := r.snapshot(key); strings.Contains(stored, "canary") || strings.Contains(stored, "files") {
			r.Errorf("in clear: %s", stored)
		}
	}

	// What is taken away counts where it was known, and comes back.
	shard := tag(a.Shard(tenant(r), "u"))
	r.raw("DEL", shard+"sw")
	r.raw("DEL", shard+"swb")
	_, now, err = b.OfSubjectSwitched(r.ctx(), tenant(r), "u", "files")
	if err != nil || !slices.Equal(names(now), []string{"files"}) || now.Mark != "" {
		r.Fatalf("taken away: %+v, %v", now, err)
	}
	if err := a.SpreadSwitches(r.ctx()); err != nil {
		r.Fatal(err)
	}
	// Asked by a process that knows nothing yet: from the copy, and from the home where the copy does not open.
	for _, damage := range []string{"", "x"} {
		if damage != "" {
			r.raw("HSET", shard+"swb", "b", damage)
		}
		if table, err := r.store().SwitchesFor(r.ctx(), tenant(r), "u"); err != nil || !slices.Equal(names(table), []string{"files"}) {
			r.Fatalf("asked elsewhere: %+v, %v", table, err)
		}
	}
	r.raw("HSET", shard+"sw", "v", "2")
	_, _, err = b.OfSubjectSwitched(r.ctx(), tenant(r), "u", "files")
	is(r, err, broker.ErrNewerFormat, "a newer format")
	r.raw("HSET", shard+"sw", "v", "1")

	table, err := b.Switches(r.ctx())
	if err != nil {
		r.Fatal(err)
	}
	if err := b.SetSwitches(r.ctx(), table, nil); err != nil {
		r.Fatal(err)
	}
	if table, err := a.SwitchesFor(r.ctx(), tenant(r), "u"); err != nil || len(table.Off) != 0 || table.Mark == "" {
		r.Fatalf("enabled again: %+v, %v", table, err)
	}
}

// testSwitchesTampered: whoever spoils the table, or what a shard has of it, can't keep operators from disabling something: what is known
// comes back, and where nothing is known a new one is made. Until then nothing is handed out where nobody knows what is disabled.
func testSwitchesTampered(r *rig) {
	r.unswitched()
	s := r.store()
	shard := tag(s.Shard(tenant(r), "u"))
	r.raw("HSET", shard+"sw", "v", "1", "wid", "forged") // before anything was ever disabled
	if table, err := s.SwitchesFor(r.ctx(), tenant(r), "u"); err == nil {
		r.Fatalf("decided by %+v", table)
	}
	if err := s.SpreadSwitches(r.ctx()); err != nil {
		r.Fatalf("a forged mark: %v", err)
	}
	if table, err := s.SwitchesFor(r.ctx(), tenant(r), "u"); err != nil || len(table.Off) != 0 {
		r.Fatalf("behind a forged mark: %+v, %v", table, err)
	}
	r.turnOff(s, "files")
	home := r.keys("tb:*:swh")[0]
	for name, spoil := range map[string]func(){
		"its sealed part": func() { r.raw("HSET", home, "b", "x", "wid", "forged") },
		"all of the home": func() { r.raw("DEL", home) },
		"a shard's, whole": func() {
			r.raw("HSET", shard+"sw", "wid", "forged")
			r.raw("HSET", shard+"swb", "wid", "forged", "b", "x")
		},
		"everything": func() {
			for _, key := range r.keys("tb:*:sw*") {
				r.raw("HSET", key, "wid", "forged", "b", "x")
			}
		},
	} {
		before, err := s.Switches(r.ctx())
		if err != nil {
			r.Fatalf("%s: before: %v", name, err)
		}
		spoil()
		r.turnOff(s, "more"+name)
		if err := s.SpreadSwitches(r.ctx()); err != nil {
			r.Fatalf("%s: %v", name, err)
		}
		for _, one := range []*vault.Store{s, r.store()} { // and one that knows nothing
			table, err := one.SwitchesFor(r.ctx(), tenant(r), "u")
			if err != nil || len(table.Off) != len(before.Off)+1 || !slices.Contains(names(table), "files") {
				r.Fatalf("%s: %q, %v", name, names(table), err)
			}
		}
	}
	// A process that knows of no table, where nothing of it opens, decides nothing and makes none: its keyset may be the wrong one.
	for _, key := range r.keys("tb:*:sw*") {
		r.raw("HSET", key, "wid", "forged", "b", "x")
	}
	fresh := r.store()
	if table, err := fresh.SwitchesFor(r.ctx(), tenant(r), "u"); err == nil {
		r.Fatalf("decided by %+v", table)
	}
	is(r, fresh.SpreadSwitches(r.ctx()), broker.ErrIntegrity, "spread what nobody knows")
	if err := s.SpreadSwitches(r.ctx()); err != nil {
		r.Fatal(err)
	}
	r.turnOff(fresh, "anew")
	if table, err := s.SwitchesFor(r.ctx(), tenant(r), "u"); err != nil || !slices.Contains(names(table), "files") || !slices.Contains(names(table), "anew") {
		r.Fatalf("brought back: %q, %v", names(table), err)
	}
}

// testSwitchesPartial: a change that some shards could not be given says so, counts elsewhere, and is completed by whoever looks next; so is
// one whose writer died behind its first write.
func testSwitchesPartial(r *rig) {
	r.unswitched()
	// Whoever waits gives up when all that can be written is.
	var out, home atomic.Bool
	var written atomic.Int64
	var giveUp context.CancelFunc
	s := r.troubledStore(&troubled{
		before: func(step vault.Step) error {
			if key := step.Writes[0].Key; out.Load() && strings.HasSuffix(key, ":swb") && (home.Load() || strings.HasPrefix(key, tag(7)) || strings.HasPrefix(key, tag(8))) {
				return errors.New("away")
			}
			return nil
		},
		after: func(step vault.Step) error {
			if copied := strings.HasSuffix(step.Writes[0].Key, ":swb"); out.Load() && (copied && written.Add(1) == 254 || home.Load()) {
				giveUp()
			}
			return nil
		},
	})
	other := r.store()
	for name, all := range map[string]bool{"two": false, "all": true} {
		table, err := s.Switches(r.ctx())
		home.Store(all)
		out.Store(true)
		if err != nil {
			r.Fatal(err)
		}
		ctx, cancel := contextWithTimeout(20 * time.Second)
		giveUp = cancel
		written.Store(0)
		err = s.SetSwitches(ctx, table, append(table.Off, off(name)))
		cancel()
		var partial *broker.PartialError
		if !errors.As(err, &partial) || all && partial.Missing != 256 || !all && partial.Missing != 2 || partial.Of != 256 {
			r.Fatalf("%s: %v", name, err)
		}
		out.Store(false)
		if err := other.SpreadSwitches(r.ctx()); err != nil {
			r.Fatal(err)
		}
		marks := map[string]int{}
		for _, key := range r.keys("tb:*:sw") {
			marks[r.raw("HGET", key, "wid")]++
		}
		if len(marks) != 1 || len(r.keys("tb:*:sw")) != 256 {
			r.Fatalf("%s: then the marks are %v", name, marks)
		}
		if table, err := other.SwitchesFor(r.ctx(), tenant(r), "u"); err != nil || !slices.Contains(names(table), name) {
			r.Fatalf("%s: %q, %v", name, names(table), err)
		}
	}
}

// testSwitchesParallel: of many changes at the same time none is lost, and then every shard has the last table.
func testSwitchesParallel(r *rig) {
	r.unswitched()
	stores := []*vault.Store{r.store(), r.store()}
	var group sync.WaitGroup
	for i := range 3 {
		group.Go(func() {
			for {
				table, err := stores[i%2].Switches(r.ctx())
				if err == nil {
					err = stores[i%2].SetSwitches(r.ctx(), table, append(table.Off, off(fmt.Sprint("c", i))))
				}
				if err == nil {
					return
				}
				if !errors.Is(err, broker.ErrConflict) {
					r.Errorf("change: %v", err)
					return
				}
			}
		})
	}
	group.Wait()
	want := []string{"c0", "c1", "c2"}
	mark := ""
	for i := range 50 {
		table, err := stores[i%2].SwitchesFor(r.ctx(), tenant(r), fmt.Sprint("u", i))
		if err != nil || !slices.Equal(names(table), want) || mark != "" && table.Mark != mark {
			r.Fatalf("%q with mark %s, want %q with mark %s, %v", names(table), table.Mark, want, mark, err)
		}
		mark = table.Mark
	}
}

// testLostSwitches: what a failover took back of the table is back with the first process that had seen it, and is joined with what
// was made in its place.
func testLostSwitches(p *pair) {
	writer, other := p.store(), p.store()
	p.turnOff(writer, "first")
	p.lose(func() {
		p.turnOff(writer, "lost")
		p.turnOff(writer, "lost-too")
	})
	p.within(startPatience, "the store answers", func() bool {
		_, err := other.SwitchesFor(p.ctx(), tenant(p.rig), "u")
		return err == nil
	})
	if table, err := writer.SwitchesFor(p.ctx(), tenant(p.rig), "u"); err != nil || !slices.Equal(names(table), []string{"first", "lost", "lost-too"}) {
		p.Fatalf("at the writer, right behind the failover: %q, %v", names(table), err)
	}
	p.turnOff(other, "meanwhile")
	want := []string{"first", "lost", "lost-too", "meanwhile"}
	if err := writer.SpreadSwitches(p.ctx()); err != nil {
		p.Fatal(err)
	}
	for _, s := range []*vault.Store{writer, other, p.store()} {
		for i := range 20 {
			table, err := s.SwitchesFor(p.ctx(), tenant(p.rig), fmt.Sprint("u", i))
			if err != nil || !slices.Equal(names(table), want) {
				p.Fatalf("%q, want %q, %v", names(table), want, err)
			}
		}
	}
}
