package broker

import (
	"context"
	"errors"
	"time"
)

// This file holds who the user of a request is, where a signed token says so and not the client alone (threat 40): the
// subject token of RFC 8693 section 2.1, and its actor token.

// Assertion is what a verified token says of somebody.
type Assertion struct {
	Issuer  string
	Subject string // whom it is about
	// ID tells it from others of its issuer (jti, or the nonce of an ID token); "": it has none.
	ID      string
	Expires time.Time
	// Once: it must not be used a second time.
	Once bool
	// MayAct is who may act for the subject (RFC 8693 section 4.4); nil: it says nothing of that.
	MayAct *Party
}

// Party is somebody at an issuer; "" is the issuer of the token in which it stands.
type Party struct{ Issuer, Subject string }

// Assertions verify tokens of the issuers that a client's configuration names. Errors: ErrAssertionRefused, which says why; anything else: the
// issuer's keys could not be had.
type Assertions interface {
	// Subject verifies a token that says who the user is, Actor one that says who acts for them.
	Subject(ctx context.Context, client string, token Secret) (Assertion, error)
	Actor(ctx context.Context, client string, token Secret) (Assertion, error)
	// Client verifies one that says which client asks (RFC 7523 section 3); named is the client_id of the request, or "".
	Client(ctx context.Context, named string, token Secret) (client string, a Assertion, err error)
}

// UsedAssertions remembers tokens that may be used once, on all replicas.
type UsedAssertions interface {
	// Use notes that a token of that issuer is used, until it expires. ErrConflict: it was before.
	Use(ctx context.Context, issuer, id string, until time.Time) error
	// Unuse takes that back: nothing came of it.
	Unuse(ctx context.Context, issuer, id string) error
}

// ErrAssertionRefused: a token that says who somebody is does not count. What is wrapped around it holds nothing of the token.
var ErrAssertionRefused = errors.New("the token is not accepted")

// usedFor is how much longer than its life a used token is remembered: clocks differ.
const usedFor = 5 * time.Minute

// Proofs are what a request carries to prove whom it is for.
type Proofs struct {
	Subject Secret // a subject token; zero: none
	Actor   Secret // an actor token; zero: none
}

// asserted brings the subject and the actor of a request to what its tokens say. undo gives tokens that may be used once back, where the
// request came to nothing. A client that must send a subject token and does not is refused, whatever it says of the subject.
func (s *Service) asserted(ctx context.Context, caller Caller, p Proofs, subject *string, actor *Actor) (undo func(), err error) {
	undo = func() {}
	if actor == nil { // a call in which nobody acts for the user
		actor = &Actor{}
	}
	if p.Subject.IsZero() {
		switch {
		case caller.Client.SubjectTokens:
			return undo, Errorf(CodeInvalidSubjectToken, "subject_token is missing: this client must prove who the user is, by a token of its identity provider")
		case !p.Actor.IsZero():
			return undo, Errorf(CodeInvalidRequest, "actor_token needs a subject_token beside it")
		}
		return undo, nil
	}
	if s.cfg.Assertions == nil {
		return undo, Errorf(CodeInvalidSubjectToken, "this broker accepts no subject tokens; the operator names their issuers under clients: subject_tokens")
	}
	who, err := s.cfg.Assertions.Subject(ctx, caller.Client.ID, p.Subject)
	if err != nil {
		return undo, assertionError("subject_token", err)
	}
	if *subject != "" && *subject != who.Subject {
		return undo, Errorf(CodeSubjectMismatch, "subject is not whom subject_token is about; leave subject out")
	}
	var used []Assertion
	if !p.Actor.IsZero() {
		by, err := s.cfg.Assertions.Actor(ctx, caller.Client.ID, p.Actor)
		switch {
		case err != nil:
			return undo, assertionError("actor_token", err)
		case who.MayAct != nil && !who.MayAct.is(by, who.Issuer):
			return undo, Errorf(CodeInvalidSubjectToken, "subject_token names somebody else who may act for its subject (may_act)")
		case actor.Agent != "" && actor.Agent != by.Subject:
			return undo, Errorf(CodeInvalidRequest, "actor.agent is not whom actor_token is about; leave it out")
		}
		actor.Agent = by.Subject
		used = append(used, by)
	}
	undo, err = s.use(ctx, append(used, who)...)
	if err != nil {
		return undo, err
	}
	if *subject == "" { // else it was counted already
		if err := s.AdmitSubject(caller, who.Subject); err != nil {
			undo()
			return func() {}, err
		}
	}
	*subject = who.Subject
	return undo, nil
}

// is tells that the assertion is of that party.
func (p Party) is(a Assertion, at string) bool {
	if p.Issuer != "" {
		at = p.Issuer
	}
	return p.Subject != "" && p.Subject == a.Subject && at == a.Issuer
}

// use notes that tokens are used that may be so once.
func (s *Service) use(ctx context.Context, all ...Assertion) (undo func(), err error) {
	var noted []Assertion
	undo = func() {
		for _, a := range noted {
			// Whatever ended the request: who sends the token again must not hear that it was used. If this fails they need a fresh one.
			trip, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.StoreTimeout)
			_ = s.cfg.UsedAssertions.Unuse(trip, a.Issuer, a.ID)
			cancel()
		}
	}
	for _, a := range all {
		if !a.Once {
			continue
		}
		trip, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
		err := s.cfg.UsedAssertions.Use(trip, a.Issuer, a.ID, a.Expires.Add(usedFor))
		cancel()
		switch {
		case errors.Is(err, ErrConflict):
			undo()
			return func() {}, Errorf(CodeInvalidSubjectToken, "this token was used before, and counts once; send a fresh one (the operator may allow more: clients: subject_tokens: replay)")
		case err != nil:
			undo()
			return func() {}, storeError("note that a token was used", err)
		}
		noted = append(noted, a)
	}
	return undo, nil
}

// assertionError is what the caller hears of a token that was not verified.
func assertionError(name string, err error) *Error {
	if errors.Is(err, ErrAssertionRefused) {
		return Errorf(CodeInvalidSubjectToken, "%s: %v", name, err).Because(err)
	}
	e := Errorf(CodeTemporarilyUnavailable, "the keys of the issuer of %s could not be had; retry", name)
	e.RetryAfter = 5 * time.Second
	return e.Because(err)
}

// AuthenticateAssertion tells which client a client assertion is of (RFC 7523 section 3). The error is an *Error.
func (s *Service) AuthenticateAssertion(ctx context.Context, named string, token Secret) (client string, err error) {
	if s.cfg.Assertions == nil {
		return "", Errorf(CodeInvalidClient, "no client here authenticates by an assertion")
	}
	id, a, err := s.cfg.Assertions.Client(ctx, named, token)
	switch {
	case errors.Is(err, ErrAssertionRefused):
		return "", Errorf(CodeInvalidClient, "client_assertion: %v", err).Because(err)
	case err != nil:
		return "", assertionError("client_assertion", err)
	}
	if _, err := s.use(ctx, a); CodeOf(err) == CodeInvalidSubjectToken && err != nil {
		return "", Errorf(CodeInvalidClient, "client_assertion: its jti was used before; sign a new one for each request")
	} else if err != nil {
		return "", err
	}
	return id, nil
}
