package broker

import (
	"context"
	"time"
)

// With some providers one revocation ends everything that an account gave our OAuth client: every connection of every subject,
// of whatever tenant and connector, that stands on the same account and client (Connector.RevokesAll). Each of them has tokens
// of its own, so nothing is shared but the question who else would lose theirs. Whoever leaves asks it; the last one revokes.

// revokedTogether names what ends with a grant of that account; empty: it alone, or nobody knows.
func (s *Service) revokedTogether(connector string, account Account) string {
	if c := s.connector(connector); c.RevokesAll != "" && account.ID != "" {
		return "revoked together\x00" + c.RevokesAll + "\x00" + account.ID
	}
	return ""
}

// enlist makes sure that the connections of the OAuth client which were made before this was counted are counted too.
func (s *Service) enlist(ctx context.Context, client string) error {
	return s.cfg.Shared.Enlist(ctx, client, func(conn Connection) string {
		if s.connector(conn.Connector).RevokesAll != client {
			return ""
		}
		return s.revokedTogether(conn.Connector, conn.Account)
	})
}

// enlistTime bounds one walk through all connections: of a hundred thousand, on a store that is busy.
const enlistTime = 5 * time.Minute

// sweepHolders enlists what was there before, for each OAuth client once. Until then nothing of that client is revoked upstream.
func (s *Service) sweepHolders(ctx context.Context) {
	seen := map[string]bool{"": true}
	for _, c := range s.cfg.Connectors.All() {
		if seen[c.RevokesAll] || madeByTenant(c.ID) || ctx.Err() != nil {
			continue // what tenants make was counted from its first connection on
		}
		seen[c.RevokesAll] = true
		walk, cancel := context.WithTimeout(ctx, enlistTime)
		if err := s.enlist(walk, c.RevokesAll); err != nil {
			s.cfg.Log.WarnContext(ctx, "who holds grants of this connector's OAuth client is not known yet: none is revoked at the provider until it is", "connector", c.ID, "error", err)
		}
		cancel()
	}
}

// hold makes the connection count, before there is anything that another one's revocation could end.
func (s *Service) hold(ctx context.Context, conn Connection) error {
	name := s.revokedTogether(conn.Connector, conn.Account)
	if name == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
	defer cancel()
	return s.cfg.Shared.Hold(ctx, name, conn.holder())
}

// holdOn is hold for whoever can't fail with it: connections that an older version made, or whose holding the store lost.
func (s *Service) holdOn(ctx context.Context, conn Connection) {
	s.listen(ctx, conn)
	if err := s.hold(ctx, conn); err != nil {
		s.cfg.Log.WarnContext(ctx, "a connection could not be counted among those whose grants end together", "connection", conn.ID, "error", err)
	}
}

// markOn makes the consent count from its exchange on, behind it if need be.
func (s *Service) markOn(ctx context.Context, consent Consent) {
	name := s.revokedTogether(consent.Connector, consent.Account)
	if name == "" {
		return
	}
	mark := func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
		defer cancel()
		return s.cfg.Shared.Mark(ctx, name, consent.ID)
	}
	if err := mark(ctx); err != nil {
		s.cfg.Log.WarnContext(ctx, "a consent could not be counted yet among those whose grants end together", "consent", consent.ID, "error", err)
		s.behind(ctx, ProvisionalLife, mark) // one too many keeps a grant at its provider; one too few could end others'
	}
}

// unmark ends that: a connection counts in the consent's place, or nothing does.
func (s *Service) unmark(ctx context.Context, name, consent string) {
	if name == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
	defer cancel()
	if err := s.cfg.Shared.Unmark(ctx, name, consent); err != nil {
		s.cfg.Log.DebugContext(ctx, "the mark of an ended consent stays on its grant for a while", "consent", consent, "error", err)
	}
}

// endsOthers tells whether revoking a grant of that account would end others' too. Where that can't be known, it is said to.
func (s *Service) endsOthers(ctx context.Context, connector string, account Account, count func(ctx context.Context, name string) (int, error)) (bool, error) {
	client := s.connector(connector).RevokesAll
	if client == "" {
		return false, nil
	}
	name := s.revokedTogether(connector, account)
	if name == "" {
		return true, nil
	}
	walk, cancel := context.WithTimeout(ctx, 2*s.cfg.StoreTimeout)
	defer cancel()
	var unknown error
	if !madeByTenant(connector) {
		unknown = s.enlist(walk, client)
	}
	// Whoever leaves does so in any case.
	counting, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
	defer cancel()
	n, err := count(counting, name)
	switch {
	case err != nil:
		return true, err
	case unknown != nil:
		s.cfg.Log.WarnContext(ctx, "who else holds a grant of this account is not known yet: it stays at the provider", "connector", connector, "error", unknown)
		return true, nil
	}
	return n > 0, nil
}
