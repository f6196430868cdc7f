package broker

import (
	"context"
	"errors"
	"time"
)

// A direct grant: a connector's own credentials obtain its tokens, and nobody is asked for consent. Each token is asked for
// with just the scopes of the request. What is stored is a connection like any other, but for the refresh token: it has none,
// and when a token ends another one is obtained under the same lease that a refresh has.

// GrantType is how the tokens of a connector are obtained.
type GrantType string

// The grant types. The implicit grant and the one by password are none of them (RFC 9700 sections 2.1.2 and 2.4).
const (
	GrantAuthorizationCode GrantType = "authorization_code" // RFC 6749 section 4.1; the default
	GrantClientCredentials GrantType = "client_credentials" // RFC 6749 section 4.4
	GrantJWTBearer         GrantType = "jwt_bearer"         // RFC 7523 section 2.1
)

// Direct tells that the connector's own credentials obtain its tokens, without a consent.
func (c Connector) Direct() bool {
	return c.Grant == GrantClientCredentials || c.Grant == GrantJWTBearer
}

// OfTenant tells that the connector's tokens are the tenant's own: they belong to no subject.
func (c Connector) OfTenant() bool { return c.Direct() && len(c.Impersonate) == 0 }

// ObtainRequest asks for a token by a direct grant.
type ObtainRequest struct {
	Scopes  ScopeSet
	Subject string // whom the token is to act for; empty: the connector's own account
}

// NeedsSubject tells whether a token of this connector is a user's. One that the caller's tenant does not see is answered for
// like one that there is not: as if it were.
func (s *Service) NeedsSubject(caller Caller, connector string) bool {
	c, ok := s.cfg.Connectors.Connector(connector)
	return !ok || !ofTenant(c, caller.Client.Tenant) || !c.OfTenant()
}

// establishedFor is how long two replicas that find no connection at the same moment are kept from making one each.
const establishedFor = time.Minute

// standing is the connection of a direct grant: the oldest one that lives, or a new one, which has no token yet.
func (s *Service) standing(ctx context.Context, caller Caller, req TokenRequest, asked ask) (Connection, error) {
	for range releaseAttempts {
		all, err := s.ofSubjectSwitched(ctx, caller, req, nil)
		if err != nil {
			return Connection{}, err
		}
		last := ""
		for _, c := range all {
			switch {
			case !c.Direct:
			case c.Status == ConnectionRevoked:
				last = c.ID // whoever sees the same connections makes the next one under the same name
			case req.Connection == "" || c.ID == req.Connection:
				return c, nil
			}
		}
		if req.Connection != "" {
			return Connection{}, Errorf(CodeNotFound, "there is no such connection to this connector, or it was disconnected; leave connection out")
		}
		if _, err := s.establish(ctx, caller, req, asked, last); err != nil && !errors.Is(err, ErrConflict) {
			return Connection{}, err
		}
		// Made now, or by another replica that was first: it is read as every other one is, with what is disabled.
	}
	return Connection{}, &Error{Code: CodeTemporarilyUnavailable, Description: "the connection keeps changing; try again", RetryAfter: time.Second}
}

// establish makes the connection. A crash behind it leaves one without a token, which the next request obtains.
func (s *Service) establish(ctx context.Context, caller Caller, req TokenRequest, asked ask, last string) (Connection, error) {
	now := s.cfg.Now().UTC()
	conn := Connection{
		Tenant: caller.Client.Tenant, Subject: req.Subject, Connector: asked.connector.ID, Client: caller.Client.ID,
		Status: ConnectionActive, Direct: true, Scopes: offeredScopes(asked.connector), CreatedAt: now,
	}
	var err error
	if conn.ID, err = s.ids().record(conn.Tenant, conn.Subject); err != nil {
		return Connection{}, serverError(err)
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
	defer cancel()
	stored, err := s.cfg.Connections.Establish(ctx, conn, conn.Connector+"\x00"+last, now.Add(establishedFor))
	if errors.Is(err, ErrConflict) {
		return Connection{}, ErrConflict
	}
	if err != nil {
		return Connection{}, storeError("store the connection", err)
	}
	return stored, nil
}

// planDirect decides which stored token serves the request: each set of scopes has one of its own, and that of all scopes,
// which has the key "", is renewed ahead of need. It reads, and changes nothing.
func planDirect(asked ask, req TokenRequest, conn Connection, now time.Time) want {
	w := want{minTTL: DefaultMinTTL, narrow: asked.scopes}
	if req.MinTTL != nil {
		w.minTTL, w.stated = *req.MinTTL, true
	}
	offered := offeredScopes(asked.connector)
	if !asked.scopes.Equal(offered) {
		w.key = scopeKey(asked.scopes)
	}
	token, stored := conn.Token(w.key)
	if w.key == "" && !conn.Scopes.Equal(offered) {
		stored = false // the operator offers other scopes now
	}
	left := token.ExpiresAt.Sub(now)
	if stored && left > 0 && left >= w.minTTL {
		w.soon = left < softBand(conn.Lifetime) && conn.retryIn(now) == 0
		return w
	}
	w.vain = stored && left > 0 && conn.Lifetime < w.minTTL && conn.FailingSince.IsZero()
	w.refresh = true
	return w
}

// obtain is the one request for a token, and what follows from its outcome. It can be repeated: nothing is used up by it.
func (r *refresher) obtain(ctx context.Context, run refreshRun, conn Connection, lease Lease) (Connection, error) {
	connector := r.s.connector(conn.Connector)
	if !mayStand(connector, conn) {
		r.giveBack(ctx, lease)
		return Connection{}, Errorf(CodeAccessDenied, "connector %s does not obtain tokens for this subject any more", conn.Connector)
	}
	if err := shut(r.circuits.enter(r.line(conn), r.timeout(conn))); err != nil {
		r.giveBack(ctx, lease)
		return Connection{}, err
	}
	grant, err := r.post(ctx, conn, lease, Secret{}, run.want)
	if err == nil {
		return r.commit(ctx, run, conn, lease, grant)
	}
	next := r.failing(conn, err)
	switch ClassOf(err) {
	case ClassClientRefused:
		return r.clientRefused(ctx, run, conn, lease, err)
	case ClassGrantDead, ClassRefused:
		// There is no user who could mend it: the credentials, the assertion or the scopes are not what the provider expects. It may
		// concern one subject alone, so it stops that connection for a while and not the connector.
		r.s.cfg.Log.ErrorContext(ctx, "the provider refuses a token to the connector's own credentials: look at its key, its scopes, and what the provider allows it",
			"connector", conn.Connector, "connection", conn.ID, "error", err)
		next.Error = string(CodeProviderMisconfigured)
		if _, stored := r.fail(ctx, run, conn, lease, next, err); CodeOf(stored) != CodeProviderUnavailable {
			return Connection{}, stored
		}
		return Connection{}, misconfigured(err)
	}
	return r.fail(ctx, run, conn, lease, next, err)
}

// ask is the request itself.
func (r *refresher) ask(ctx context.Context, conn Connection, token Secret, w want) (Grant, error) {
	if conn.Direct {
		return r.s.cfg.Upstream.Obtain(ctx, conn.Connector, ObtainRequest{Scopes: r.s.obtainScopes(conn, w), Subject: conn.Subject})
	}
	return r.s.cfg.Upstream.Refresh(ctx, conn.Connector, RefreshRequest{
		RefreshToken: token, Scopes: conn.Scopes, Narrow: w.narrow, RedirectURI: r.s.redirectURI(conn.Connector), Vars: conn.Vars,
	})
}

// obtainScopes are what a token is asked for: those of the request, or, ahead of need, all that the connector offers.
func (s *Service) obtainScopes(conn Connection, w want) ScopeSet {
	if w.key == "" {
		return offeredScopes(s.connector(conn.Connector))
	}
	return w.narrow
}

// obtained is the connection after a direct grant.
func (s *Service) obtained(conn Connection, grant Grant, w want) Connection {
	now, next := s.cfg.Now(), conn
	next.Status, next.Error = ConnectionActive, ""
	next.FailingSince, next.RetryAt, next.Failures = time.Time{}, time.Time{}, 0
	next.LastRefreshed, next.Lifetime, next.ClientGeneration = now, grant.Lifetime, grant.ClientGeneration
	next.Scopes = offeredScopes(s.connector(conn.Connector))
	next.Extra, next.Vars = merged(conn.Extra, grant.Extra), merged(conn.Vars, grant.Vars)
	if grant.Account.ID != "" {
		next.Account = grant.Account
	}
	carried := s.obtainScopes(conn, w)
	if grant.ScopesReported {
		carried = grant.Scopes
	}
	all := carried // none of the other tokens is dropped for its scopes
	for _, t := range conn.Tokens {
		all = all.Union(t.Scopes)
	}
	next.Tokens = withToken(conn.Tokens, AccessTokenInfo{Key: w.key, Scopes: carried, ExpiresAt: grant.ExpiresAt}, all, now)
	return next
}
