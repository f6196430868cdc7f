package broker

import (
	"context"
	"errors"
	"time"
)

// Some providers give everybody who connects the same account through the same OAuth client one and the same grant: one
// chain of refresh tokens, of which each connection has what it saw last (quirks of Slack's bot tokens). What one of them is
// given ends what the others hold. So the lease is taken for the grant, the newest tokens are kept for all its holders, each
// takes them over when it is next asked for its token, and the last one to leave ends it at the provider.

// sharedGrant names the grant of that account, for all who hold it; empty: it is its connection's own.
func (s *Service) sharedGrant(connector string, account Account) string {
	if c := s.connector(connector); c.SharedGrants != "" && account.ID != "" {
		return c.SharedGrants + "\x00" + account.ID
	}
	return ""
}

// HeldByOthers tells whether the connection's grant must not be ended at the provider, because others hold it too, or a
// consent has made the connection a holder of it again. So it is where that can't be known: their users would all have to
// consent again.
func (s *Service) HeldByOthers(ctx context.Context, conn Connection) bool {
	return s.held(ctx, conn.Connector, conn.Account, conn.holder())
}

// held is HeldByOthers for a connection or a consent.
func (s *Service) held(ctx context.Context, connector string, account Account, beside Holder) bool {
	others, err := s.endsOthers(ctx, connector, account, func(ctx context.Context, name string) (int, error) { return s.cfg.Shared.Holders(ctx, name, beside) })
	if err != nil {
		s.cfg.Log.WarnContext(ctx, "who else holds a grant of this account could not be read: it stays at the provider", "connector", connector, "error", err)
	}
	if others {
		return true
	}
	if s.connector(connector).SharedGrants == "" {
		return false
	}
	name := s.sharedGrant(connector, account)
	if name == "" {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
	defer cancel()
	n, err := s.cfg.Shared.Holders(ctx, name, beside)
	if err != nil {
		s.cfg.Log.WarnContext(ctx, "who else holds a grant could not be read: it stays at the provider", "connector", connector, "error", err)
	}
	return err != nil || n > 0
}

// newestShared is the generation of the newest tokens of the connection's grant.
func (s *Service) newestShared(ctx context.Context, conn Connection) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
	defer cancel()
	return s.cfg.Shared.Newest(ctx, conn.SharedGrant)
}

// revivable tells whether a connection whose refresh token was called dead can go on with what another holder of its grant
// was given since.
func (s *Service) revivable(ctx context.Context, conn Connection) bool {
	if conn.SharedGrant == "" || conn.Status != ConnectionNeedsConsent || conn.Error != ErrorInvalidGrant {
		return false
	}
	now, err := s.newestShared(ctx, conn)
	return err == nil && now > conn.SharedGeneration
}

// spread keeps what the consent was given for all who hold the grant: a consent of one of them ends the tokens of the others,
// also if it is never brought to its end. It returns the generation of the grant; 0: it is the connection's own.
func (s *Service) spread(ctx context.Context, consent Consent) (int64, error) {
	name := s.sharedGrant(consent.Connector, consent.Account)
	if name == "" || consent.Provisional == nil || consent.Provisional.RefreshToken.IsZero() {
		return 0, nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
	defer cancel()
	grant := bounded(*consent.Provisional, s.cfg.Now())
	grant.Scopes, grant.ScopesReported = grantedScopes(consent, grant), true // others may have asked for other ones
	return s.cfg.Shared.Spread(ctx, name, consent.ID, grant)
}

// spreadOn is spread for those who can't fail with it: it goes on behind them until the store has taken it. Until then the
// consent alone has the tokens of all.
func (s *Service) spreadOn(ctx context.Context, consent Consent) {
	_, err := s.spread(ctx, consent)
	if err == nil {
		return
	}
	s.cfg.Log.WarnContext(ctx, "what a consent was given could not yet be kept for those who hold the same grant", "consent", consent.ID, "error", err)
	s.behind(ctx, ProvisionalLife, func(ctx context.Context) error {
		_, err := s.spread(ctx, consent)
		return err
	})
}

// behind repeats work until it is done or its time is up. Nobody waits for it but Drain.
func (s *Service) behind(ctx context.Context, life time.Duration, work func(context.Context) error) {
	if !s.enter() {
		return
	}
	go func() {
		defer s.leave()
		ctx, end := context.WithoutCancel(ctx), s.cfg.Now().Add(life)
		for wait := 50 * time.Millisecond; s.cfg.Now().Before(end) && s.pauseUntilKilled(wait); wait = min(2*wait, time.Second) {
			if work(ctx) == nil {
				return
			}
		}
	}()
}

// dropConsent ends what a consent that comes to nothing was given, and records that: the user gave it, and will not find it.
func (s *Service) dropConsent(ctx context.Context, consent Consent, grant *Grant) RevokedUpstream {
	if grant == nil {
		return RevokedUnsupported
	}
	outcome := s.endGrant(ctx, consent, grant)
	entry, err := s.consentEntry(ctx, consent, EventConsentFailed, grantedScopes(consent, *grant), "revoked_upstream_"+string(outcome),
		"the consent came to nothing; what the provider had given was erased here, and revoked there: "+string(outcome))
	if err == nil {
		err = s.append(ctx, entry)
	}
	if err != nil {
		s.cfg.Log.WarnContext(ctx, "the end of a grant whose consent came to nothing is not on record yet", "consent", consent.ID, "revoked_upstream", string(outcome), "error", err)
		s.behind(ctx, revokePatience, func(ctx context.Context) error { return s.append(ctx, entry) })
	}
	return outcome
}

// endGrant ends what a consent was given: its holders keep it, if there are any, else it ends at the provider.
func (s *Service) endGrant(ctx context.Context, consent Consent, grant *Grant) RevokedUpstream {
	if c := s.connector(consent.Connector); (c.SharedGrants != "" || c.RevokesAll != "") && grant.Account.ID == "" {
		upCtx, cancel := context.WithTimeout(ctx, min(identifyTimeout, s.cfg.UpstreamTimeout))
		if identified, err := s.cfg.Upstream.Identify(upCtx, consent.Connector, *grant); err == nil {
			grant = &identified
		}
		cancel()
	}
	consent.Provisional, consent.Account = grant, grant.Account
	s.spreadOn(ctx, consent)
	// First: of two that come to nothing at the same time one must find nobody else.
	s.unmark(ctx, s.revokedTogether(consent.Connector, grant.Account), consent.ID)
	req := RevokeRequest{RefreshToken: grant.RefreshToken, AccessToken: grant.AccessToken, Vars: grant.Vars}
	outcome := RevokedUnsupported
	if !s.held(ctx, consent.Connector, grant.Account, Holder{ID: consent.ID}) {
		outcome = s.revokeUpstream(ctx, consent.Connector, req)
	}
	s.unmark(ctx, s.sharedGrant(consent.Connector, grant.Account), consent.ID)
	return outcome
}

// leaveShared ends the connection's holding and tells whether others are left, or whether that can't be known.
func (s *Service) leaveShared(ctx context.Context, conn Connection) (others bool, err error) {
	s.listenNoMore(ctx, conn)
	others, err = s.endsOthers(ctx, conn.Connector, conn.Account, func(ctx context.Context, name string) (int, error) {
		return s.cfg.Shared.Leave(ctx, name, conn.holder())
	})
	if err != nil {
		return true, storeError("leave the grants of the account", err)
	}
	if conn.SharedGrant == "" {
		return others, nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
	defer cancel()
	left, err := s.cfg.Shared.Leave(ctx, conn.SharedGrant, conn.holder())
	if err != nil {
		return true, storeError("leave the grant", err)
	}
	return others || left > 0, nil
}

// errMovedOn: the refresh token was dead because a newer one is there: another holder of the grant was given it meanwhile, or the
// store had lost it and has it again.
var errMovedOn = errors.New("a newer refresh token of the same grant is there")

// maxMoved bounds how often one run begins anew for that.
const maxMoved = 3

// movedOn tells whether the grant has newer tokens than those that this lease was given, or whether that can't be known.
func (r *refresher) movedOn(ctx context.Context, conn Connection, lease Lease) bool {
	if lease.Shared.Name == "" {
		return false
	}
	now, err := r.s.newestShared(ctx, conn)
	return err != nil || now > lease.Shared.Generation
}

// grantOf names the provider's grant behind the connection.
func grantOf(conn Connection) string {
	if conn.SharedGrant != "" {
		return conn.SharedGrant
	}
	return conn.ID
}

// serves tells whether a stored grant will do without a refresh.
func (r *refresher) serves(grant Grant, w want) bool {
	if w.key != "" || grant.AccessToken.IsZero() || grant.Never {
		return false
	}
	left := grant.ExpiresAt.Sub(r.s.cfg.Now())
	return left > 0 && left >= w.minTTL && left > 2*softBand(grant.Lifetime)
}
