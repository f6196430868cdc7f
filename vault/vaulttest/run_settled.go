package vaulttest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
)

// settled lists the files of settled commits in a spool, and demands that there are no others.
func (r *rig) settled(dir string) int {
	r.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		r.Fatal(err)
	}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".settled") {
			r.Fatalf("the spool holds %s", f.Name())
		}
	}
	return len(files)
}

// testSpoolRemembers: the process that wrote is gone, and its spool is what the next one has. What is settled heals what is
// behind it, and does nothing else.
func testSpoolRemembers(p *pair, failures int) {
	dir := filepath.Join(Dir(p), "spool")
	writer, other := p.store(withSpool(dir)), p.store()
	conn := p.connect(writer, tenant(p.rig), "u", "files", "1")
	p.lose(func() { p.refresh(writer, p.refresh(writer, conn, "2"), "3") })
	if n := p.settled(dir); n != 1 { // the last of a connection is enough
		p.Fatalf("%d files", n)
	}
	// The store went on by failures meanwhile.
	for range failures {
		lease, _ := p.begin(other, conn, "y")
		p.fail(other, lease, p.now(other, conn), func(c *broker.Connection) {})
	}
	p.process(withSpool(dir))
	p.healed(other, conn, fmt.Sprint(max(3, failures+2)))
	if _, token := p.begin(other, conn, "y"); token != "canary-rt-3" {
		p.Fatalf("refresh token %q", token)
	}
	p.release(other, p.now(other, conn), "3")
	if p.events(other, broker.EventTokenRefreshed) != 1 {
		p.Fatal("the refresh that the spool brought back has no event")
	}
}

func testSpoolRemembersConnection(p *pair) {
	dir := filepath.Join(Dir(p), "spool")
	writer := p.store(withSpool(dir))
	var conn broker.Connection
	p.lose(func() { conn = p.refresh(writer, p.connect(writer, tenant(p.rig), "u", "files", "1"), "2") })
	next := p.store(withSpool(dir))
	p.within(startPatience, "replayed", func() bool { return next.ReplaySpool(p.ctx()) == nil })
	all, err := next.OfSubject(p.ctx(), conn.Tenant, "u", "files")
	if err != nil || len(all) != 1 || all[0].Generation != 2 || all[0].Account != conn.Account {
		p.Fatalf("of subject: %+v, %v", all, err)
	}
	p.release(next, all[0], "2")
}

// testSettledBeforeReplay: the next process of the spool meets the record that was set back before it has read its spool to the
// end, and the record's refresh token is dead.
func testSettledBeforeReplay(p *pair) {
	dir := filepath.Join(Dir(p), "spool")
	writer := p.store(withSpool(dir))
	conn := p.connect(writer, tenant(p.rig), "u", "files", "1")
	p.lose(func() { p.refresh(writer, conn, "2") })
	next := p.store(withSpool(dir))
	lease, token := p.begin(next, conn, "y")
	if token != "canary-rt-1" {
		p.Fatalf("refresh token %q: nothing was lost", token)
	}
	// It comes back before anybody sends it: else the replay, which does the same, and this process would both send it.
	_, err := next.Alternates(p.ctx(), lease, conn)
	is(p.rig, err, broker.ErrConflict, "alternates while the record comes back")
	conn = p.now(next, conn)
	lease, token = p.begin(next, conn, "y")
	if token != "canary-rt-2" {
		p.Fatalf("refresh token %q", token)
	}
	if tokens, err := next.Alternates(p.ctx(), lease, conn); err != nil || len(tokens) != 0 {
		p.Fatalf("%d alternates beside the same refresh token, %v", len(tokens), err)
	}
}

// testSettled: a settled commit never becomes an alternate, and its file goes after a while, or with the connection.
func testSettled(r *rig) {
	dir := filepath.Join(Dir(r), "spool")
	var ahead atomic.Int64
	clock := func(vc *vault.Config, _ *redisstore.Config) {
		vc.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	}
	s := r.store(withSpool(dir), clock)
	conn := r.refresh(s, r.connect(s, tenant(r), "u", "files", "1"), "2")
	erased := r.refresh(s, r.connect(s, tenant(r), "v", "files", "1"), "2")
	if n := r.settled(dir); n != 2 {
		r.Fatalf("%d files of two settled commits", n)
	}
	if _, err := s.BeginRevoke(r.ctx(), tenant(r), erased.ID, nil); err != nil {
		r.Fatal(err)
	}
	if err := s.EndRevoke(r.ctx(), tenant(r), erased.ID, broker.RevokedDone, true); err != nil {
		r.Fatal(err)
	}
	if n := r.settled(dir); n != 1 {
		r.Fatalf("%d files after an erasure", n)
	}
	// Another process went on; the next process of the spool finds nothing to do, and keeps nothing.
	next, other := r.store(withSpool(dir), clock), r.store()
	if err := next.ReplaySpool(r.ctx()); err != nil {
		r.Fatal(err)
	}
	if n := r.settled(dir); n != 1 {
		r.Fatalf("%d files while it is the last write", n)
	}
	conn = r.refresh(other, conn, "3")
	if err := next.ReplaySpool(r.ctx()); err != nil {
		r.Fatal(err)
	}
	if n := r.settled(dir); n != 0 {
		r.Fatalf("%d files of what is not the last write any more", n)
	}
	if alternates, err := next.Alternates(r.ctx(), broker.Lease{}, conn); err != nil || len(alternates) != 0 {
		r.Fatalf("%d alternates, %v: a used refresh token became one", len(alternates), err)
	}
	r.release(other, conn, "3")
	// Its own go after a while.
	r.refresh(s, conn, "4")
	for _, step := range []struct {
		ahead time.Duration
		files int
	}{{50 * time.Second, 1}, {2 * time.Minute, 0}} {
		ahead.Store(int64(step.ahead))
		if err := s.ReplaySpool(r.ctx()); err != nil {
			r.Fatal(err)
		}
		if n := r.settled(dir); n != step.files {
			r.Fatalf("%d files after %v", n, step.ahead)
		}
	}
}

// testSettledWhileUnhealed: what the store may have lost is not looked after yet, so the file that could heal it stays beyond its
// time.
func testSettledWhileUnhealed(r *rig) {
	dir := filepath.Join(Dir(r), "spool")
	var ahead atomic.Int64
	s := r.store(withSpool(dir), func(vc *vault.Config, _ *redisstore.Config) {
		vc.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	r.refresh(s, r.connect(s, tenant(r), "u", "files", "1"), "2")
	ahead.Store(int64(2 * time.Minute))
	s.Changed()
	for _, files := range []int{1, 0} {
		if err := s.ReplaySpool(r.ctx()); err != nil {
			r.Fatal(err)
		}
		if n := r.settled(dir); n != files {
			r.Fatalf("%d files, want %d", n, files)
		}
		if err := s.Heal(r.ctx()); err != nil {
			r.Fatal(err)
		}
	}
}

// testSettledTwice: a crash has left two files of one connection, and the store lost both commits. The newer one comes back,
// whatever the files are called: the older one's refresh token is used.
func testSettledTwice(r *rig) {
	for range 6 { // files are read in the order of their names, which are random
		dir := filepath.Join(Dir(r), "spool")
		s := r.store(withSpool(dir))
		subject := recordID(s, tenant(r), "name")
		conn := r.connect(s, tenant(r), subject, "files", "1")
		key := r.connKey(s, conn)
		was := []string{"HSET", key}
		for _, f := range lines(r.raw("HKEYS", key)) {
			was = append(was, f, r.raw("HGET", key, f))
		}
		conn = r.refresh(s, conn, "2")
		files, err := os.ReadDir(dir)
		if err != nil || len(files) != 1 {
			r.Fatalf("%d files, %v", len(files), err)
		}
		older := filepath.Join(dir, files[0].Name())
		content, err := os.ReadFile(older)
		if err != nil {
			r.Fatal(err)
		}
		r.refresh(s, conn, "3")
		if err := os.WriteFile(older, content, 0o600); err != nil {
			r.Fatal(err)
		}
		r.raw("DEL", key)
		r.raw(was...)
		healed := 0
		next := r.store(withSpool(dir), func(vc *vault.Config, _ *redisstore.Config) {
			vc.Count = func(what vault.Counted) {
				if what == vault.CountHealed {
					healed++
				}
			}
		})
		if err := next.ReplaySpool(r.ctx()); err != nil {
			r.Fatal(err)
		}
		if healed != 1 {
			r.Fatalf("written back %d times: the older one, whose refresh token is used, was there for a while", healed)
		}
		now, err := next.Connection(r.ctx(), tenant(r), conn.ID)
		if err != nil {
			r.Fatal(err)
		}
		_, token, err := next.BeginRefresh(r.ctx(), now, "next", time.Minute)
		if err != nil || token.Reveal() != "canary-rt-3" {
			r.Fatalf("the next one would send %q, %v", token.Reveal(), err)
		}
	}
}
