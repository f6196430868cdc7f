package broker

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// revokeTimeout bounds one attempt to revoke a grant at a provider: somebody waits for the answer.
const revokeTimeout = 10 * time.Second

// throttledPause is how long a provider is left alone that throttles revocations and does not say for how long, or does not answer.
const throttledPause = 5 * time.Second

// Disconnect ends a connection: effective on every replica at once, its secrets erased in any case, and revoked at the
// provider where it can be. The result says honestly what the provider did.
func (s *Service) Disconnect(ctx context.Context, caller Caller, id string) (RevokedUpstream, error) {
	ctx, end := s.telemetry.begin(ctx, "broker.Disconnect", "")
	outcome, err := s.disconnect(ctx, caller, id)
	end(err)
	return outcome, err
}

func (s *Service) disconnect(ctx context.Context, caller Caller, id string) (RevokedUpstream, error) {
	conn, err := s.ownConnection(ctx, caller, id)
	if errors.Is(err, ErrIntegrity) {
		// It can't be read, and that is on record. Its secrets are erased all the same.
		conn, err = Connection{Tenant: caller.Client.Tenant, ID: id}, nil
	}
	if err != nil {
		return "", err
	}
	return detach(s, ctx, func(ctx context.Context) (RevokedUpstream, error) {
		return s.revoke(ctx, caller, conn, "disconnected by the client", false)
	})
}

// revoke is one connection's end. A crash behind BeginRevoke leaves a connection that nobody can use, and secrets that
// the sweeper revokes upstream and erases.
func (s *Service) revoke(ctx context.Context, caller Caller, conn Connection, reason string, forget bool) (RevokedUpstream, error) {
	if conn.Status == ConnectionRevoked {
		// Begun earlier. A consent may have renewed it since it was read, and that grant is not the one to end.
		now, err := s.reread(ctx, conn)
		if err == nil && now.Status != ConnectionRevoked {
			return RevokedDone, nil
		}
	}
	s.know(ctx, conn.Tenant, conn.Connector)
	entry := s.entry(caller, EventConnectionRevoked, conn.Subject, conn.Connector, conn.ID)
	entry.Outcome, entry.Reason = "ok", reason
	var err error
	if entry.Scopes, err = s.eventScopes(conn.Scopes, ScopeSet{}); err != nil {
		return "", serverError(err)
	}
	var entries []Entry
	if conn.Status != ConnectionRevoked {
		entries = append(entries, entry)
	}
	beginCtx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
	defer cancel()
	left, err := s.cfg.Revocations.BeginRevoke(beginCtx, conn.Tenant, conn.ID, entries)
	switch {
	case errors.Is(err, ErrNotFound):
		return RevokedDone, nil
	case errors.Is(err, ErrConflict):
		e := Errorf(CodeTemporarilyUnavailable, "a consent renewed the connection at the same moment; call again if it shall end all the same")
		e.RetryAfter = time.Second
		return "", e.Because(err)
	case errors.Is(err, ErrIntegrity):
		// What does not open can't be used upstream; it is erased all the same.
		_ = s.integrityFailed(ctx, caller, conn, "sealed value of a revoked connection", err)
		left.Connection.Tenant, left.Connection.ID = conn.Tenant, conn.ID
		if _, err := s.finishRevoke(ctx, left, forget); err != nil {
			return "", err
		}
		return RevokedFailed, nil
	case err != nil:
		return "", storeError("revoke the connection", err)
	}
	outcome, err := s.finishRevoke(ctx, left, forget)
	if err == nil && outcome == RevokedFailed && len(entries) > 0 {
		// The trail must not read as if the provider had confirmed it.
		entry.Outcome, entry.Reason = "revoked_upstream_failed", "ended and erased here; the provider did not confirm the revocation"
		entry.Time = s.cfg.Now().UTC()
		if entry.Scopes, err = s.eventScopes(conn.Scopes, ScopeSet{}); err != nil {
			return "", serverError(err)
		}
		err = s.append(ctx, entry)
	}
	return outcome, err
}

// finishRevoke does the upstream half, and erases the secrets whatever came of it.
func (s *Service) finishRevoke(ctx context.Context, left Leftover, forget bool) (RevokedUpstream, error) {
	conn := left.Connection
	outcome := left.Outcome // nothing left: an earlier call did it, and this came of it
	if outcome == "" {
		outcome = RevokedUnsupported // there never was anything to revoke
	}
	has := !left.RefreshToken.IsZero() || !left.AccessToken.IsZero()
	if has || left.Outcome == "" {
		others, err := s.leaveShared(ctx, conn)
		if err != nil {
			return "", err
		}
		outcome = RevokedUnsupported // it is not this user's alone to end
		if has && !others {
			outcome, err = s.tryRevoke(ctx, conn.Connector, RevokeRequest{RefreshToken: left.RefreshToken, AccessToken: left.AccessToken, Vars: conn.Vars})
			if err != nil {
				return "", err
			}
		}
	}
	if err := s.endRevoke(ctx, conn, outcome, forget); err != nil {
		return "", err
	}
	return outcome, nil
}

func (s *Service) endRevoke(ctx context.Context, conn Connection, outcome RevokedUpstream, forget bool) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
	defer cancel()
	if err := s.cfg.Revocations.EndRevoke(ctx, conn.Tenant, conn.ID, outcome, forget); err != nil && !errors.Is(err, ErrNotFound) {
		return storeError("erase the connection's secrets", err)
	}
	return nil
}

// revokeUpstream asks the provider, twice if the first time nothing clear came back: revoking twice does no harm.
func (s *Service) revokeUpstream(ctx context.Context, connector string, req RevokeRequest) RevokedUpstream {
	outcome, err := s.tryRevoke(ctx, connector, req)
	if err != nil {
		return RevokedFailed
	}
	return outcome
}

// tryRevoke is revokeUpstream for those who have time: where the context says so, a provider that throttles or does not answer is a
// *throttledError.
func (s *Service) tryRevoke(ctx context.Context, connector string, req RevokeRequest) (RevokedUpstream, error) {
	if req.RefreshToken.IsZero() && req.AccessToken.IsZero() {
		return RevokedUnsupported, nil
	}
	patient := ctx.Value(patientKey{}) != nil
	var err error
	for range 2 {
		tryCtx, cancel := context.WithTimeout(ctx, revokeTimeout)
		err = s.cfg.Upstream.Revoke(tryCtx, connector, req)
		cancel()
		if !errors.Is(err, ErrRevokeUnsupported) {
			s.silences.note(s.refresher.lineOf(connector).provider, s.cfg.Now(), err)
		}
		switch {
		case err == nil:
			return RevokedDone, nil
		case errors.Is(err, ErrRevokeUnsupported):
			return RevokedUnsupported, nil
		case patient && ClassOf(err) == ClassThrottled:
			return "", &throttledError{after: max(retryAfter(err), throttledPause), cause: err}
		case ClassOf(err) != ClassUnsent && ClassOf(err) != ClassInDoubt:
			s.cfg.Log.WarnContext(ctx, "a provider refused to revoke a grant", "connector", connector, "error", err)
			return RevokedFailed, nil
		}
	}
	if patient {
		return "", &throttledError{after: throttledPause, cause: err}
	}
	s.cfg.Log.WarnContext(ctx, "a grant could not be revoked at the provider", "connector", connector, "error", err)
	return RevokedFailed, nil
}

// revokeLate ends a grant that a refresh brought after its connection was revoked (threat 48).
func (s *Service) revokeLate(ctx context.Context, conn Connection, grant Grant) {
	if grant.RefreshToken.IsZero() {
		return // the old one was revoked with the connection
	}
	s.cfg.Log.InfoContext(ctx, "a refresh ended after its connection was revoked; its grant is revoked too", "connection", conn.ID)
	// It may have been made a holder again as the refresh began.
	if others, err := s.leaveShared(ctx, conn); err == nil && !others && !s.HeldByOthers(ctx, conn) {
		s.revokeUpstream(ctx, conn.Connector, RevokeRequest{RefreshToken: grant.RefreshToken, AccessToken: grant.AccessToken, Vars: conn.Vars})
	}
}

// EraseSubject revokes and erases everything that there is about a subject but the audit trail, consents under way included.
func (s *Service) EraseSubject(ctx context.Context, caller Caller, subject string) (Erased, error) {
	ctx, end := s.telemetry.begin(ctx, "broker.EraseSubject", "")
	erased, err := detach(s, ctx, func(ctx context.Context) (Erased, error) { return s.eraseSubject(ctx, caller, subject) })
	end(err)
	return erased, err
}

func (s *Service) eraseSubject(ctx context.Context, caller Caller, subject string) (Erased, error) {
	erased := Erased{RevokedUpstream: map[RevokedUpstream]int{}}
	// Consents first: one that completes meanwhile would make a connection behind our back.
	if err := s.endConsentsOf(ctx, caller, subject); err != nil {
		return erased, err
	}
	all, err := s.ofSubject(ctx, caller, subject, "")
	var unreadable *UnreadableError
	if errors.As(err, &unreadable) {
		for _, id := range unreadable.IDs {
			all = append(all, Connection{Tenant: caller.Client.Tenant, ID: id, Subject: subject})
		}
		err = nil
	}
	if err != nil {
		return erased, err
	}
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(4)
	for _, conn := range all {
		group.Go(func() error {
			live := conn.Status != ConnectionRevoked
			outcome, err := s.revoke(ctx, caller, conn, "the subject was erased", true)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			erased.Connections++
			if live {
				erased.RevokedUpstream[outcome]++
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return erased, err
	}
	entry := s.entry(caller, EventSubjectErased, subject, "", "")
	entry.Outcome = "ok"
	if entry.Scopes, err = s.eventScopes(ScopeSet{}, ScopeSet{}); err != nil {
		return erased, serverError(err)
	}
	return erased, s.append(ctx, entry)
}

// endConsentsOf ends the subject's unfinished consents; grants that they hold are revoked.
func (s *Service) endConsentsOf(ctx context.Context, caller Caller, subject string) error {
	for range sweepRounds {
		open, err := s.openConsents(ctx, caller, subject)
		if err != nil {
			return err
		}
		if err := s.endConsents(ctx, open); err != nil || len(open) < openConsentsRead {
			return err
		}
	}
	e := Errorf(CodeTemporarilyUnavailable, "the subject has very many consents under way; call again to go on erasing")
	e.RetryAfter = time.Second
	return e
}

func (s *Service) openConsents(ctx context.Context, caller Caller, subject string) ([]Consent, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
	defer cancel()
	open, err := s.cfg.Consents.ConsentsOfSubject(ctx, caller.Client.Tenant, subject, openConsentsRead)
	if err != nil {
		return nil, storeError("read the subject's consents", err)
	}
	return open, nil
}

func (s *Service) endConsents(ctx context.Context, open []Consent) error {
	for _, consent := range open {
		for range releaseAttempts {
			_, err := s.endFlow(ctx, consent, ConsentFailed, EventConsentFailed, "subject_erased", "the subject was erased")
			if err == nil {
				break
			}
			if CodeOf(err) != CodeNotFound {
				return err
			}
			// It moved on: look again, and end it there.
			if consent, err = s.loadConsent(ctx, consent.ID); CodeOf(err) == CodeNotFound && err != nil {
				break
			} else if err != nil {
				return err
			}
			if consent.Status == ConsentCompleted || consent.Status == ConsentDenied || consent.Status == ConsentFailed || consent.Status == ConsentExpired {
				break
			}
		}
	}
	return nil
}
