package vaulttest

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
)

// counted counts the round trips of a store.
type counted struct {
	vault.Backend
	trips atomic.Int64
}

func (c *counted) Apply(ctx context.Context, steps []vault.Step) []vault.Result {
	c.trips.Add(1)
	return c.Backend.Apply(ctx, steps)
}

func (c *counted) Indexed(ctx context.Context, queries []vault.IndexQuery) ([][]vault.Indexed, error) {
	c.trips.Add(1)
	return c.Backend.Indexed(ctx, queries)
}

func (c *counted) Hashes(ctx context.Context, keys []string) ([]map[string][]byte, error) {
	c.trips.Add(1)
	return c.Backend.Hashes(ctx, keys)
}

// countedStore is a store whose round trips are counted.
func (r *rig) countedStore() (*vault.Store, *counted) {
	r.Helper()
	c := &counted{Backend: r.backend()}
	return r.store(func(vc *vault.Config, _ *redisstore.Config) { vc.Backend = c }), c
}

// served reads the subject's connections, as the first request for a token does, and returns what is remembered then.
func (r *rig) served(s *vault.Store, subject, connector string) broker.Guess {
	r.Helper()
	if _, _, err := s.OfSubjectSwitched(r.ctx(), tenant(r), subject, connector); err != nil {
		r.Fatal(err)
	}
	guess, ok := s.Guess(tenant(r), subject, connector)
	if !ok {
		r.Fatalf("nothing is remembered of %s", subject)
	}
	return guess
}

// guessed releases on a guess.
func (r *rig) guessed(s *vault.Store, guess broker.Guess) (broker.Connection, string, error) {
	r.Helper()
	about := broker.Connection{ID: guess.Connection, Tenant: guess.Tenant, Subject: guess.Subject, Connector: guess.Connector}
	conn, token, err := s.ReleaseGuessed(r.ctx(), guess, entry(broker.EventTokenIssued, about, guess.Scopes.All()...))
	return conn, token.Reveal(), err
}

// issued counts the entries of tokens that were let out.
func (r *rig) issued(s *vault.Store) (n int) {
	r.Helper()
	return len(r.allEvents(s, tenant(r), broker.EventFilter{Type: broker.EventTokenIssued, Scope: "files.read"}, 100))
}

// wrong demands that the guess was, that nothing was recorded, and that what was read is what reading returns.
func (r *rig) wrong(s *vault.Store, guess broker.Guess, what string) *broker.WrongGuess {
	r.Helper()
	before := r.issued(s)
	_, token, err := r.guessed(s, guess)
	var wrong *broker.WrongGuess
	if !errors.As(err, &wrong) || !wrong.Read || token != "" {
		r.Fatalf("%s: %v", what, err)
	}
	if n := r.issued(s) - before; n != 0 {
		r.Fatalf("%s: %d entries", what, n)
	}
	all, table, err := s.OfSubjectSwitched(r.ctx(), guess.Tenant, guess.Subject, guess.Connector)
	if (err == nil) != (wrong.Err == nil) || table.Mark != wrong.Table.Mark || len(all) != len(wrong.All) {
		r.Fatalf("%s: read %d connections and %+v (%v), reading anew %d and %+v (%v)", what, len(wrong.All), wrong.Table, wrong.Err, len(all), table, err)
	}
	for i := range all {
		if all[i].ID != wrong.All[i].ID || all[i].Generation != wrong.All[i].Generation || all[i].Status != wrong.All[i].Status || all[i].Account != wrong.All[i].Account {
			r.Fatalf("%s: read %+v, reading anew %+v", what, wrong.All[i], all[i])
		}
	}
	return wrong
}

// testGuess: a token whose connection was read before is let out in one round trip, and its entry is there.
func testGuess(r *rig) {
	r.unswitched()
	writer := r.store()
	conn := r.connect(writer, tenant(r), "u", "files", "1")
	r.connect(writer, tenant(r), "u", "crm", "2") // of another connector
	s, c := r.countedStore()
	if _, ok := s.Guess(tenant(r), "u", "files"); ok {
		r.Fatal("a guess about what was never read")
	}
	guess := r.served(s, "u", "files")
	if _, _, err := r.guessed(s, guess); err != nil { // the first entry of a chain looks where the others end
		r.Fatal(err)
	}
	trips, before := c.trips.Load(), r.issued(writer)
	got, token, err := r.guessed(s, guess)
	if err != nil || token != "canary-at-1" {
		r.Fatalf("released %q, %v", token, err)
	}
	if n := c.trips.Load() - trips; n != 1 {
		r.Errorf("%d round trips", n)
	}
	if n := r.issued(writer) - before; n != 1 {
		r.Errorf("%d entries", n)
	}
	now := r.now(writer, conn)
	if got.ID != conn.ID || got.Account != now.Account || got.Subject != "u" || got.Generation != now.Generation || got.Extra["instance_url"] != now.Extra["instance_url"] || !got.Scopes.Equal(now.Scopes) {
		r.Errorf("returned %+v, stored %+v", got, now)
	}
	if now.LastIssued.IsZero() || time.Since(now.LastIssued) > time.Minute {
		r.Errorf("its use is noted as %v", now.LastIssued)
	}
	for _, other := range [][3]string{{tenant(r) + "-other", "u", "files"}, {tenant(r), "v", "files"}, {tenant(r), "u", "mail"}, {tenant(r), "u", ""}} {
		if g, ok := s.Guess(other[0], other[1], other[2]); ok {
			r.Errorf("a guess about %v: %+v", other, g)
		}
	}
	r.verified(writer)
}

// testWrongGuess: each change since is noticed by the step itself, whoever made it.
func testWrongGuess(r *rig) {
	r.unswitched()
	s, other := r.store(), r.store()
	for _, tc := range []struct {
		what   string
		change func(conn broker.Connection)
	}{
		{"refreshed", func(conn broker.Connection) {
			lease := r.taken(other, conn, "x", time.Minute)
			if _, err := other.CommitRefresh(r.ctx(), lease, conn, "", r.grant("2"), nil); err != nil {
				r.Fatal(err)
			}
		}},
		{"revoked", func(conn broker.Connection) { r.disconnect(other, conn, false) }},
		{"erased", func(conn broker.Connection) { r.disconnect(other, conn, true) }},
		{"consented again", func(conn broker.Connection) { r.renew(other, r.now(other, conn), "3") }},
		{"a second account", func(conn broker.Connection) { r.connect(other, tenant(r), conn.Subject, "files", "4") }},
		{"a connection to another connector", func(conn broker.Connection) { r.connect(other, tenant(r), conn.Subject, "crm", "5") }},
		{"disabled", func(broker.Connection) { r.turnOff(other, "files") }},
		{"gone", func(conn broker.Connection) { r.raw("DEL", r.connKey(s, conn)) }},
	} {
		conn := r.connect(other, tenant(r), "u "+tc.what, "files", "1")
		guess := r.served(s, conn.Subject, "files")
		tc.change(conn)
		wrong := r.wrong(s, guess, tc.what)
		if tc.what == "disabled" && len(wrong.Table.Off) != 1 {
			r.Errorf("disabled: read %+v", wrong.Table)
		}
	}
	r.verified(s)
}

// testGuessAfterLoss: what this process wrote and the store lost is not passed over: the guess that fits what the store went back to
// is not made, and a reader brings the write back.
func testGuessAfterLoss(r *rig) {
	for _, tc := range []struct {
		what string
		do   func(s *vault.Store, conn broker.Connection)
		has  broker.ConnectionStatus
	}{
		{"a refresh", func(s *vault.Store, conn broker.Connection) { r.refresh(s, conn, "2") }, broker.ConnectionActive},
		{"a revocation", func(s *vault.Store, conn broker.Connection) { r.disconnect(s, conn, false) }, broker.ConnectionRevoked},
		{"the begin of a revocation", func(s *vault.Store, conn broker.Connection) {
			if _, err := s.BeginRevoke(r.ctx(), conn.Tenant, conn.ID, nil); err != nil {
				r.Fatal(err)
			}
		}, broker.ConnectionRevoked},
	} {
		s := r.store()
		conn := r.connect(r.store(), tenant(r), "u "+tc.what, "files", "1")
		r.served(s, conn.Subject, "files")
		setBack := r.saved(s, conn)
		tc.do(s, conn)
		setBack()
		if guess, ok := s.Guess(conn.Tenant, conn.Subject, "files"); ok {
			r.Fatalf("%s was lost, and a guess is made: %+v", tc.what, guess)
		}
		all, _, err := s.OfSubjectSwitched(r.ctx(), conn.Tenant, conn.Subject, "files")
		if err != nil || len(all) != 1 || all[0].Status != tc.has || all[0].Generation <= conn.Generation {
			r.Fatalf("%s: read %+v, %v", tc.what, all, err)
		}
	}
}

// testGuessTampered: who writes to the store behind a record's version gets no token out of it, and the guess is not made again.
func testGuessTampered(r *rig) {
	s := r.store()
	for what, spoil := range map[string]func(key, another string){
		"token of another":     func(key, another string) { r.raw("HSET", key, "at:", r.raw("HGET", another, "at:")) },
		"account of another":   func(key, another string) { r.raw("HSET", key, "p", r.raw("HGET", another, "p")) },
		"header of another":    func(key, another string) { r.raw("HSET", key, "h", r.raw("HGET", another, "h")) },
		"no token":             func(key, _ string) { r.raw("HDEL", key, "at:") },
		"an empty sealed part": func(key, _ string) { r.raw("HSET", key, "p", "") },
	} {
		conn, another := r.connect(s, tenant(r), "u "+what, "files", "1"), r.connect(s, tenant(r), "v "+what, "files", "2")
		guess := r.served(s, conn.Subject, "files")
		spoil(r.connKey(s, conn), r.connKey(s, another))
		if _, token, err := r.guessed(s, guess); !errors.Is(err, broker.ErrIntegrity) || token != "" {
			r.Errorf("%s: %v", what, err)
		}
		if _, ok := s.Guess(conn.Tenant, conn.Subject, "files"); ok {
			r.Errorf("%s: the guess is made again", what)
		}
	}
}

// testGuessAnswerLost: the answer to the step is lost. The step was carried out once, and the token comes after all.
func testGuessAnswerLost(r *rig) {
	var hide atomic.Bool
	s := r.troubledStore(&troubled{after: func(step vault.Step) error {
		if step.Release != nil && hide.CompareAndSwap(true, false) {
			return errors.New("no answer")
		}
		return nil
	}})
	conn := r.connect(s, tenant(r), "u", "files", "1")
	guess := r.served(s, conn.Subject, "files")
	hide.Store(true)
	if _, token, err := r.guessed(s, guess); err != nil || token != "canary-at-1" {
		r.Fatalf("released %q, %v", token, err)
	}
	if n := r.issued(s); hide.Load() || n != 1 {
		r.Errorf("%d entries", n)
	}
	r.verified(s)
}
