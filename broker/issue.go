package broker

import (
	"context"
	"errors"
	"time"
)

// releaseAttempts bounds how often a request starts over because the record changed under it. Each round means that
// somebody else made progress on the same connection, so more than a few are not to be expected.
const releaseAttempts = 8

// IssueToken gives the caller a short-lived access token of its user, or says what is missing. Errors are *Error: see
// contract.md, POST /v1/tokens. Refused requests leave events too.
func (s *Service) IssueToken(ctx context.Context, caller Caller, req TokenRequest) (Token, error) {
	ctx, end := s.telemetry.begin(ctx, "broker.IssueToken", req.Connector)
	token, err := s.issueProven(ctx, caller, req)
	s.telemetry.tokenAnswered(ctx, req.Connector, err)
	s.pulse.tokenAnswered(caller.Client.Tenant, req.Connector, err)
	end(err)
	return token, err
}

// issueProven is issueToken for whom the request's tokens are about.
func (s *Service) issueProven(ctx context.Context, caller Caller, req TokenRequest) (Token, error) {
	if req.Proofs == (Proofs{}) && !caller.Client.SubjectTokens {
		return s.issueToken(ctx, caller, req)
	}
	// A connector whose tokens are the tenant's own is about nobody.
	if req.Proofs == (Proofs{}) && req.Subject == "" && !s.NeedsSubject(caller, req.Connector) {
		return s.issueToken(ctx, caller, req)
	}
	undo, err := s.asserted(ctx, caller, req.Proofs, &req.Subject, &req.Actor)
	if err != nil {
		req.Subject = "" // whom it names is not proven: nobody's events tell of it
		return Token{}, s.refused(ctx, caller, req, req.Scopes, err)
	}
	token, err := s.issueToken(ctx, caller, req)
	if err != nil {
		undo()
	}
	return token, err
}

func (s *Service) issueToken(ctx context.Context, caller Caller, req TokenRequest) (Token, error) {
	// 1. Policy: what can be refused without looking at anything.
	if req.ReturnTo != "" && !mayReturnTo(caller.Client, req.ReturnTo) {
		return Token{}, s.refused(ctx, caller, req, req.Scopes, errReturnTo())
	}
	asked, err := admit(caller.Client, s.connectorsOf(ctx, caller.Client.Tenant), req.Connector, req.Scopes)
	if err != nil {
		return Token{}, s.refused(ctx, caller, req, req.Scopes, err)
	}
	if err := asked.admitSubject(req.Subject); err != nil {
		return Token{}, s.refused(ctx, caller, req, asked.scopes, err)
	}
	// Mostly that is all: a valid token of a connection that this process has served before.
	token, served, seen, err := s.guessed(ctx, caller, req, asked)
	if served {
		return token, nil
	}
	if err != nil {
		return Token{}, err
	}
	for range releaseAttempts {
		// 2. The connection: of this tenant and subject, or none, and nothing of the request disabled. What is missing becomes consent_required with its link.
		conn, err := s.choose(ctx, caller, req, asked, seen)
		seen = nil
		if err != nil {
			return Token{}, s.refused(ctx, caller, req, asked.scopes, err)
		}
		decided := conn.Switches
		// 3. A stored token that covers the scopes and lives long enough goes straight to 5.
		want, err := plan(asked, req, conn, s.cfg.Now())
		about := req // from here on, a refusal is about this connection
		about.Connection = conn.ID
		if err != nil {
			return Token{}, s.refused(ctx, caller, about, asked.scopes, err)
		}
		if want.vain && !s.refresher.mayHope(conn.ID) {
			return Token{}, s.refused(ctx, caller, about, asked.scopes, ttlUnavailable(conn.most()))
		}
		degraded := false
		if want.refresh {
			// 4. The refresher, once for everybody who waits.
			conn, degraded, err = s.refreshed(ctx, caller, req, conn, want)
			if errors.Is(err, ErrConflict) {
				continue // needs_consent now, or gone: look again and say so
			}
			if err != nil {
				return Token{}, s.refused(ctx, caller, about, asked.scopes, err)
			}
		} else {
			degraded = s.refresher.isFailing(conn, want.soon)
			if want.soon {
				s.refresher.ahead(conn, want)
			}
		}
		// 5. The events and the token, in one step: no event, no token; and none by a decision from before a switch was thrown.
		conn.Switches = decided
		token, err := s.release(ctx, caller, about, asked, conn, want)
		if errors.Is(err, ErrConflict) || errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return Token{}, err
		}
		// 6. The answer.
		token.Degraded = degraded
		return token, nil
	}
	return Token{}, s.refused(ctx, caller, req, asked.scopes,
		&Error{Code: CodeTemporarilyUnavailable, Description: "the connection keeps changing; try again", RetryAfter: time.Second})
}

// want is which token of a connection serves a request, and what has to happen first.
type want struct {
	key     string        // of the stored token; "": the one with all scopes
	narrow  ScopeSet      // not empty: a refresh must ask for these alone
	minTTL  time.Duration // that the token must still live
	stated  bool          // the caller itself named minTTL
	refresh bool          // nothing stored will do
	soon    bool          // good, but near its end: refresh in the background
	vain    bool          // the last refresh gave a token that lives too short, so another one probably will, too
}

// plan decides which token serves the request. It reads, and changes nothing.
func plan(asked ask, req TokenRequest, conn Connection, now time.Time) (want, error) {
	if asked.connector.Direct() {
		return planDirect(asked, req, conn, now), nil
	}
	w := want{minTTL: req.minTTL(), stated: req.MinTTL != nil}
	narrow, err := asked.narrowing(conn.Scopes)
	if err != nil {
		return want{}, err
	}
	if narrow && !conn.Renewable {
		return want{}, Errorf(CodeAccessDenied, "the token carries more scopes than this client may have, and without a refresh token it can't be narrowed")
	}
	if narrow {
		w.key, w.narrow = scopeKey(asked.scopes), asked.scopes
	}
	token, stored := conn.Token(w.key)
	if stored && token.Never {
		return want{}, Errorf(CodeLongLivedToken, "this provider's tokens never expire, and such a token is not handed out; use the proxy")
	}
	if conn.Status != ConnectionActive {
		w.refresh = true // it needs what another holder of its grant was given
		return w, nil
	}
	left := token.ExpiresAt.Sub(now)
	if stored && left > 0 && left >= w.minTTL {
		// The soft band: a fifth of its life, five minutes at most, before the end nobody waits, but one refresh runs.
		w.soon = conn.Renewable && left < softBand(conn.Lifetime) && conn.retryIn(now) == 0 && !asked.connector.RefreshEndsAccess
		return w, nil
	}
	if !conn.Renewable {
		if stored && left > 0 {
			return want{}, ttlUnavailable(left)
		}
		w.refresh = true // finds that there is nothing to refresh with, and records it
		return w, nil
	}
	// Also when it has ended: a caller who will be told that it lives too short must not have it made anew with each request.
	w.vain = stored && !meets(conn.reach(), conn.Lifetime, w.minTTL) && !conn.LastRefreshed.IsZero() && conn.FailingSince.IsZero()
	w.refresh = true
	return w, nil
}

func ttlUnavailable(most time.Duration) *Error {
	e := Errorf(CodeTTLUnavailable, "this provider's tokens live shorter than min_ttl; ask for at most max_ttl seconds")
	e.MaxTTL = most
	return e
}

// scopeKey names the stored token of a narrowed scope set.
func scopeKey(scopes ScopeSet) string { return NewSecret(scopes.String()).Digest()[:16] }

// refreshed brings the connection's token up to date, or finds that the old one will do while refreshing fails.
// ErrConflict: the connection is not active any more.
func (s *Service) refreshed(ctx context.Context, caller Caller, req TokenRequest, conn Connection, w want) (Connection, bool, error) {
	fresh, err := s.refresher.refresh(ctx, caller, req.Actor, conn, w)
	if err == nil {
		if token, ok := fresh.Token(w.key); ok && !meets(token.ExpiresAt.Sub(s.cfg.Now()), fresh.Lifetime, w.minTTL) {
			return conn, false, ttlUnavailable(fresh.most())
		}
		return fresh, false, nil
	}
	if fresh.Status != "" && fresh.Status != ConnectionActive {
		return conn, false, ErrConflict
	}
	// The provider is down. A token that is still valid serves whoever did not insist on more.
	if token, ok := conn.Token(w.key); ok && !w.stated && !token.Never && token.ExpiresAt.After(s.cfg.Now()) {
		if current, err := s.reread(ctx, conn); err == nil && current.Status == ConnectionActive {
			return current, true, nil
		}
	}
	return conn, false, err
}

// release records one event for every scope that the token really carries, and opens the token, in one step.
func (s *Service) release(ctx context.Context, caller Caller, req TokenRequest, asked ask, conn Connection, w want) (Token, error) {
	info, ok := conn.Token(w.key)
	if !ok || (!info.Never && !info.ExpiresAt.After(s.cfg.Now())) {
		return Token{}, ErrConflict // it ended meanwhile: look again
	}
	if info.Never {
		return Token{}, s.refused(ctx, caller, req, asked.scopes,
			Errorf(CodeLongLivedToken, "this provider's tokens never expire, and such a token is not handed out; use the proxy"))
	}
	// The refresh may have brought less than there was (threat 43): then the user must be asked, as for any missing scope.
	if !info.Scopes.Covers(asked.scopes) {
		if w.key != "" || conn.Direct {
			return Token{}, s.refused(ctx, caller, req, asked.scopes,
				Errorf(CodeAccessDenied, "the provider did not give a token with all scopes asked for"))
		}
		return Token{}, ErrConflict
	}
	// A narrowed token may carry more than was asked: the provider decides. The ceiling is checked on what it really has.
	if narrow, err := asked.narrowing(info.Scopes); err != nil || narrow {
		return Token{}, s.refused(ctx, caller, req, asked.scopes,
			Errorf(CodeAccessDenied, "the provider's token carries more scopes than this client may have"))
	}
	entry, err := s.issuedEntry(caller, req, asked, conn.ID, info.Scopes)
	if err != nil {
		return Token{}, serverError(err)
	}
	releaseCtx, cancel := within(ctx, s.cfg.AuditTimeout)
	defer cancel()
	secret, err := s.cfg.Connections.Release(releaseCtx, conn, w.key, entry)
	switch {
	case err == nil:
	case errors.Is(err, ErrConflict), errors.Is(err, ErrNotFound):
		return Token{}, err
	case errors.Is(err, ErrIntegrity):
		return Token{}, s.integrityFailed(ctx, caller, conn, "access token", err)
	default:
		// Whether the events were written is not known here; the token is not given out in any case.
		return Token{}, storeError("record the events of this token", err)
	}
	return s.answer(conn, info, secret), nil
}

// issuedEntry is what a token leaves in the trail: one event for every scope that it carries.
func (s *Service) issuedEntry(caller Caller, req TokenRequest, asked ask, connection string, carried ScopeSet) (Entry, error) {
	entry := s.entry(caller, EventTokenIssued, req.Subject, req.Connector, connection)
	entry.Actor, entry.Reason, entry.Outcome = req.Actor, req.Reason, "ok"
	var err error
	entry.Scopes, err = s.eventScopes(carried, asked.scopes)
	return entry, err
}

// answer is the token for its caller.
func (s *Service) answer(conn Connection, info AccessTokenInfo, secret Secret) Token {
	return Token{
		AccessToken: secret, ExpiresAt: info.ExpiresAt, ExpiresIn: max(0, info.ExpiresAt.Sub(s.cfg.Now())), Scopes: info.Scopes,
		Connector: conn.Connector, Connection: conn.ID, Account: conn.Account, Extra: conn.Extra,
	}
}
