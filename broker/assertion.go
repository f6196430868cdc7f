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
	// ID tells it from others of its issuer: the jti, or a digest of what was signed.
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
	// Use notes that a token of that issuer is used at a tenant, until it expires. ErrConflict: it was before. The receipt stands for this use
	// alone, also where the error leaves open whether it was noted.
	Use(ctx context.Context, token UsedToken, until time.Time) (receipt string, err error)
	// Unuse takes back the use of that receipt: nothing came of it.
	Unuse(ctx context.Context, token UsedToken, receipt string) error
}

// UsedToken names a token that counts once.
type UsedToken struct{ Tenant, Issuer, ID string }

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
	counted := actor != nil // what completes something is counted apart
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
	switch {
	case p.Actor.IsZero() && who.MayAct != nil && actor != nil:
		return undo, Errorf(CodeInvalidSubjectToken, "subject_token says who may act for its subject (may_act): send that one's actor_token beside it")
	case p.Actor.IsZero() && caller.Client.ActorTokens && actor != nil && actor.Agent != "":
		return undo, Errorf(CodeInvalidRequest, "actor.agent counts by an actor_token alone; send it, or leave actor.agent out")
	case p.Actor.IsZero() && caller.Client.ActorsRequired && actor != nil:
		return undo, Errorf(CodeInvalidSubjectToken, "actor_token is missing: this client must prove who acts for the user")
	case !p.Actor.IsZero():
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
	undo, err = s.use(ctx, caller.Client.Tenant, append(used, who)...)
	if err != nil {
		return undo, err
	}
	if counted { // only now is it known whose request it is: nobody uses up another one's limit by naming them
		if err := s.AdmitSubject(caller, who.Subject); err != nil {
			undo()
			return func() {}, err
		}
	}
	*subject = who.Subject
	return undo, nil
}

// unproven records that something was to be completed for somebody who was not proven to be anybody.
func (s *Service) unproven(ctx context.Context, caller Caller, kind EventType, cause error) error {
	return s.refusedWith(context.WithoutCancel(ctx), s.entry(caller, kind, "", "", ""), ScopeSet{}, cause)
}

// is tells that the assertion is of that party.
func (p Party) is(a Assertion, at string) bool {
	if p.Issuer != "" {
		at = p.Issuer
	}
	return p.Subject != "" && p.Subject == a.Subject && at == a.Issuer
}

// use notes that tokens are used that may be so once.
func (s *Service) use(ctx context.Context, tenant string, all ...Assertion) (undo func(), err error) {
	type noted struct {
		token   UsedToken
		receipt string
	}
	var uses []noted
	undo = func() {
		for _, u := range uses {
			// Whatever ended the request: who sends the token again must not hear that it was used. If this fails they need a fresh one.
			trip, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.StoreTimeout)
			_ = s.cfg.UsedAssertions.Unuse(trip, u.token, u.receipt)
			cancel()
		}
	}
	for _, a := range all {
		if !a.Once {
			continue
		}
		trip, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
		u := noted{token: UsedToken{Tenant: tenant, Issuer: a.Issuer, ID: a.ID}}
		var err error
		u.receipt, err = s.cfg.UsedAssertions.Use(trip, u.token, a.Expires.Add(usedFor))
		cancel()
		uses = append(uses, u) // in doubt it was noted; of another's use this receipt takes nothing back
		switch {
		case errors.Is(err, ErrConflict):
			undo()
			return func() {}, Errorf(CodeInvalidSubjectToken, "this token was used before, and counts once; send a fresh one (the operator may allow more: clients: subject_tokens: replay)")
		case err != nil:
			undo()
			return func() {}, storeError("note that a token was used", err)
		}
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
	case errors.Is(err, ErrAssertionRefused): // why is for the log: nobody is authenticated yet
		s.cfg.Log.InfoContext(ctx, "a client assertion was refused", "error", err)
		return "", Errorf(CodeInvalidClient, "client_assertion does not count: it must be signed by a key of the client's, or be the token of a workload that stands for it, for this broker and not yet ended; the operator's log says more").Because(err)
	case err != nil:
		return "", assertionError("client_assertion", err)
	}
	if _, err := s.use(ctx, "", a); CodeOf(err) == CodeInvalidSubjectToken && err != nil {
		return "", Errorf(CodeInvalidClient, "client_assertion: its jti was used before; sign a new one for each request")
	} else if err != nil {
		return "", err
	}
	return id, nil
}
