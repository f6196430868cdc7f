package vaulttest

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
)

// testEstablish: a connection that nobody consented to is made once, whoever asks at the same moment, gets its tokens under a
// lease as any other, and ends as any other. Its subject is empty: it is the tenant's own.
func testEstablish(r *rig) {
	stores := []*vault.Store{r.store(), r.store()}
	direct := func(s *vault.Store) broker.Connection {
		return broker.Connection{ID: recordID(s, tenant(r), ""), Tenant: tenant(r), Connector: "robot", Client: "chat", Status: broker.ConnectionActive, Direct: true,
			Scopes: broker.NewScopeSet("files.read", "files.write"), CreatedAt: time.Now().UTC()}
	}
	until := time.Now().Add(time.Minute)
	var made, refused atomic.Int64
	var group sync.WaitGroup
	for i := range 20 {
		s := stores[i%len(stores)]
		group.Go(func() {
			switch _, err := s.Establish(r.ctx(), direct(s), "canary-once", until); {
			case err == nil:
				made.Add(1)
			case errors.Is(err, broker.ErrConflict):
				refused.Add(1)
			default:
				r.Errorf("establish: %v", err)
			}
		})
	}
	group.Wait()
	if made.Load() != 1 || refused.Load() != 19 {
		r.Fatalf("%d made, %d refused", made.Load(), refused.Load())
	}
	s := stores[1]
	found, err := s.OfSubject(r.ctx(), tenant(r), "", "robot")
	if err != nil || len(found) != 1 || !found[0].Direct || found[0].Renewable || len(found[0].Tokens) != 0 || found[0].Subject != "" {
		r.Fatalf("of no subject: %+v, %v", found, err)
	}
	if listed, _, err := s.List(r.ctx(), tenant(r), broker.ConnectionFilter{Connector: "robot"}, "", 10); err != nil || len(listed) != 1 || listed[0].ID != found[0].ID {
		r.Fatalf("listed: %+v, %v", listed, err)
	}
	for _, key := range r.keys("tb:*n:*") {
		if strings.Contains(key, "once") {
			r.Errorf("what must not be made twice is in clear in %q", key)
		}
	}

	lease, token, err := s.BeginRefresh(r.ctx(), found[0], "owner", 10*time.Second)
	if err != nil || !token.IsZero() {
		r.Fatalf("begin: %v", err)
	}
	_, _, err = stores[0].BeginRefresh(r.ctx(), found[0], "another", 10*time.Second)
	is(r, err, broker.ErrBusy, "a second lease")
	next := found[0]
	next.Tokens = []broker.AccessTokenInfo{{Key: "narrow", Scopes: broker.NewScopeSet("files.read")}}
	grant := broker.Grant{AccessToken: broker.NewSecret("canary-own-token"), ExpiresAt: time.Now().Add(time.Hour), Lifetime: time.Hour}
	next, err = s.CommitRefresh(r.ctx(), lease, next, "narrow", grant, []broker.Entry{entry(broker.EventTokenRefreshed, next, "files.read")})
	if err != nil || !next.Direct || next.Renewable {
		r.Fatalf("commit: %+v, %v", next, err)
	}
	now := r.now(stores[0], next)
	if info, ok := now.Token("narrow"); !ok || info.Scopes.String() != "files.read" || !now.Direct {
		r.Fatalf("stored: %+v", now)
	}
	secret, err := stores[0].Release(r.ctx(), now, "narrow", entry(broker.EventTokenIssued, now, "files.read"))
	if err != nil || secret.Reveal() != "canary-own-token" {
		r.Fatalf("release: %v", err)
	}
	// Ended, it stays ended; under another name another one is made.
	if _, err := s.BeginRevoke(r.ctx(), tenant(r), now.ID, []broker.Entry{entry(broker.EventConnectionRevoked, now)}); err != nil {
		r.Fatal(err)
	}
	_, err = stores[0].Release(r.ctx(), now, "narrow", entry(broker.EventTokenIssued, now, "files.read"))
	is(r, err, broker.ErrConflict, "release after the end")
	if _, err := s.Establish(r.ctx(), direct(s), "canary-once "+now.ID, until); err != nil {
		r.Fatalf("the next one: %v", err)
	}
	is(r, func() error {
		c := direct(s)
		c.ID = now.ID
		_, err := s.Establish(r.ctx(), c, "canary-third", until)
		return err
	}(), broker.ErrConflict, "over a record that is there")
}

// testLostEstablish: a failover that takes the connection back; who made it writes it back.
func testLostEstablish(p *pair) {
	s := p.process()
	conn := broker.Connection{ID: recordID(s, tenant(p.rig), ""), Tenant: tenant(p.rig), Connector: "robot", Client: "chat", Status: broker.ConnectionActive, Direct: true,
		Scopes: broker.NewScopeSet("files.read"), CreatedAt: time.Now().UTC()}
	p.connect(s, tenant(p.rig), "", "files", "1") // the shard knows which history it belongs to
	p.lose(func() {
		var err error
		if conn, err = s.Establish(p.ctx(), conn, "once", time.Now().Add(time.Minute)); err != nil {
			p.Fatal(err)
		}
	})
	p.within(startPatience, "the connection is back", func() bool {
		found, err := s.OfSubject(p.ctx(), conn.Tenant, "", "robot")
		return err == nil && len(found) == 1 && found[0].ID == conn.ID && found[0].Direct
	})
}
