package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// choose finds the one connection that a token request means, active and with all scopes asked for. Everything else is
// an error that says what the caller should do: ask the user for consent, or which account is meant.
// seen, if not nil, is what was read on the way here.
func (s *Service) choose(ctx context.Context, caller Caller, req TokenRequest, asked ask, seen *WrongGuess) (Connection, error) {
	if asked.connector.Direct() {
		return s.standing(ctx, caller, req, asked)
	}
	all, unreadable := s.ofSubjectSwitched(ctx, caller, req, seen)
	if _, off := DisabledBy(unreadable); off {
		return Connection{}, unreadable
	}
	all = slices.DeleteFunc(all, func(c Connection) bool { return c.Direct }) // of the time before the operator changed the grant
	conn, reason, err := pick(all, req.Connection)
	if unreadable != nil && (req.Connection == "" || err != nil) {
		return Connection{}, unreadable // the one that is meant may be among those that can't be read
	}
	if err != nil {
		return Connection{}, err
	}
	need := ConsentRequest{
		Connector: asked.connector.ID, Subject: req.Subject, Scopes: asked.scopes, ReturnTo: req.ReturnTo, State: req.State, Actor: req.Actor,
	}
	missing := asked.scopes
	if reason == "" {
		missing = asked.scopes.Minus(conn.Scopes)
		switch {
		case conn.Status == ConnectionRevoked:
			reason, missing = ReasonRevoked, asked.scopes
		case conn.Status == ConnectionNeedsConsent && conn.Error == ErrorExpired:
			reason = ReasonExpired
		case conn.Status == ConnectionNeedsConsent && missing.Empty() && s.revivable(ctx, conn):
			return conn, nil // the refresher takes over what another holder was given
		case conn.Status == ConnectionNeedsConsent:
			reason = ReasonRevoked
		case !missing.Empty():
			reason = ReasonScopeMissing
		default:
			return conn, nil
		}
		need.Connection = conn.ID
	}
	link, err := s.pendingOrNew(ctx, caller, need, asked)
	if err != nil {
		return Connection{}, err
	}
	e := Errorf(CodeConsentRequired, "show the link to the user; the token can be had once the consent is completed")
	e.Consent = &ConsentRequired{Reason: reason, MissingScopes: missing, Consent: link}
	return Connection{}, e
}

// pick selects among a subject's connections to one connector. With a reason there is none to use.
func pick(all []Connection, named string) (Connection, ConsentReason, error) {
	if named != "" {
		for _, c := range all {
			if c.ID == named {
				return c, "", nil
			}
		}
		return Connection{}, "", Errorf(CodeNotFound, "this subject has no such connection to this connector")
	}
	var live []Connection
	for _, c := range all {
		if c.Status != ConnectionRevoked {
			live = append(live, c)
		}
	}
	switch {
	case len(live) == 1:
		return live[0], "", nil
	case len(live) > 1:
		// Never choose for the user: the wrong account is worse than a question, even where the other one is out of order.
		e := Errorf(CodeAccountSelectionRequired, "the user has several accounts connected; ask which is meant and name its connection")
		for _, c := range live {
			e.Accounts = append(e.Accounts, AccountChoice{Connection: c.ID, Account: c.Account})
		}
		return Connection{}, "", e
	case len(all) > 0:
		return Connection{}, ReasonRevoked, nil
	default:
		return Connection{}, ReasonNeverConnected, nil
	}
}

// ofSubject reads the subject's connections to the connector ("": to all). Beside an error come those that can be read.
func (s *Service) ofSubject(ctx context.Context, caller Caller, subject, connector string) ([]Connection, error) {
	return s.readSubject(ctx, caller, subject, connector, func(ctx context.Context) ([]Connection, error) {
		return s.cfg.Connections.OfSubject(ctx, caller.Client.Tenant, subject, connector)
	})
}

func (s *Service) readSubject(ctx context.Context, caller Caller, subject, connector string, read func(context.Context) ([]Connection, error)) ([]Connection, error) {
	ctx, cancel := within(ctx, s.cfg.StoreTimeout)
	defer cancel()
	all, err := read(ctx)
	if errors.Is(err, ErrIntegrity) {
		return all, s.integrityFailed(ctx, caller, Connection{Tenant: caller.Client.Tenant, Subject: subject, Connector: connector}, "connection record", err)
	}
	if err != nil {
		return all, storeError("read the subject's connections", err)
	}
	return all, nil
}

// readable is ofSubject for those who want what there is: a record that does not open must not hide the others. That it
// does not is on record by then.
func (s *Service) readable(ctx context.Context, caller Caller, subject, connector string) ([]Connection, error) {
	all, err := s.ofSubject(ctx, caller, subject, connector)
	var bad *UnreadableError
	if errors.As(err, &bad) && CodeOf(err) != CodeTemporarilyUnavailable || errors.Is(err, ErrNewerFormat) {
		return all, nil
	}
	return all, err
}

// reread reads a connection again.
func (s *Service) reread(ctx context.Context, conn Connection) (Connection, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
	defer cancel()
	return s.cfg.Connections.Connection(ctx, conn.Tenant, conn.ID)
}

// storeError is what a caller sees when the store could not do its part.
func storeError(what string, cause error) *Error {
	if errors.Is(cause, ErrNewerFormat) {
		e := Errorf(CodeTemporarilyUnavailable, "this record was written by a newer version of the broker; retry, another replica may serve it")
		e.RetryAfter = 5 * time.Second
		return e.Because(fmt.Errorf("%s: %w", what, cause))
	}
	if errors.Is(cause, ErrKeyNotYet) {
		e := Errorf(CodeTemporarilyUnavailable, "this record is sealed with a key that this replica of the broker does not have yet; retry, another replica may serve it")
		e.RetryAfter = time.Second
		return e.Because(fmt.Errorf("%s: %w", what, cause))
	}
	if errors.Is(cause, ErrIntegrity) {
		return serverError(fmt.Errorf("%s: %w", what, cause))
	}
	e := Errorf(CodeTemporarilyUnavailable, "the broker's store could not %s; retry", what)
	e.RetryAfter = time.Second
	return e.Because(cause)
}

func serverError(cause error) *Error {
	return Errorf(CodeServerError, "the broker failed; the operator finds the cause under this request id").Because(cause)
}

func errReturnTo() *Error {
	return Errorf(CodeInvalidRequest, "return_to is not one of the URLs registered for this client; the operator adds it under clients: return_to")
}
