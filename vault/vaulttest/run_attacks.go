package vaulttest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
)

func (r *rig) connKey(s *vault.Store, c broker.Connection) string {
	return tag(s.Shard(c.Tenant, c.Subject)) + "c:" + c.ID
}

// testSwaps copies sealed values where they do not belong (threats.md, rows 31 to 33).
func testSwaps(r *rig) {
	s := r.store()
	a := r.connect(s, tenant(r), "alice", "files", "a")
	b := r.connect(s, tenant(r), "bob", "files", "b")
	keyA, keyB := r.connKey(s, a), r.connKey(s, b)
	keep := make(map[string]string)
	for _, f := range lines(r.raw("HKEYS", keyB)) {
		keep[f] = r.raw("HGET", keyB, f)
	}
	restore := func() {
		for f, v := range keep {
			r.raw("HSET", keyB, f, v)
		}
	}
	release := func() error {
		fresh := r.store() // remembers nothing
		_, err := fresh.Release(r.ctx(), b, "", entry(broker.EventTokenIssued, b, "files.read"))
		return err
	}
	r.raw("HSET", keyB, "at:", r.raw("HGET", keyA, "at:"))
	is(r, release(), broker.ErrIntegrity, "another's access token")
	_, err := s.Release(r.ctx(), b, "", entry(broker.EventTokenIssued, b, "files.read"))
	is(r, err, broker.ErrIntegrity, "another's access token, after the record was read")
	restore()
	r.raw("HSET", keyB, "at:", r.raw("HGET", keyB, "rt"))
	is(r, release(), broker.ErrIntegrity, "the refresh token in the place of the access token")
	restore()
	r.raw("HSET", keyB, "rt", r.raw("HGET", keyA, "rt"))
	_, _, err = s.BeginRefresh(r.ctx(), b, "x", time.Minute)
	is(r, err, broker.ErrIntegrity, "another's refresh token")
	restore()
	if lease, _, err := s.BeginRefresh(r.ctx(), b, "x", time.Minute); err != nil {
		r.Fatalf("the lease was not given back: %v", err)
	} else if err := s.EndRefresh(r.ctx(), lease); err != nil {
		r.Fatal(err)
	}
	r.raw("HSET", keyB, "p", r.raw("HGET", keyA, "p"))
	_, err = s.OfSubject(r.ctx(), tenant(r), "bob", "")
	is(r, err, broker.ErrIntegrity, "another's private part")
	restore()
	// The clear header: scopes, expiry, connector, and every other byte of it.
	head := r.raw("HGET", keyB, "h")
	for _, shown := range []string{".read", "\x05files"} { // the first scope stands behind the connector
		if !strings.Contains(head, shown) {
			r.Fatalf("header has no %q", shown)
		}
	}
	for i := range head {
		changed := []byte(head)
		changed[i] ^= 1
		r.raw("HSET", keyB, "h", string(changed))
		_, err = s.Connection(r.ctx(), tenant(r), b.ID)
		is(r, err, broker.ErrIntegrity, fmt.Sprintf("a changed header: byte %d", i))
	}
	restore()
	// Whole record of another, under this id.
	for _, f := range lines(r.raw("HKEYS", keyA)) {
		r.raw("HSET", keyB, f, r.raw("HGET", keyA, f))
	}
	_, err = s.Connection(r.ctx(), tenant(r), b.ID)
	is(r, err, broker.ErrIntegrity, "another's whole record")
	restore()
	// An older header with its private part, which knew a wider and longer token than the one that is there now.
	lease, _, err := s.BeginRefresh(r.ctx(), b, "x", time.Minute)
	if err != nil {
		r.Fatal(err)
	}
	narrower := broker.Grant{AccessToken: broker.NewSecret("canary-at-b2"), Scopes: broker.NewScopeSet("files.read"), ScopesReported: true, ExpiresAt: b.Tokens[0].ExpiresAt}
	if b, err = s.CommitRefresh(r.ctx(), lease, b, "", narrower, nil); err != nil {
		r.Fatal(err)
	}
	r.raw("HSET", keyB, "h", keep["h"], "p", keep["p"])
	wide, err := s.Connection(r.ctx(), tenant(r), b.ID)
	if err != nil || wide.Tokens[0].Scopes.Len() != 2 {
		r.Fatalf("the older header should be readable: %v", err)
	}
	_, err = s.Release(r.ctx(), wide, "", entry(broker.EventTokenIssued, b, "files.read", "files.write"))
	is(r, err, broker.ErrIntegrity, "a token under an older, wider header")
	if b, err = s.CommitRefresh(r.ctx(), renewLease(r, s, wide), wide, "", r.grant("b"), nil); err != nil {
		r.Fatal(err)
	}
	for _, f := range lines(r.raw("HKEYS", keyB)) {
		keep[f] = r.raw("HGET", keyB, f)
	}
	// Of another tenant, same names.
	c := r.connect(s, tenant(r)+"x", "bob", "files", "c")
	r.raw("HSET", keyB, "at:", r.raw("HGET", r.connKey(s, c), "at:"))
	is(r, release(), broker.ErrIntegrity, "another tenant's access token")
	restore()
	if err := release(); err != nil {
		r.Fatalf("after everything was put back: %v", err)
	}
	if n := len(r.allEvents(s, tenant(r), broker.EventFilter{Type: broker.EventTokenIssued}, 100)); n != 1 {
		r.Fatalf("%d events: what did not open left some", n)
	}
	// A broken record can still be revoked and erased.
	r.raw("HSET", keyB, "p", "broken", "rt", "broken")
	left, err := s.BeginRevoke(r.ctx(), tenant(r), b.ID, nil)
	is(r, err, broker.ErrIntegrity, "revoke a broken record")
	if !left.RefreshToken.IsZero() || left.Connection.ID != b.ID || left.Connection.Status != broker.ConnectionRevoked {
		r.Fatalf("left of a broken record: %+v", left.Connection)
	}
	if err := s.EndRevoke(r.ctx(), tenant(r), b.ID, broker.RevokedDone, true); err != nil {
		r.Fatal(err)
	}
	if r.raw("EXISTS", keyB) != "0" {
		r.Fatal("a broken record was not forgotten")
	}
	// Consents.
	one, err := s.CreateConsent(r.ctx(), newConsent(s, tenant(r), "alice"), "", nil)
	if err != nil {
		r.Fatal(err)
	}
	two, err := s.CreateConsent(r.ctx(), newConsent(s, tenant(r), "alice"), "", nil)
	if err != nil {
		r.Fatal(err)
	}
	prefix := tag(s.Shard(tenant(r), "alice")) + "o:"
	r.raw("HSET", prefix+one.ID, "b", r.raw("HGET", prefix+two.ID, "b"))
	_, err = s.Consent(r.ctx(), one.ID)
	is(r, err, broker.ErrIntegrity, "another consent's body")
	r.raw("HSET", prefix+two.ID, "ver", "2")
	_, err = s.Consent(r.ctx(), two.ID)
	is(r, err, broker.ErrIntegrity, "a body under another version")
	r.verified(s)
}

// testUnreadable: a record that does not open is named, and stands in the way of nothing but its own connector. One that a
// newer program wrote may be any connector's, for its header can't be read either: taken for another's, the user would be
// asked for a consent that he has given.
func testUnreadable(r *rig) {
	s := r.store()
	files, twin := r.connect(s, tenant(r), "u", "files", "1"), r.connect(s, tenant(r), "u", "files", "2")
	crm, mail := r.connect(s, tenant(r), "u", "crm", "3"), r.connect(s, tenant(r), "u", "mail", "4")
	r.raw("HSET", r.connKey(s, files), "p", "broken")
	form := r.raw("HGET", r.connKey(s, crm), "v")
	r.raw("HSET", r.connKey(s, crm), "v", "99", "p", "as a newer program has it")
	for _, want := range []struct {
		connector string
		found     []string
		bad       []string
		causes    []error
	}{
		{"mail", []string{mail.ID}, []string{crm.ID}, []error{broker.ErrNewerFormat}},
		{"none", nil, []string{crm.ID}, []error{broker.ErrNewerFormat}},
		{"files", []string{twin.ID}, []string{files.ID, crm.ID}, []error{broker.ErrIntegrity, broker.ErrNewerFormat}},
		{"crm", nil, []string{crm.ID}, []error{broker.ErrNewerFormat}},
		{"", []string{twin.ID, mail.ID}, []string{files.ID, crm.ID}, []error{broker.ErrIntegrity, broker.ErrNewerFormat}},
	} {
		found, err := s.OfSubject(r.ctx(), tenant(r), "u", want.connector)
		var ids, bad []string
		for _, c := range found {
			ids = append(ids, c.ID)
		}
		var unreadable *broker.UnreadableError
		if errors.As(err, &unreadable) {
			bad = unreadable.IDs
		} else if err != nil {
			r.Fatal(err)
		}
		for _, cause := range []error{broker.ErrIntegrity, broker.ErrNewerFormat} {
			if errors.Is(err, cause) != slices.Contains(want.causes, cause) {
				r.Errorf("connector %q: error %v, about %v", want.connector, err, cause)
			}
		}
		for _, list := range [][]string{ids, bad, want.found, want.bad} {
			slices.Sort(list)
		}
		if !slices.Equal(ids, want.found) || !slices.Equal(bad, want.bad) {
			r.Errorf("connector %q: found %v, bad %v; want %v, %v", want.connector, ids, bad, want.found, want.bad)
		}
	}
	r.raw("HSET", r.connKey(s, crm), "v", form, "p", "broken")
	if found, err := s.OfSubject(r.ctx(), tenant(r), "u", "mail"); err != nil || len(found) != 1 {
		r.Errorf("beside a record that does not open, of another connector: %v, %v", found, err)
	}
	// Of a header that can't be read nobody knows the connector: it may be any.
	r.raw("HSET", r.connKey(s, files), "h", "{")
	_, err := s.OfSubject(r.ctx(), tenant(r), "u", "mail")
	is(r, err, broker.ErrIntegrity, "a header that can't be read")
}

// testNewerFormat: what a newer program wrote is refused and left as it is.
func testNewerFormat(r *rig) {
	s := r.store()
	conn := r.connect(s, tenant(r), "u", "files", "1")
	key := r.connKey(s, conn)
	lease, _, err := s.BeginRefresh(r.ctx(), conn, "x", time.Minute)
	if err != nil {
		r.Fatal(err)
	}
	r.raw("HSET", key, "v", "99")
	before := r.snapshot(key)
	_, err = s.OfSubject(r.ctx(), tenant(r), "u", "")
	is(r, err, broker.ErrNewerFormat, "of subject")
	_, err = s.Connection(r.ctx(), tenant(r), conn.ID)
	is(r, err, broker.ErrNewerFormat, "connection")
	_, err = s.Release(r.ctx(), conn, "", entry(broker.EventTokenIssued, conn, "a"))
	is(r, err, broker.ErrNewerFormat, "release")
	_, _, err = s.BeginRefresh(r.ctx(), conn, "x", time.Minute)
	is(r, err, broker.ErrNewerFormat, "begin refresh")
	_, err = s.CommitRefresh(r.ctx(), lease, conn, "", r.grant("2"), nil)
	is(r, err, broker.ErrNewerFormat, "commit refresh")
	_, err = s.BeginRevoke(r.ctx(), tenant(r), conn.ID, nil)
	is(r, err, broker.ErrNewerFormat, "revoke")
	if after := r.snapshot(key); after != before {
		r.Fatal("the record was touched")
	}
	if _, _, err := s.List(r.ctx(), tenant(r), broker.ConnectionFilter{}, "", 10); err != nil {
		r.Fatalf("list beside a newer record: %v", err)
	}
}

// testNothingInClear looks for canaries in everything that the servers and the log hold (threats.md, rows 28 and 30).
func testNothingInClear(r *rig) {
	s := r.store(withSpool(Dir(r)))
	subject := "canary-subject@example.com"
	conn := r.connect(s, tenant(r), subject, "files", "1")
	r.release(s, conn, "1")
	lease, _, err := s.BeginRefresh(r.ctx(), conn, "x", time.Minute)
	if err != nil {
		r.Fatal(err)
	}
	late := lease
	if conn, err = s.CommitRefresh(r.ctx(), lease, conn, "", r.grant("2"), []broker.Entry{entry(broker.EventTokenRefreshed, conn)}); err != nil {
		r.Fatal(err)
	}
	late.Fence++
	_, err = s.CommitRefresh(r.ctx(), late, conn, "", r.grant("3"), nil)
	is(r, err, broker.ErrConflict, "late commit")
	if err := s.SaveSession(r.ctx(), broker.NewSecret("canary-session"), []byte("canary-data"), time.Now().Add(time.Hour)); err != nil {
		r.Fatal(err)
	}
	if err := s.CreateSignIn(r.ctx(), broker.NewSecret("canary-state"), operatorRun("canary")); err != nil {
		r.Fatal(err)
	}
	if err := s.BeginOperatorSession(r.ctx(), operatorSession(1), time.Now().Add(time.Hour)); err != nil {
		r.Fatal(err)
	}
	if err := s.SetOperatorEpoch(r.ctx(), "oidc:canary-operator", "canary-epoch", time.Now().Add(time.Hour)); err != nil {
		r.Fatal(err)
	}
	if _, err := s.BeginRevoke(r.ctx(), tenant(r), conn.ID, []broker.Entry{entry(broker.EventConnectionRevoked, conn)}); err != nil {
		r.Fatal(err)
	}
	if _, err := s.SaveTenantConnector(r.ctx(), ownConnector(r, "drive_c", "canary-secret"), connectorEvent(r, broker.EventConnectorCreated, "drive_c")); err != nil {
		r.Fatal(err)
	}
	if _, err := s.CreatePortal(r.ctx(), newPortal(s, tenant(r), subject), nil); err != nil {
		r.Fatal(err)
	}
	var all bytes.Buffer
	for _, key := range r.keys("tb:*") {
		fmt.Fprintln(&all, key)
		dump, err := r.rawTry("HGETALL", key)
		if err != nil {
			dump, err = r.rawTry("XRANGE", key, "-", "+")
		}
		if err != nil {
			dump, err = r.rawTry("ZRANGE", key, "0", "-1")
		}
		if err != nil {
			dump, err = r.rawTry("SMEMBERS", key)
		}
		if err != nil {
			dump = r.raw("GET", key)
		}
		fmt.Fprintln(&all, dump)
	}
	if r.Redis != nil {
		all.Write(r.Redis.Files())
	}
	all.WriteString(r.log.String())
	if !bytes.Contains(all.Bytes(), []byte(conn.ID)) {
		r.Fatal("the dump lacks what is in clear, so it proves nothing")
	}
	for line := range bytes.Lines(all.Bytes()) {
		if bytes.Contains(line, []byte("canary")) || bytes.Contains(line, []byte("example.com")) {
			r.Fatal("a canary lies in clear in the store or in the log")
		}
	}
}

// testRotation adds a key while another replica still has the old keyset.
func testRotation(r *rig) {
	kek, err := vault.NewKEK(bytes.Repeat([]byte{7}, 32), "test")
	if err != nil {
		r.Fatal(err)
	}
	file, err := vault.CreateKeyset(kek, time.Now())
	if err != nil {
		r.Fatal(err)
	}
	open := func() *vault.Keyset {
		k, err := vault.OpenKeyset(file, kek)
		if err != nil {
			r.Fatal(err)
		}
		return k
	}
	r.keyset = open()
	old := r.keyset
	reloads := 0
	behind := r.store(func(vc *vault.Config, _ *redisstore.Config) {
		vc.Keyset = old
		vc.ReloadKeyset = func() error { reloads++; return old.Reload(file) }
	})
	conn := r.connect(behind, tenant(r), "u", "files", "1")
	if file, err = vault.RotateKeyset(file, kek, time.Now()); err != nil {
		r.Fatal(err)
	}
	rotated := r.store(func(vc *vault.Config, _ *redisstore.Config) { vc.Keyset = open() })
	r.release(rotated, conn, "1")
	lease, _, err := rotated.BeginRefresh(r.ctx(), conn, "x", time.Minute)
	if err != nil {
		r.Fatal(err)
	}
	if conn, err = rotated.CommitRefresh(r.ctx(), lease, conn, "", r.grant("2"), nil); err != nil {
		r.Fatal(err)
	}
	r.release(behind, conn, "2")
	if reloads != 1 {
		r.Fatalf("%d reloads", reloads)
	}
	r.release(behind, conn, "2")
	if reloads != 1 {
		r.Fatalf("%d reloads", reloads)
	}
	// A keyset that is not a successor is refused.
	if other, err := vault.CreateKeyset(kek, time.Now()); err != nil || old.Reload(other) == nil {
		r.Fatalf("another keyset was taken: %v", err)
	}
	for _, s := range []*vault.Store{behind, rotated} {
		r.sound(s)
	}
}

func renewLease(r *rig, s *vault.Store, conn broker.Connection) broker.Lease {
	r.Helper()
	lease, _, err := s.BeginRefresh(r.ctx(), conn, "x", time.Minute)
	if err != nil {
		r.Fatal(err)
	}
	return lease
}
