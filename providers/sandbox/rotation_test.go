package sandbox_test

import (
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tokenbroker/providers/sandbox"
)

func TestRotationNone(t *testing.T) {
	r := newRig(t, func(c *sandbox.Config) { c.Rotation = sandbox.RotationNone })
	token := r.connect("alice")
	for range 3 {
		a := r.refresh(token.RefreshToken)
		equal(t, "status", a.status, 200)
		equal(t, "same refresh token", a.text("refresh_token") == token.RefreshToken, true)
		equal(t, "new access token", a.text("access_token") != token.AccessToken, true)
		equal(t, "no-store", a.header.Get("Cache-Control"), "no-store")
	}
	equal(t, "refreshes", r.server.Stats().Grants[0].Refreshes, 3)
}

func TestRotationStrict(t *testing.T) {
	r := newRig(t, nil)
	token := r.connect("alice")
	other := r.connect("alice") // another grant: it must survive
	second := r.refresh(token.RefreshToken)
	third := r.refresh(second.text("refresh_token"))
	equal(t, "third", third.status, 200)

	equal(t, "reuse", r.refresh(token.RefreshToken).text("error"), "invalid_grant")
	stats := r.server.Stats()
	equal(t, "reuses", stats.Reuses, 1)
	equal(t, "why", stats.Grants[0].Revoked, "refresh token reuse")
	equal(t, "the newest token of the family", r.refresh(third.text("refresh_token")).text("error"), "invalid_grant")
	equal(t, "its access token", r.call("GET", "/files", third.text("access_token"), "").status, 401)
	equal(t, "another use is no second reuse", r.server.Stats().Reuses, 1)
	equal(t, "the other grant", r.refresh(other.RefreshToken).status, 200)
	equal(t, "refreshes", r.server.Stats().Refreshes, 3)
	equal(t, "failed", r.server.Stats().RefreshesFailed, 2)
}

func TestRotationGrace(t *testing.T) {
	r := newRig(t, func(c *sandbox.Config) { c.Rotation, c.GraceWindow = sandbox.RotationGrace, time.Minute })
	token := r.connect("alice")
	a, b := r.refresh(token.RefreshToken), r.refresh(token.RefreshToken)
	equal(t, "first", a.status, 200)
	equal(t, "retry within the window", b.status, 200)
	equal(t, "two successors", a.text("refresh_token") != b.text("refresh_token"), true)
	equal(t, "grace reuses", r.server.Stats().GraceReuses, 1)
	r.clock.offset = 59 * time.Second
	equal(t, "the window counts from the first use", r.refresh(token.RefreshToken).status, 200)
	r.clock.offset = 62 * time.Second
	equal(t, "after the window", r.refresh(token.RefreshToken).text("error"), "invalid_grant")
	equal(t, "reuses", r.server.Stats().Reuses, 1)
	equal(t, "the family", r.refresh(a.text("refresh_token")).text("error"), "invalid_grant")
}

func TestThousandRefreshesInARow(t *testing.T) {
	r := newRig(t, nil)
	token := r.connect("alice").RefreshToken
	for range 1000 {
		a := r.refresh(token)
		if a.status != 200 {
			t.Fatalf("%d %s", a.status, a.text("error"))
		}
		token = a.text("refresh_token")
	}
	equal(t, "refreshes", r.server.Stats().Grants[0].Refreshes, 1000)
	equal(t, "reuses", r.server.Stats().Reuses, 0)
}

// Two at once with one refresh token: exactly one may win, and the other one kills the grant.
func TestParallelRefreshIsReuse(t *testing.T) {
	r := newRig(t, nil)
	token := r.connect("alice")
	var good atomic.Int32
	var wait sync.WaitGroup
	for range 10 {
		wait.Go(func() {
			a, err := r.post("/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token.RefreshToken}})
			if err == nil && a.status == 200 {
				good.Add(1)
			}
		})
	}
	wait.Wait()
	equal(t, "winners", good.Load(), 1)
	equal(t, "reuses", r.server.Stats().Reuses, 1)
}

func TestRefreshTokenBelongsToItsClient(t *testing.T) {
	r := newRig(t, nil)
	token := r.connect("alice")
	a, err := r.post("/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"sbr_unknown"}})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "unknown", a.text("error"), "invalid_grant")
	r.oauth.ClientID, r.oauth.Endpoint.AuthStyle = "poster", 1
	foreign := r.connect("alice").RefreshToken
	equal(t, "foreign", r.refresh(foreign).text("error"), "invalid_grant")
	equal(t, "no harm done", r.server.Stats().Grants[1].Revoked, "")
	equal(t, "own", r.refresh(token.RefreshToken).status, 200)
}

func TestNarrowingOnRefresh(t *testing.T) {
	r := newRig(t, nil)
	token := r.connect("alice")
	a := r.refresh(token.RefreshToken, "scope", "files.read")
	equal(t, "scope", a.text("scope"), "files.read")
	equal(t, "reading", r.call("GET", "/files", a.text("access_token"), "").status, 200)
	equal(t, "writing", r.call("POST", "/files", a.text("access_token"), `{"name":"n"}`).status, 403)
	// The grant keeps its scopes (RFC 6749 section 6).
	b := r.refresh(a.text("refresh_token"))
	equal(t, "scope afterwards", b.text("scope"), "files.read files.write offline_access")
	equal(t, "widening", r.refresh(b.text("refresh_token"), "scope", "files.read admin").text("error"), "invalid_scope")
	equal(t, "a refused scope does not use the token up", r.refresh(b.text("refresh_token")).status, 200)

	fixed := newRig(t, func(c *sandbox.Config) { c.FixedScopes = true })
	a = fixed.refresh(fixed.connect("alice").RefreshToken, "scope", "files.read")
	equal(t, "where scopes are fixed", a.text("scope"), "files.read files.write offline_access")
}

func TestPartialGrant(t *testing.T) {
	r := newRig(t, nil)
	token := r.connect("alice", "auto_scopes", "files.read")
	equal(t, "scope", token.Extra("scope").(string), "files.read offline_access")
	equal(t, "writing", r.call("POST", "/files", token.AccessToken, `{"name":"n"}`).status, 403)
}

func TestAccessTokenExpires(t *testing.T) {
	r := newRig(t, func(c *sandbox.Config) { c.AccessTokenLifetime = 5 * time.Second })
	token := r.connect("alice")
	equal(t, "expires_in", token.ExpiresIn, 5)
	equal(t, "now", r.call("GET", "/me", token.AccessToken, "").status, 200)
	r.clock.offset = 5 * time.Second
	a := r.call("GET", "/me", token.AccessToken, "")
	equal(t, "later", a.status, 401)
	equal(t, "challenge", a.header.Get("WWW-Authenticate"), `Bearer realm="sandbox", error="invalid_token"`)
	if err := r.server.SetAccessTokenLifetime(7 * time.Second); err != nil {
		t.Fatal(err)
	}
	equal(t, "changed", r.refresh(token.RefreshToken).fields["expires_in"], any(7.0))
	if err := r.server.SetAccessTokenLifetime(time.Millisecond); err == nil {
		t.Error("a lifetime that expires_in can't say was taken")
	}
}

func TestRevocation(t *testing.T) {
	r := newRig(t, nil)
	revoke := func(token string) answer {
		a, err := r.post("/revoke", url.Values{"token": {token}})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	token := r.connect("alice")
	fresh := r.refresh(token.RefreshToken)
	equal(t, "an access token", revoke(fresh.text("access_token")).status, 200)
	equal(t, "it is dead", r.call("GET", "/me", fresh.text("access_token"), "").status, 401)
	next := r.refresh(fresh.text("refresh_token"))
	equal(t, "the refresh token lives", next.status, 200)
	equal(t, "a refresh token", revoke(next.text("refresh_token")).status, 200)
	equal(t, "its access token is dead", r.call("GET", "/me", next.text("access_token"), "").status, 401)
	equal(t, "it is dead as well", r.refresh(next.text("refresh_token")).text("error"), "invalid_grant")
	equal(t, "an unknown token (RFC 7009 section 2.2)", revoke("whatever").status, 200)
	equal(t, "revocations", r.server.Stats().Revocations, 2)
	equal(t, "revoke requests", r.server.Stats().RevokeRequests, 3)
	equal(t, "no reuse", r.server.Stats().Reuses, 0)

	r.oauth.ClientID, r.oauth.Endpoint.AuthStyle = "poster", 1
	foreign := r.connect("alice")
	equal(t, "another client's token", revoke(foreign.RefreshToken).status, 400)
	equal(t, "it lives", r.call("GET", "/me", foreign.AccessToken, "").status, 200)
}

func TestUserWithdraws(t *testing.T) {
	r := newRig(t, nil)
	alice, bob := r.connect("alice"), r.connect("bob")
	equal(t, "grants", r.server.RevokeUser("alice"), 1)
	equal(t, "access", r.call("GET", "/me", alice.AccessToken, "").status, 401)
	equal(t, "refresh", r.refresh(alice.RefreshToken).text("error"), "invalid_grant")
	equal(t, "bob", r.refresh(bob.RefreshToken).status, 200)
	equal(t, "nobody", r.server.RevokeUser("nobody"), 0)
}

func TestMemoryIsBounded(t *testing.T) {
	r := newRig(t, func(c *sandbox.Config) { c.MaxGrants = 3 })
	oldest := r.connect("alice")
	for range 3 {
		r.connect("bob")
	}
	equal(t, "grants", len(r.server.Stats().Grants), 3)
	equal(t, "the oldest one", r.call("GET", "/me", oldest.AccessToken, "").status, 401)
	equal(t, "its refresh token", r.refresh(oldest.RefreshToken).text("error"), "invalid_grant")
}
