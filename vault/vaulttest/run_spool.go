package vaulttest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
)

// testSpool: the process ends between the provider's answer and the store; the next one has the token.
func testSpool(r *rig) {
	dir := filepath.Join(Dir(r), "spool")
	s := r.store(withSpool(dir))
	conn := r.connect(s, tenant(r), "u", "files", "1")
	files := func() []string {
		all, err := filepath.Glob(filepath.Join(dir, "*.spool"))
		if err != nil {
			r.Fatal(err)
		}
		return all
	}
	// The store that can't be reached stands for the process that dies before it wrote.
	dead := r.store(withSpool(dir), away)
	spoolOne := func(conn broker.Connection, tokens string) broker.Lease {
		r.Helper()
		lease, _, err := s.BeginRefresh(r.ctx(), conn, "x", time.Minute)
		if err != nil {
			r.Fatal(err)
		}
		ctx, cancel := contextWithTimeout(100 * time.Millisecond)
		defer cancel()
		if _, err := dead.CommitRefresh(ctx, lease, conn, "", r.grant(tokens), []broker.Entry{entry(broker.EventTokenRefreshed, conn)}); !errors.Is(err, broker.ErrSpooled) || errors.Is(err, broker.ErrConflict) {
			r.Fatalf("commit without a store: %v", err)
		}
		if len(files()) != 1 {
			r.Fatalf("spool: %v", files())
		}
		content, err := os.ReadFile(files()[0])
		if err != nil || bytes.Contains(content, []byte("canary")) {
			r.Fatal("the spool holds a token in clear")
		}
		info, err := os.Stat(files()[0])
		if err != nil || info.Mode().Perm() != 0o600 {
			r.Fatalf("mode of a spool file: %v, %v", info.Mode(), err)
		}
		return lease
	}
	spoolOne(conn, "2")
	next := r.store(withSpool(dir))
	for range 2 {
		if err := next.ReplaySpool(r.ctx()); err != nil {
			r.Fatal(err)
		}
	}
	if len(files()) != 0 {
		r.Fatalf("spool after the replay: %v", files())
	}
	conn, err := next.Connection(r.ctx(), tenant(r), conn.ID)
	if err != nil || conn.Generation != 2 {
		r.Fatalf("generation %d after the replay, %v", conn.Generation, err)
	}
	r.release(next, conn, "2")
	refreshed := func() int {
		return len(r.allEvents(next, tenant(r), broker.EventFilter{Type: broker.EventTokenRefreshed}, 10))
	}
	if refreshed() != 1 {
		r.Fatalf("%d refreshes recorded", refreshed())
	}
	// Replayed when somebody else has refreshed: kept as an alternate.
	lease := spoolOne(conn, "late")
	if _, err := s.CommitRefresh(r.ctx(), lease, conn, "", r.grant("3"), []broker.Entry{entry(broker.EventTokenRefreshed, conn)}); err != nil {
		r.Fatal(err)
	}
	if err := next.ReplaySpool(r.ctx()); err != nil {
		r.Fatal(err)
	}
	alternates, err := next.Alternates(r.ctx(), broker.Lease{}, conn)
	if err != nil || len(alternates) != 1 || alternates[0].Reveal() != "canary-rt-late" {
		r.Fatalf("alternates: %d, %v", len(alternates), err)
	}
	// A file that can't be read stays, is named, and is in nobody's way.
	bad := filepath.Join(dir, "bad.spool")
	if err := os.WriteFile(bad, []byte("x"), 0o600); err != nil {
		r.Fatal(err)
	}
	if conn, err = s.Connection(r.ctx(), tenant(r), conn.ID); err != nil {
		r.Fatal(err)
	}
	lease, _, err = s.BeginRefresh(r.ctx(), conn, "x", time.Minute)
	if err != nil {
		r.Fatal(err)
	}
	if _, err := s.CommitRefresh(r.ctx(), lease, conn, "", r.grant("4"), nil); err != nil {
		r.Fatal(err)
	}
	is(r, next.ReplaySpool(r.ctx()), broker.ErrIntegrity, "a file that can't be read")
	if err := os.Remove(bad); err != nil {
		r.Fatalf("the unreadable file was removed: %v", err)
	}
	r.verified(s)
}

// testNotSpooled: only a grant that is safe on disk counts as spooled, and only while the store has not decided about it.
func testNotSpooled(r *rig) {
	dir := filepath.Join(Dir(r), "spool")
	s := r.store(withSpool(dir))
	bare, dead := r.store(away), r.store(withSpool(dir), away)
	conn := r.connect(s, tenant(r), "u", "files", "1")
	lease, _, err := s.BeginRefresh(r.ctx(), conn, "x", time.Minute)
	if err != nil {
		r.Fatal(err)
	}
	commit := func(to *vault.Store) error {
		ctx := r.ctx()
		if to != s {
			var cancel context.CancelFunc
			ctx, cancel = contextWithTimeout(100 * time.Millisecond)
			defer cancel()
		}
		_, err := to.CommitRefresh(ctx, lease, conn, "", r.grant("2"), nil)
		return err
	}
	for range 2 { // the second finds its file there
		is(r, commit(dead), broker.ErrSpooled, "with a spool")
	}
	if err := commit(bare); err == nil || errors.Is(err, broker.ErrSpooled) {
		r.Fatalf("without a spool: %v", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		r.Fatal(err)
	}
	if err := commit(dead); err == nil || errors.Is(err, broker.ErrSpooled) {
		r.Fatalf("with a spool that can't be written to: %v", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		r.Fatal(err)
	}
	if err := commit(s); err != nil {
		r.Fatal(err)
	}
	lease.Owner, lease.Fence = lease.Owner+"x", lease.Fence+1
	if err := commit(s); !errors.Is(err, broker.ErrConflict) || errors.Is(err, broker.ErrSpooled) {
		r.Fatalf("too late: %v", err)
	}
}

// testOrphans: what the spool holds for a connection that was revoked, or became another account's, is revoked upstream:
// in its own time, and again until that has worked.
func testOrphans(r *rig) {
	dir := filepath.Join(Dir(r), "spool")
	s := r.store()
	for _, subject := range []string{"revoked", "replaced", "kept"} {
		conn := r.connect(s, tenant(r), subject, "files", "1")
		lease, _, err := s.BeginRefresh(r.ctx(), conn, "x", time.Minute)
		if err != nil {
			r.Fatal(err)
		}
		dead := r.store(withSpool(dir), away)
		ctx, cancel := contextWithTimeout(100 * time.Millisecond)
		if _, err := dead.CommitRefresh(ctx, lease, conn, "", r.grant(subject), nil); err == nil {
			r.Fatal("commit without a store")
		}
		cancel()
		switch subject {
		case "revoked":
			if _, err := s.BeginRevoke(r.ctx(), tenant(r), conn.ID, nil); err != nil {
				r.Fatal(err)
			}
		case "replaced":
			conn.Account = broker.Account{ID: "acc-2"}
			r.renew(s, conn, "2")
		}
	}
	files := func() int {
		all, err := filepath.Glob(filepath.Join(dir, "*.spool"))
		if err != nil {
			r.Fatal(err)
		}
		return len(all)
	}
	var mu sync.Mutex
	var orphans []string
	var least time.Duration
	var refuse error
	next := r.store(withSpool(dir), func(vc *vault.Config, _ *redisstore.Config) {
		vc.Orphan = func(ctx context.Context, conn broker.Connection, grant broker.Grant) error {
			mu.Lock()
			defer mu.Unlock()
			end, ok := ctx.Deadline()
			if left := time.Until(end); !ok || least == 0 || left < least {
				least = left
			}
			if conn.Account.ID != "acc-1" {
				r.Errorf("orphan of account %q", conn.Account.ID)
			}
			orphans = append(orphans, grant.RefreshToken.Reveal())
			return refuse
		}
	})
	refuse = errors.New("provider away")
	ctx, cancel := contextWithTimeout(time.Hour)
	defer cancel()
	for round := 1; round <= 2; round++ {
		if err := next.ReplaySpool(ctx); !errors.Is(err, refuse) {
			r.Fatalf("replay with a provider that is away: %v", err)
		}
		if len(orphans) != 2*round || files() != 2 {
			r.Fatalf("round %d: orphans %q, %d files", round, orphans, files())
		}
	}
	refuse = nil
	for range 2 {
		if err := next.ReplaySpool(ctx); err != nil {
			r.Fatal(err)
		}
	}
	slices.Sort(orphans)
	if want := []string{"canary-rt-replaced", "canary-rt-revoked"}; len(orphans) != 6 || !slices.Equal(slices.Compact(orphans), want) || files() != 0 {
		r.Fatalf("orphans %q, %d files", orphans, files())
	}
	// broker.Config.UpstreamTimeout is 35 s.
	if least < 35*time.Second || least > time.Minute {
		r.Fatalf("an orphan's revocation has %v", least)
	}
	r.verified(s)
}
