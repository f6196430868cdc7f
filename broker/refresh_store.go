package broker

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"
)

// This file holds the second half of a refresh: what is stored after each outcome.

// commit stores what the provider gave. It does not give up while the process lives: the old refresh token may be dead
// already, and the new one exists nowhere else but here and, if there is one, in the spool.
func (r *refresher) commit(ctx context.Context, run refreshRun, conn Connection, lease Lease, grant Grant) (Connection, error) {
	grant = bounded(grant, r.s.cfg.Now())
	next, lost := renewed(conn, grant, run.want, r.s.cfg.Now())
	if conn.Direct {
		next, lost = r.s.obtained(conn, grant, run.want), ScopeSet{}
	}
	next = r.s.scheduled(next)
	entries, err := r.refreshedEntries(run, next, lost)
	missing := grant.Withheld
	if missing == nil {
		missing = &UpstreamError{Class: ClassInDoubt, What: "the answer held no access token"}
	}
	if grant.AccessToken.IsZero() {
		// An answer with a refresh token alone is odd, but what it holds is the grant: it is stored, and then tried again.
		next.Tokens, next.Lifetime, next.LastRefreshed = conn.Tokens, conn.Lifetime, conn.LastRefreshed
		next.Failures, next.FailingSince = conn.Failures, conn.FailingSince
		next = r.failing(next, nil)
		entries, err = r.failedEntries(run, next, missing)
		r.s.cfg.Log.ErrorContext(ctx, "a refresh brought a refresh token, which is kept, and no access token that could be handed out",
			"connector", conn.Connector, "connection", conn.ID, "error", missing)
	}
	if err != nil {
		// Without randomness for event ids there can be no entries; the grant is stored all the same.
		r.s.cfg.Log.ErrorContext(ctx, "a refresh is stored without its events", "connection", conn.ID, "error", err)
	}
	wait := 50 * time.Millisecond
	patience := time.AfterFunc(stallAfter, run.stall.close) // also while one attempt hangs
	defer patience.Stop()
	for {
		stored, err := r.commitOnce(ctx, lease, next, run.want.key, grant, entries)
		run.place.leave() // not before: a slow disk or store holds up what would only pile up behind it, but one that is away holds up nobody
		switch {
		case err == nil && grant.AccessToken.IsZero():
			return Connection{}, unavailable(stored.RetryAt.Sub(r.s.cfg.Now()), missing)
		case err == nil:
			return stored, nil
		case errors.Is(err, ErrConflict):
			// Somebody else moved on while we were away. Theirs stands; ours was kept as an alternate.
			r.s.cfg.Log.WarnContext(ctx, "a refresh came too late and is kept as an alternate", "connection", conn.ID)
			current, err := r.s.reread(ctx, conn)
			if err != nil {
				return Connection{}, storeError("read the connection", err)
			}
			if current.Status != ConnectionActive {
				return current, ErrConflict
			}
			return current, nil
		case lostConnection(err):
			// Disconnected meanwhile, another account's now, or of a tenant that was erased: what came must not live on at the provider
			// (threat 48).
			r.s.revokeLate(ctx, conn, grant)
			return Connection{Status: ConnectionRevoked}, ErrConflict
		}
		r.s.cfg.Log.ErrorContext(ctx, "a refreshed grant could not be stored yet and is kept here until it can", "connection", conn.ID, "error", err)
		if errors.Is(err, ErrSpooled) && r.s.isDraining() {
			// This process is ending, and the grant is safe: the next one stores it.
			return Connection{}, storeError("store the refreshed token", err)
		}
		if !r.s.pauseUntilKilled(wait) {
			return Connection{}, storeError("store the refreshed token", err)
		}
		wait = min(wait*2, time.Second)
	}
}

// lostConnection tells that there is no connection any more for what a refresh brought, and never will be.
func lostConnection(err error) bool {
	return errors.Is(err, ErrNotFound) || errors.Is(err, ErrTenantErased)
}

func (r *refresher) commitOnce(ctx context.Context, lease Lease, next Connection, key string, grant Grant, entries []Entry) (Connection, error) {
	ctx, cancel := context.WithTimeout(ctx, r.s.cfg.PersistTimeout)
	defer cancel()
	return r.s.cfg.Refreshes.CommitRefresh(ctx, lease, next, key, grant, entries)
}

// renewed is the connection after a successful refresh, and the scopes that the provider took away with it.
func renewed(conn Connection, grant Grant, w want, now time.Time) (Connection, ScopeSet) {
	next := conn
	next.Status = ConnectionActive // also one that was called dead, and whose shared grant somebody else renewed
	next.Error, next.FailingSince, next.RetryAt, next.Failures = "", time.Time{}, time.Time{}, 0
	next.LastRefreshed = now
	next.Renewable = true
	if !grant.RefreshExpiry.IsZero() {
		next.RefreshExpiry = grant.RefreshExpiry
	}
	if grant.ClientGeneration != 0 {
		next.ClientGeneration = grant.ClientGeneration
	}
	next.Extra = merged(conn.Extra, grant.Extra)
	next.Vars = merged(conn.Vars, grant.Vars)

	carried, lost := conn.Scopes, ScopeSet{}
	switch {
	case !w.narrow.Empty() && grant.ScopesReported:
		carried = grant.Scopes
	case !w.narrow.Empty():
		carried = w.narrow
	case grant.ScopesReported:
		lost = conn.Scopes.Minus(grant.Scopes)
		carried, next.Scopes = grant.Scopes, grant.Scopes
	}
	info := AccessTokenInfo{Key: w.key, Scopes: carried, ExpiresAt: grant.ExpiresAt}
	next.Lifetime = grant.Lifetime
	next.Tokens = withToken(conn.Tokens, info, next.Scopes, now)
	return next, lost
}

// bounded gives a token that can be refreshed an end, whatever the answer left out.
func bounded(grant Grant, now time.Time) Grant {
	if grant.Never || grant.ExpiresAt.IsZero() {
		grant.Never, grant.ExpiresAt, grant.Lifetime = false, now.Add(conservativeLifetime), conservativeLifetime
	}
	return grant
}

// maxTokens bounds how many narrowed tokens a record holds.
const maxTokens = 8

// withToken replaces the token of that key and drops those that ended or carry what the grant has lost.
func withToken(tokens []AccessTokenInfo, token AccessTokenInfo, granted ScopeSet, now time.Time) []AccessTokenInfo {
	kept := []AccessTokenInfo{token}
	for _, t := range tokens {
		if t.Key != token.Key && t.ExpiresAt.After(now) && granted.Covers(t.Scopes) && len(kept) < maxTokens {
			kept = append(kept, t)
		}
	}
	return kept
}

func merged(old, new map[string]string) map[string]string {
	if len(new) == 0 {
		return old
	}
	all := maps.Clone(old)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, new)
	return all
}

func (r *refresher) refreshedEntries(run refreshRun, next Connection, lost ScopeSet) ([]Entry, error) {
	token, _ := next.Token(run.want.key)
	var entries []Entry
	add := func(t EventType, scopes ScopeSet, outcome, reason string) error {
		entry := r.s.entry(run.caller, t, next.Subject, next.Connector, next.ID)
		entry.Actor, entry.Outcome, entry.Reason = run.actor, outcome, reason
		var err error
		entry.Scopes, err = r.s.eventScopes(scopes, ScopeSet{})
		entries = append(entries, entry)
		return err
	}
	if err := add(EventTokenRefreshed, token.Scopes, "ok", run.why); err != nil {
		return nil, err
	}
	if !lost.Empty() {
		if err := add(EventScopeReduced, lost, "scope_reduced", "the provider granted fewer scopes on refresh"); err != nil {
			return nil, err
		}
	}
	return entries, nil
}

// dead is the connection whose grant is over. Its refresh token stays stored: invalid_grant never deletes (threats, 6).
func dead(conn Connection, why string) Connection {
	conn.Status, conn.Error = ConnectionNeedsConsent, why
	conn.FailingSince, conn.RetryAt, conn.RefreshAt = time.Time{}, time.Time{}, time.Time{}
	return conn
}

// failing is the connection after a refresh that gave nothing but may work later.
func (r *refresher) failing(conn Connection, cause error) Connection {
	now := r.s.cfg.Now()
	if conn.FailingSince.IsZero() {
		conn.FailingSince = now
	}
	conn.Failures++
	if conn.Status == ConnectionActive {
		conn.Error = string(CodeProviderUnavailable) // else it goes on with what another holder was given, and its own is dead still
	}
	wait := min(backoffMin<<min(conn.Failures-1, 10), backoffMax)
	wait = max(wait, retryAfter(cause))
	// Those who failed together must not come back together.
	conn.RetryAt = now.Add(wait + r.s.jitter(wait/5))
	return r.s.scheduled(conn)
}

// fail stores the outcome of a refresh that gave nothing, with its events.
func (r *refresher) fail(ctx context.Context, run refreshRun, old Connection, lease Lease, next Connection, cause error) (Connection, error) {
	entries, err := r.failedEntries(run, next, cause)
	if err != nil {
		return Connection{}, serverError(err)
	}
	err = r.insist(ctx, lease, func(ctx context.Context) error {
		_, err := r.s.cfg.Refreshes.FailRefresh(ctx, lease, next, entries)
		return err
	})
	switch {
	case err == nil:
	case errors.Is(err, ErrConflict):
		// The record moved on while we asked: whoever moved it knows better (invalid_grant after a lost race, above all).
		current, err := r.s.reread(ctx, old)
		if err != nil {
			return Connection{}, storeError("read the connection", err)
		}
		if current.Status == ConnectionActive && doneSince(run.first, current, run.want) {
			return current, nil
		}
		if current.Status != ConnectionActive {
			return current, ErrConflict
		}
		return Connection{}, unavailable(time.Second, cause)
	case lostConnection(err):
		return Connection{Status: ConnectionRevoked}, ErrConflict
	default:
		return Connection{}, storeError("store the outcome of a refresh", err)
	}
	if isOver(next, cause) {
		r.ended(ctx, next, cause)
		return next, ErrConflict
	}
	return Connection{}, unavailable(next.RetryAt.Sub(r.s.cfg.Now()), cause)
}

// isOver tells that the refresh found the grant dead. A connection can have been called dead before and go on with what another
// holder of its grant was given: then a provider that is away says nothing about that.
func isOver(next Connection, cause error) bool {
	return next.Status != ConnectionActive && (cause == nil || ClassOf(cause) == ClassGrantDead)
}

// ended tells operators that a grant is over and its user must consent again. One is everyday; many at once are not.
func (r *refresher) ended(ctx context.Context, conn Connection, cause error) {
	class, code := "", ""
	if cause != nil {
		class = string(ClassOf(cause))
	}
	if u, ok := errors.AsType[*UpstreamError](cause); ok {
		code = u.Code
	}
	r.s.cfg.Log.WarnContext(ctx, "a grant is over: its user must consent again", "connector", conn.Connector, "connection", conn.ID, "reason", conn.Error, "class", class, "code", code)
	r.s.telemetry.ended(ctx, conn.Connector, conn.Error)
	r.s.pulse.ended(conn.Tenant, conn.Connector, conn.Error)
}

func (r *refresher) failedEntries(run refreshRun, next Connection, cause error) ([]Entry, error) {
	reason := "there is no refresh token, and the access token has ended"
	if cause != nil {
		reason = string(ClassOf(cause))
	}
	failed := r.s.entry(run.caller, EventTokenRefreshFailed, next.Subject, next.Connector, next.ID)
	failed.Actor, failed.Outcome, failed.Reason = run.actor, next.Error, reason
	over := isOver(next, cause)
	if next.Status != ConnectionActive && !over {
		failed.Outcome = string(CodeProviderUnavailable)
	}
	var err error
	if failed.Scopes, err = r.s.eventScopes(next.Scopes, ScopeSet{}); err != nil {
		return nil, err
	}
	entries := []Entry{failed}
	if over {
		needs := failed
		needs.Type = EventConnectionNeedsConsent
		if needs.Scopes, err = r.s.eventScopes(next.Scopes, ScopeSet{}); err != nil {
			return nil, err
		}
		entries = append(entries, needs)
	}
	return entries, nil
}

// clientRefused: the operator must act. The connection is not touched; nobody is asked to consent again. Whether it is this one
// grant that is refused, or the client for everybody, is for the circuits to find out.
func (r *refresher) clientRefused(ctx context.Context, run refreshRun, conn Connection, lease Lease, cause error) (Connection, error) {
	r.s.cfg.Log.ErrorContext(ctx, "the provider refuses our OAuth client, or its definition lacks something: see error; check the connector's client_id, client_secret and redirect URI; if other grants of it are refreshed, it refuses this one alone",
		"connector", conn.Connector, "connection", conn.ID, "error", cause)
	r.giveBack(ctx, lease)
	entry := r.s.entry(run.caller, EventTokenRefreshFailed, conn.Subject, conn.Connector, conn.ID)
	entry.Actor, entry.Outcome, entry.Reason = run.actor, string(CodeProviderMisconfigured), string(ClassOf(cause))
	var err error
	if entry.Scopes, err = r.s.eventScopes(conn.Scopes, ScopeSet{}); err != nil {
		return Connection{}, serverError(err)
	}
	if err := r.s.append(ctx, entry); err != nil {
		return Connection{}, err
	}
	return Connection{}, misconfigured(cause)
}

// stallAfter is how long those who wait for a refresh go on waiting for the store: a blink of it costs nobody an error.
const stallAfter = 3 * time.Second

// stall tells those who wait for a refresh that the store does not take what it brought; and the refresh that somebody waits.
type stall struct {
	once, joined sync.Once
	c, hurry     chan struct{}
}

func (s *stall) close() { s.once.Do(func() { close(s.c) }) }

func (s *stall) hurryUp() { s.joined.Do(func() { close(s.hurry) }) }

var errStalled = errors.New("the provider has answered, and the store does not take it yet")

// stallOf is the one of the flight that runs or begins.
func (r *refresher) stallOf(key string) *stall {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stalls[key] == nil {
		r.stalls[key] = &stall{c: make(chan struct{}), hurry: make(chan struct{})}
	}
	return r.stalls[key]
}

func (r *refresher) endStall(key string, ended *stall) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stalls[key] == ended {
		delete(r.stalls, key)
	}
}
