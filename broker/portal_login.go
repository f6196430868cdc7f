package broker

import (
	"context"
	"errors"
)

// A visit of binding "login": the person proves who they are at the tenant's own OpenID Provider, in the browser that the visit
// belongs to, so no completing call has to.

const loginForPortal loginPurpose = "p"

// startLoginAtPortal gives the visit a sign-in of its own: what is to be stored, and where the browser goes.
func (s *Service) startLoginAtPortal(ctx context.Context, portal Portal, client Client, browser Secret) (Portal, Secret, error) {
	run, location, err := s.beginLogin(ctx, client, loginForPortal, portal.ID, browser, portal.Attempts > 0)
	portal.Login, portal.Claim = run, ""
	return portal, location, err
}

// finishPortalLogin takes the redirect of the tenant's OpenID Provider. A wrong person, or an answer that proves nothing, counts,
// and the fifth ends the visit.
//
// The first write uses up the state: of many callbacks one goes on. A crash behind it leaves a started visit, which the same
// browser can start again.
func (s *Service) finishPortalLogin(ctx context.Context, id string, cb LoginCallback) (LoginFinish, error) {
	portal, err := s.loadPortal(ctx, id)
	if CodeOf(err) == CodeNotFound {
		return LoginFinish{}, errBadState()
	}
	if err != nil {
		return LoginFinish{}, err
	}
	client, known := s.cfg.Client(portal.Client)
	if !known || portal.Client != cb.Client || portal.Binding != BindingLogin || s.portalStatusOf(portal) != PortalStarted {
		return LoginFinish{}, errBadState()
	}
	if err := s.checkLogin(portal.Login, cb, cookieName(portal.ID)); CodeOf(err) == CodeAccessDenied {
		return LoginFinish{}, s.strangeVisitor(ctx, portal, "the answer of the sign-in came in another browser than the link was opened in", err)
	} else if err != nil {
		return LoginFinish{}, err
	}
	if err := s.mayVisit(ctx, portal); err != nil {
		return LoginFinish{}, err
	}
	claim, err := s.ids().secret(idBytes)
	if err != nil {
		return LoginFinish{}, serverError(err)
	}
	portal.Login, portal.Claim = portal.Login.used(), claim.Reveal()
	if portal, err = s.updatePortal(ctx, portal); errors.Is(err, ErrConflict) {
		return LoginFinish{}, errBadState()
	} else if err != nil {
		return LoginFinish{}, err
	}
	if _, err := s.redeemLogin(ctx, client, portal.Login, cb, portal.Subject); err != nil {
		return LoginFinish{}, s.loginAtPortalFailed(ctx, portal, err)
	}
	portal.Login, portal.Claim = LoginRun{}, ""
	if _, err := s.openPortal(ctx, portal); errors.Is(err, ErrConflict) {
		return LoginFinish{}, errBadState()
	} else if err != nil {
		return LoginFinish{}, err
	}
	return LoginFinish{Path: "/portal/session/" + portal.ID}, nil
}

// loginAtPortalFailed lets the link be started anew, in whatever browser: nobody has proved anything in this one. It returns
// cause.
func (s *Service) loginAtPortalFailed(ctx context.Context, portal Portal, cause error) error {
	portal.Status, portal.Deadline = PortalPending, portal.CreatedAt.Add(LinkLife)
	portal.Login, portal.Claim, portal.BrowserDigest = LoginRun{}, "", ""
	reason := "nobody signed in at the tenant's OpenID Provider, or nothing shows who"
	switch CodeOf(cause) {
	case CodeSubjectMismatch:
		reason = "somebody else signed in at the tenant's OpenID Provider than the one whom the link was made for"
		portal.Attempts++
	case CodeLoginFailed:
		portal.Attempts++
	}
	if portal.Attempts >= MaxCodeAttempts {
		portal = endedPortal(portal)
	}
	entry, err := s.portalEntry(ctx, portal, EventPortalRefused, string(CodeOf(cause)), reason)
	if err != nil {
		return err
	}
	if _, err := s.updatePortal(ctx, portal, entry); err != nil && !errors.Is(err, ErrConflict) {
		return err
	}
	return cause
}
