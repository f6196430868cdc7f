package vaulttest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
)

// RunFaults does to a redis-server what happens to one: answers that get lost, hangs, crashes, no memory (faults.md). It
// starts its own.
func RunFaults(t *testing.T) {
	tests := []struct {
		name string
		run  func(*rig)
	}{
		{"lost answers", testLostAnswers},
		{"lost answers in parallel", testLostAnswersInParallel},
		{"asked once, and again when that is over", testOnceOver},
		{"hang", testHang},
		{"hang at the begin of a refresh", testHangAtBegin},
		{"crash", testCrash},
		{"no memory", testNoMemory},
		{"read-only", testReadOnly},
		{"doubled", testDoubled},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			server := StartRedis(t)
			test.run(newRig(t, Topology{URL: server.URL(), Addrs: []string{server.Addr}, Redis: server}))
		})
	}
}

// testLostAnswers loses the answer of every kind of write: each takes effect, once, and its caller hears so.
func testLostAnswers(r *rig) {
	proxy := StartProxy(r, r.Redis.Addr)
	s := r.store(through(proxy))
	count := func(kind broker.EventType) int {
		return len(r.allEvents(s, tenant(r), broker.EventFilter{Type: kind}, 1000))
	}
	for losses := 1; losses <= 3; losses++ {
		lose := func() {
			r.Helper()
			if _, err := s.Connection(r.ctx(), tenant(r), recordID(s, tenant(r), "x")); !errors.Is(err, broker.ErrNotFound) {
				r.Fatal(err) // a connection is open now
			}
			proxy.LoseAnswers(losses)
		}
		lost := func(what string, err error) {
			r.Helper()
			if err != nil {
				r.Fatalf("%s with %d lost answers: %v", what, losses, err)
			}
			if proxy.Left() != 0 {
				r.Fatalf("%s: no answer was lost", what)
			}
		}
		subject := fmt.Sprintf("u%d", losses)
		// The first step of a stream reads before it writes: the answer to be lost is the write's.
		if err := s.Append(r.ctx(), entry(broker.EventConsentFailed, broker.Connection{Tenant: tenant(r), Subject: subject})); err != nil {
			r.Fatal(err)
		}
		lose()
		consent, err := s.CreateConsent(r.ctx(), newConsent(s, tenant(r), subject), "once", []broker.Entry{entry(broker.EventConsentCreated, broker.Connection{Tenant: tenant(r), Subject: subject})})
		lost("create consent", err)
		lose()
		_, err = s.CreateConsent(r.ctx(), newConsent(s, tenant(r), subject), "twice", nil)
		lost("create consent without an entry", err)
		consent.Status = broker.ConsentStarted
		lose()
		consent, err = s.UpdateConsent(r.ctx(), consent, nil)
		lost("update consent", err)
		lose()
		consent, err = s.UpdateConsent(r.ctx(), consent, []broker.Entry{entry(broker.EventConsentStarted, broker.Connection{Tenant: tenant(r), Subject: subject})})
		lost("update consent with an entry", err)
		conn := broker.Connection{ID: recordID(s, tenant(r), subject), Tenant: tenant(r), Subject: subject, Connector: "files", Status: broker.ConnectionActive, CreatedAt: time.Now()}
		consent.Status = broker.ConsentCompleted
		lose()
		conn, err = s.CompleteConsent(r.ctx(), consent, conn, r.grant("1"), []broker.Entry{entry(broker.EventConsentCompleted, conn)})
		lost("complete consent", err)
		lose()
		_, err = s.Release(r.ctx(), conn, "", entry(broker.EventTokenIssued, conn, "a"))
		lost("release", err)
		lose()
		lease, token, err := s.BeginRefresh(r.ctx(), conn, "x", time.Minute)
		lost("begin refresh", err)
		if token.Reveal() != "canary-rt-1" {
			r.Fatalf("refresh token: %q", token.Reveal())
		}
		lose()
		conn, err = s.CommitRefresh(r.ctx(), lease, conn, "", r.grant("2"), []broker.Entry{entry(broker.EventTokenRefreshed, conn)})
		lost("commit refresh", err)
		if conn.Generation != 2 {
			r.Fatalf("generation %d", conn.Generation)
		}
		if lease, _, err = s.BeginRefresh(r.ctx(), conn, "x", time.Minute); err != nil {
			r.Fatal(err)
		}
		lose()
		conn, err = s.FailRefresh(r.ctx(), lease, conn, nil)
		lost("fail refresh", err)
		lose()
		left, err := s.BeginRevoke(r.ctx(), tenant(r), conn.ID, []broker.Entry{entry(broker.EventConnectionRevoked, conn)})
		lost("begin revocation", err)
		if left.RefreshToken.Reveal() != "canary-rt-2" {
			r.Fatal("no refresh token left to revoke")
		}
		lose()
		lost("end revocation", s.EndRevoke(r.ctx(), tenant(r), conn.ID, broker.RevokedDone, losses > 1))
		lose()
		lost("append", s.Append(r.ctx(), entry(broker.EventOperatorViewed, broker.Connection{Tenant: tenant(r)})))
		lose()
		lost("save session", s.SaveSession(r.ctx(), broker.NewSecret("s"), []byte("x"), time.Now().Add(time.Hour)))
		for _, kind := range []broker.EventType{
			broker.EventConsentCreated, broker.EventConsentStarted, broker.EventConsentCompleted, broker.EventTokenIssued, broker.EventTokenRefreshed, broker.EventConnectionRevoked, broker.EventOperatorViewed,
		} {
			if n := count(kind); n != losses {
				r.Fatalf("%s: %d events of %d", kind, n, losses)
			}
		}
	}
	r.verified(s)
}

func testLostAnswersInParallel(r *rig) {
	proxy := StartProxy(r, r.Redis.Addr)
	stores := []*vault.Store{r.store(through(proxy)), r.store(through(proxy))}
	conn := r.connect(stores[0], tenant(r), "u", "files", "1")
	var group sync.WaitGroup
	var releases, successes atomic.Int64
	counter, err := stores[0].CreateConsent(r.ctx(), newConsent(stores[0], tenant(r), "u"), "", nil)
	if err != nil {
		r.Fatal(err)
	}
	for i := range 16 {
		s := stores[i%2]
		group.Go(func() {
			for range 30 {
				if _, err := s.Release(r.ctx(), conn, "", entry(broker.EventTokenIssued, conn, "a")); err != nil {
					r.Errorf("release: %v", err)
					continue
				}
				releases.Add(1)
				c, err := s.Consent(r.ctx(), counter.ID)
				if err != nil {
					continue // reads give up sooner
				}
				c.Attempts++
				switch _, err := s.UpdateConsent(r.ctx(), c, []broker.Entry{entry(broker.EventConsentFailed, conn)}); {
				case err == nil:
					successes.Add(1)
				case !errors.Is(err, broker.ErrConflict):
					r.Errorf("update: %v", err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { group.Wait(); close(done) }()
	// One answer for every few that arrive, however fast that is: the same call must not lose each of its attempts.
	lost, next := 0, int64(5)
	for running := true; running; {
		select {
		case <-done:
			running = false
		case <-time.After(time.Millisecond):
			if arrived := releases.Load() + successes.Load(); proxy.Left() == 0 && arrived >= next {
				proxy.LoseAnswers(1)
				lost, next = lost+1, arrived+5
			}
		}
	}
	proxy.LoseAnswers(0)
	if lost < 10 {
		r.Fatalf("only %d answers were lost", lost)
	}
	plain := r.store()
	if got := len(r.allEvents(plain, tenant(r), broker.EventFilter{Type: broker.EventTokenIssued, Subject: "u"}, 1000)); int64(got) != releases.Load() {
		r.Fatalf("%d events of %d releases, %d answers lost", got, releases.Load(), lost)
	}
	end, err := plain.Consent(r.ctx(), counter.ID)
	if err != nil || int64(end.Attempts) != successes.Load() {
		r.Fatalf("counter %d after %d successes: %v", end.Attempts, successes.Load(), err)
	}
	if got := len(r.allEvents(plain, tenant(r), broker.EventFilter{Type: broker.EventConsentFailed, Subject: "u"}, 1000)); int64(got) != successes.Load() {
		r.Fatalf("%d events of %d updates", got, successes.Load())
	}
	r.verified(plain)
}

// testHang: a server that hangs costs its callers their deadline and no more, and what it does late is recognised.
func testHang(r *rig) {
	s := r.store()
	conn := r.connect(s, tenant(r), "u", "files", "1")
	r.release(s, conn, "1")
	var known atomic.Int64
	known.Store(1)
	for range 3 {
		r.Redis.Pause()
		var group sync.WaitGroup
		began := time.Now()
		for range 8 {
			group.Go(func() {
				ctx, cancel := contextWithTimeout(250 * time.Millisecond)
				defer cancel()
				if _, err := s.Release(ctx, conn, "", entry(broker.EventTokenIssued, conn, "a", "b")); err == nil {
					r.Error("a token left while the store hung")
				}
			})
		}
		group.Wait()
		if took := time.Since(began); took > time.Second {
			r.Fatalf("callers with 250 ms waited %v", took)
		}
		r.Redis.Resume()
		r.within(10*time.Second, "works again", func() bool {
			_, err := s.Release(r.ctx(), conn, "", entry(broker.EventTokenIssued, conn, "a", "b"))
			if err == nil {
				known.Add(1)
			}
			return err == nil
		})
	}
	s.Close()
	events := r.allEvents(s, tenant(r), broker.EventFilter{Type: broker.EventTokenIssued}, 1000)
	ids := make(map[string]bool)
	for _, e := range events {
		if ids[e.ID] {
			r.Fatal("an event is there twice")
		}
		ids[e.ID] = true
	}
	if int64(len(events)) < 2*known.Load() {
		r.Fatalf("%d events of at least %d releases", len(events), known.Load())
	}
	r.verified(s)
}

// testCrash: what was acknowledged is there after a crash, and writing goes on.
func testCrash(r *rig) {
	s := r.store()
	conn := r.connect(s, tenant(r), "u", "files", "1")
	for i := 2; i <= 4; i++ {
		lease, _ := r.begin(s, conn, "x") // once the shard has settled after the start
		var err error
		if conn, err = s.CommitRefresh(r.ctx(), lease, conn, "", r.grant(fmt.Sprint(i)), []broker.Entry{entry(broker.EventTokenRefreshed, conn)}); err != nil {
			r.Fatal(err)
		}
		r.Redis.Kill()
		ctx, cancel := contextWithTimeout(200 * time.Millisecond)
		if _, err := s.Release(ctx, conn, "", entry(broker.EventTokenIssued, conn, "a")); err == nil {
			r.Fatal("a token left without a store")
		}
		cancel()
		r.Redis.Start()
		r.release(s, conn, fmt.Sprint(i))
	}
	if n := r.verified(s).Entries; n < 2+3+3 {
		r.Fatalf("%d entries", n)
	}
}

func testNoMemory(r *rig) {
	s := r.store()
	conn := r.connect(s, tenant(r), "u", "files", "1")
	key := r.connKey(s, conn)
	before := r.snapshot(key)
	r.raw("CONFIG", "SET", "maxmemory", "1")
	short := func(do func() error) {
		r.Helper()
		if err := do(); !errors.Is(err, redisstore.ErrUnavailable) && !strings.Contains(fmt.Sprint(err), "deadline") {
			r.Fatalf("without memory: %v", err)
		}
	}
	ctx, cancel := contextWithTimeout(300 * time.Millisecond)
	defer cancel()
	short(func() error {
		_, err := s.Release(ctx, conn, "", entry(broker.EventTokenIssued, conn, "a"))
		return err
	})
	ctx, cancel = contextWithTimeout(300 * time.Millisecond)
	defer cancel()
	short(func() error {
		_, err := s.BeginRevoke(ctx, tenant(r), conn.ID, []broker.Entry{entry(broker.EventConnectionRevoked, conn)})
		return err
	})
	if after := r.snapshot(key); after != before {
		r.Fatal("a refused step left something behind")
	}
	r.raw("CONFIG", "SET", "maxmemory", "0")
	r.release(s, conn, "1")
	r.verified(s)
}

func testReadOnly(r *rig) {
	s := r.store()
	conn := r.connect(s, tenant(r), "u", "files", "1")
	r.raw("REPLICAOF", "127.0.0.1", "1")
	ctx, cancel := contextWithTimeout(300 * time.Millisecond)
	defer cancel()
	if _, err := s.Release(ctx, conn, "", entry(broker.EventTokenIssued, conn, "a")); err == nil {
		r.Fatal("a token left from a read-only replica")
	}
	r.raw("REPLICAOF", "NO", "ONE")
	r.release(s, conn, "1")
	r.verified(s)
}

// RunFailover kills the master behind a sentinel: writing goes on with the replica, and nothing that was acknowledged by
// both is lost.
func RunFailover(t *testing.T, s *Sentinel) {
	r := newRig(t, Topology{URL: s.URL(), Addrs: []string{s.Replica.Addr}, Redis: s.Replica})
	store := r.store()
	conn := r.connect(store, tenant(r), "u", "files", "1")
	r.release(store, conn, "1")
	must(t, s.Master.Addr, "WAIT", "1", "5000")
	r.within(10*time.Second, "the replica has it", func() bool {
		n, err := Command(s.Replica.Addr, "HGET", r.connKey(store, conn), "gen")
		return err == nil && n == "1"
	})
	s.Master.Kill()
	r.within(30*time.Second, "a release after the failover", func() bool {
		ctx, cancel := contextWithTimeout(time.Second)
		defer cancel()
		token, err := store.Release(ctx, conn, "", entry(broker.EventTokenIssued, conn, "a"))
		return err == nil && token.Reveal() == "canary-at-1"
	})
	// Verify reads over several connections. After so many failed dials the client looks for the new master once a second.
	r.within(10*time.Second, "the trail can be read", func() bool {
		_, err := store.Verify(r.ctx())
		return err == nil
	})
	r.verified(store)
}

// doubled is a backend that carries every step out twice, as a client that repeats blindly does; the second answer counts.
type doubled struct{ vault.Backend }

func (d doubled) Apply(ctx context.Context, steps []vault.Step) []vault.Result {
	d.Backend.Apply(ctx, steps)
	return d.Backend.Apply(ctx, steps)
}

func testDoubled(r *rig) {
	s, err := vault.New(vault.Config{Backend: doubled{r.backend()}, Keyset: r.keyset, Now: time.Now, Random: rand.Reader, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(s.Close)
	conn := r.connect(s, tenant(r), "u", "files", "1")
	for i := 2; i < 5; i++ {
		r.release(s, conn, fmt.Sprint(i-1))
		lease, _, err := s.BeginRefresh(r.ctx(), conn, "x", time.Minute)
		if err != nil {
			r.Fatal(err)
		}
		if conn, err = s.CommitRefresh(r.ctx(), lease, conn, "", r.grant(fmt.Sprint(i)), []broker.Entry{entry(broker.EventTokenRefreshed, conn)}); err != nil {
			r.Fatal(err)
		}
	}
	report := r.verified(s)
	if want := 2 + 3*2; report.Entries != want {
		r.Fatalf("%d entries, want %d", report.Entries, want)
	}
	// What was repeated is not taken for a loss, after which another chain would begin.
	writers := 0
	for _, f := range lines(r.raw("HKEYS", tag(s.Shard(tenant(r), "u"))+"h:"+tenant(r))) {
		if !strings.HasSuffix(f, vault.HeadIDSuffix) {
			writers++
		}
	}
	if writers != 1 {
		r.Fatalf("%d chains of one process", writers)
	}
}
