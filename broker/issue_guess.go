package broker

import (
	"context"
	"errors"
)

// guessed tries to serve the request in one round trip, on what this process remembers of the connection: steps 2 to 6 of issueToken
// at once, for a valid token of the only connection. Whatever is not as plain as that is left to those steps; wrong then has
// what was read in passing, if anything was. No decision is made by the guess alone: the store goes by it only if all is still
// as it was, and records the events in the same step.
func (s *Service) guessed(ctx context.Context, caller Caller, req TokenRequest, asked ask) (token Token, served bool, wrong *WrongGuess, err error) {
	if s.cfg.Guesses == nil || asked.connector.Direct() {
		return Token{}, false, nil, nil
	}
	guess, ok := s.cfg.Guesses.Guess(caller.Client.Tenant, req.Subject, req.Connector)
	if !ok || !fits(guess, caller, req, asked) {
		return Token{}, false, nil, nil
	}
	now := s.cfg.Now()
	if left := guess.ExpiresAt.Sub(now); left <= 0 || left < req.minTTL() {
		return Token{}, false, nil, nil
	}
	entry, err := s.issuedEntry(caller, req, asked, guess.Connection, guess.Scopes)
	if err != nil {
		return Token{}, false, nil, serverError(err)
	}
	releaseCtx, cancel := within(ctx, s.cfg.AuditTimeout)
	defer cancel()
	conn, secret, err := s.cfg.Guesses.ReleaseGuessed(releaseCtx, guess, entry)
	switch {
	case err == nil:
	case errors.As(err, &wrong):
		return Token{}, false, wrong, nil
	case errors.Is(err, ErrIntegrity):
		about := Connection{ID: guess.Connection, Tenant: caller.Client.Tenant, Subject: req.Subject, Connector: req.Connector}
		return Token{}, false, nil, s.integrityFailed(ctx, caller, about, "connection record", err)
	default:
		return Token{}, false, nil, storeError("record the events of this token", err)
	}
	info, ok := conn.Token("")
	if !ok {
		return Token{}, false, nil, serverError(errors.New("a guess was released without a token"))
	}
	want, err := plan(asked, req, conn, now)
	soon := err == nil && want.soon
	if soon {
		s.refresher.ahead(conn, want)
	}
	token = s.answer(conn, info, secret)
	token.Degraded = s.refresher.isFailing(conn, soon)
	return token, true, nil, nil
}

// fits tells whether the guess would serve the request, but for how long its token lives.
func fits(guess Guess, caller Caller, req TokenRequest, asked ask) bool {
	if req.Connection != "" && req.Connection != guess.Connection {
		return false
	}
	about := switched{tenant: caller.Client.Tenant, client: caller.Client.ID, connector: req.Connector, agent: req.Actor.Agent}
	if guess.Table.refuse(about) != nil || !guess.Scopes.Covers(asked.scopes) {
		return false
	}
	narrow, err := asked.narrowing(guess.Scopes)
	return err == nil && !narrow
}
