package broker

import (
	"context"
	"errors"
	"time"
)

// "My connections" is a page on which a user sees what is connected, which assistant was given which permission when and why,
// and can end it. A visit begins with a link that the client asks for, and the link proves nothing: until the client has said
// that the person in that very browser is the one logged in there, the page shows nothing and ends nothing. Without that, who
// holds a forwarded link could look into somebody else's accounts, or show somebody a list that is not theirs.
//
//	          create          start (cookie)          complete (subject, code)
//	(nothing) ──────▶ pending ──────────▶ started ────────────────────────────▶ open ──▶ ended (signed out)
//	                     │                   │  binding return: and the browser     │
//	                     │                   │  that complete sent on has the cookie│
//	                     │                   ├ five wrong codes or persons ▶ ended  │
//	                     └ 10 min ▶ expired ◀┴ the code's time is up                └ 15 min ▶ expired
//
// With binding login the person signs in at the tenant's own OpenID Provider in place of all that (portal_login.go).
//
// This file has the types and the client's half; portal_browser.go the browser's, portal_list.go what an open visit shows.

// PortalLife is how long an open visit lasts, whatever is done in it: looking at a page writes nothing, so there is no idle time
// to count.
const PortalLife = 15 * time.Minute

// PortalStatus is the state of a visit.
type PortalStatus string

// The states of a visit.
const (
	PortalPending PortalStatus = "pending" // nobody has used the link
	PortalStarted PortalStatus = "started" // it belongs to one browser, and who sits there is not proved yet
	PortalOpen    PortalStatus = "open"
	PortalEnded   PortalStatus = "ended"
	PortalExpired PortalStatus = "expired"
)

// Portal is one visit to the page. Secrets in it are sealed by the store.
type Portal struct {
	ID       string
	Tenant   string
	Client   string // whose connectors the page shows
	Subject  string
	Binding  Binding
	ReturnTo string
	State    string // the client's own state, handed back with return_to
	Link     Secret

	Status    PortalStatus
	Deadline  time.Time // ends the present phase
	CreatedAt time.Time

	BrowserDigest  string // digest of the cookie of the browser that it belongs to
	CompletionCode Secret // what complete must bring; taken out by the call that brings it
	Attempts       int    // wrong codes and subjects so far
	// TicketDigest is of what complete gave the client to send the browser on with (binding return): set from then until that
	// browser has come.
	TicketDigest string
	// Login is the sign-in at the tenant's own OpenID Provider, of a started visit of binding login. Claim names the taking of its
	// answer, so that two callbacks at once are two writes.
	Login LoginRun
	Claim string

	RequestID string
	TraceID   string

	// Version grows by one with every write; a write names the version it was made from. 0: not stored yet.
	Version int64
}

// PortalRequest asks for a visit.
type PortalRequest struct {
	Subject  string
	Proofs   Proofs
	ReturnTo string
	State    string
}

// PortalView is a visit as its client sees it.
type PortalView struct {
	ID        string
	Status    PortalStatus
	Subject   string
	Binding   Binding
	ExpiresAt time.Time
}

// PortalLink is what a client shows to its user.
type PortalLink struct {
	ID        string
	URL       Secret
	Binding   Binding
	ExpiresAt time.Time
}

// PortalEntrance is where a client sends the browser whose person it has vouched for. With binding return the URL holds a
// secret that works once, within two minutes, and only in the browser that the visit belongs to.
type PortalEntrance struct {
	View PortalView
	URL  Secret
}

// CreatePortal makes a link to the page, always a new one. Errors are *Error.
func (s *Service) CreatePortal(ctx context.Context, caller Caller, req PortalRequest) (PortalView, PortalLink, error) {
	undo, err := s.asserted(ctx, caller, req.Proofs, &req.Subject, nil)
	if err == nil && !req.Proofs.Subject.IsZero() {
		if err = s.AdmitSubject(caller, req.Subject); err != nil {
			undo()
		}
	}
	if err != nil {
		return PortalView{}, PortalLink{}, s.unproven(ctx, caller, EventPortalRefused, err)
	}
	view, link, err := s.createPortal(ctx, caller, req)
	if err != nil {
		undo()
	}
	return view, link, err
}

func (s *Service) createPortal(ctx context.Context, caller Caller, req PortalRequest) (PortalView, PortalLink, error) {
	if req.ReturnTo != "" && !mayReturnTo(caller.Client, req.ReturnTo) {
		entry := s.entry(caller, EventPortalRefused, req.Subject, "", "")
		return PortalView{}, PortalLink{}, s.refusedWith(ctx, entry, ScopeSet{}, errReturnTo())
	}
	if err := s.hasRoom(); err != nil {
		return PortalView{}, PortalLink{}, err
	}
	if err := s.admitLink(caller); err != nil {
		return PortalView{}, PortalLink{}, err
	}
	if err := s.mayGoOn(ctx, req.Subject, switched{tenant: caller.Client.Tenant, client: caller.Client.ID}); err != nil {
		return PortalView{}, PortalLink{}, s.refusedWith(ctx, s.entry(caller, EventPortalRefused, req.Subject, "", ""), ScopeSet{}, err)
	}
	now := s.cfg.Now().UTC()
	portal := Portal{
		Tenant: caller.Client.Tenant, Client: caller.Client.ID, Subject: req.Subject, Binding: bindingOf(caller.Client, req.ReturnTo), ReturnTo: req.ReturnTo, State: req.State,
		Status: PortalPending, Deadline: now.Add(LinkLife), CreatedAt: now, RequestID: caller.RequestID, TraceID: caller.TraceID,
	}
	var err error
	if portal.ID, err = s.ids().record(portal.Tenant, portal.Subject); err != nil {
		return PortalView{}, PortalLink{}, serverError(err)
	}
	if portal.Link, err = s.ids().bound(portal.ID); err != nil {
		return PortalView{}, PortalLink{}, serverError(err)
	}
	entry, err := s.portalEntry(ctx, portal, EventPortalCreated, "ok", "")
	if err != nil {
		return PortalView{}, PortalLink{}, err
	}
	storeCtx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
	defer cancel()
	stored, err := s.cfg.Portals.CreatePortal(storeCtx, portal, []Entry{entry})
	if err != nil {
		return PortalView{}, PortalLink{}, storeError("store the visit", err)
	}
	link := PortalLink{ID: stored.ID, URL: NewSecret(s.cfg.PublicURL + "/portal/" + stored.Link.Reveal()), Binding: stored.Binding, ExpiresAt: stored.Deadline}
	return s.portalView(stored), link, nil
}

// PortalStatus tells how far a visit is.
func (s *Service) PortalStatus(ctx context.Context, caller Caller, id string) (PortalView, error) {
	portal, err := s.portalOf(ctx, caller, id)
	if err != nil {
		return PortalView{}, err
	}
	return s.portalView(portal), nil
}

// CompletePortal is the client's word that the person in the browser with that code is its user: the subject is whoever is
// logged in there. Only now can the page be seen, with binding return by the very browser that the client sends on.
//
// Errors are *Error: subject_mismatch, invalid_code, expired, not_found.
func (s *Service) CompletePortal(ctx context.Context, caller Caller, id string, c Completion) (PortalEntrance, error) {
	ctx, end := s.telemetry.begin(WithRequestID(ctx, caller.RequestID), "broker.CompletePortal", "")
	undo, err := s.asserted(ctx, caller, c.Proofs, &c.Subject, nil)
	var entrance PortalEntrance
	if err != nil {
		err = s.unproven(ctx, caller, EventPortalRefused, err)
	} else {
		if entrance, err = s.completePortal(ctx, caller, id, c); err != nil {
			undo()
		}
	}
	end(err)
	return entrance, err
}

func (s *Service) completePortal(ctx context.Context, caller Caller, id string, c Completion) (PortalEntrance, error) {
	for range releaseAttempts {
		portal, err := s.portalOf(ctx, caller, id)
		if err != nil {
			return PortalEntrance{}, err
		}
		if err := s.mayVisit(ctx, portal); err != nil {
			return PortalEntrance{}, s.disabledVisit(ctx, portal, err)
		}
		if portal.Binding == BindingLogin {
			return PortalEntrance{}, s.portalRefused(ctx, portal, "completed, though the user signs in",
				Errorf(CodeInvalidRequest, "this visit opens by itself once its user has signed in; nothing has to be completed"))
		}
		switch status := s.portalStatusOf(portal); {
		case status == PortalPending:
			return PortalEntrance{}, s.portalRefused(ctx, portal, "completed before anybody had opened the link",
				Errorf(CodeInvalidRequest, "nobody has opened the link yet; complete the visit with the code that comes of that"))
		case status != PortalStarted || portal.CompletionCode.IsZero():
			return PortalEntrance{}, s.portalRefused(ctx, portal, "completed after its end, or again",
				Errorf(CodeExpired, "this visit can't be completed any more; a code works once, make a new link"))
		}
		var wrong *Error
		switch {
		case c.Subject != portal.Subject:
			wrong = Errorf(CodeSubjectMismatch, "the person logged in is not the one whom this link was made for; nothing was shown")
		case !typedCode(portal.Binding, c.Code).Equal(portal.CompletionCode):
			wrong = Errorf(CodeInvalidCode, "this is not the code of the page; after %d wrong ones the link is dead", MaxCodeAttempts)
		}
		var entrance PortalEntrance
		if wrong != nil {
			err = s.countWrongAtPortal(ctx, portal, wrong)
		} else {
			entrance, err = s.admitToPortal(ctx, portal)
		}
		if errors.Is(err, ErrConflict) {
			continue // another call came in between: decide again from there
		}
		return entrance, err
	}
	return PortalEntrance{}, &Error{Code: CodeTemporarilyUnavailable, Description: "too many calls for this visit at once", RetryAfter: time.Second}
}

// admitToPortal opens the visit, or, with binding return, makes the ticket by which the browser that the client sends on shows
// that it is the one which the visit belongs to. Without it whoever started a forwarded link could let its owner's browser
// fetch return_to, and be let in by the owner's own login (0013-portal.md).
func (s *Service) admitToPortal(ctx context.Context, portal Portal) (PortalEntrance, error) {
	portal.CompletionCode = Secret{}
	address := s.cfg.PublicURL + "/portal/session/" + portal.ID
	if portal.Binding != BindingReturn {
		stored, err := s.openPortal(ctx, portal)
		return PortalEntrance{View: s.portalView(stored), URL: NewSecret(address)}, err
	}
	ticket, err := s.ids().secret(secretBytes)
	if err != nil {
		return PortalEntrance{}, serverError(err)
	}
	portal.TicketDigest, portal.Deadline = ticket.Digest(), s.cfg.Now().UTC().Add(ReturnCodeLife)
	stored, err := s.updatePortal(ctx, portal)
	return PortalEntrance{View: s.portalView(stored), URL: NewSecret(address + "/enter/" + ticket.Reveal())}, err
}

// openPortal lets the browser in that the visit belongs to.
func (s *Service) openPortal(ctx context.Context, portal Portal) (Portal, error) {
	portal.Status, portal.TicketDigest, portal.Deadline = PortalOpen, "", s.cfg.Now().UTC().Add(PortalLife)
	entry, err := s.portalEntry(ctx, portal, EventPortalOpened, "ok", "")
	if err != nil {
		return Portal{}, err
	}
	return s.updatePortal(ctx, portal, entry)
}

// countWrongAtPortal records a failed completion and ends the visit at the fifth.
func (s *Service) countWrongAtPortal(ctx context.Context, portal Portal, wrong *Error) error {
	portal.Attempts++
	entry, err := s.portalEntry(ctx, portal, EventPortalRefused, string(wrong.Code), wrongAttempt(portal.Attempts))
	if err != nil {
		return err
	}
	if portal.Attempts >= MaxCodeAttempts {
		portal = endedPortal(portal)
	}
	if _, err := s.updatePortal(ctx, portal, entry); err != nil {
		return err
	}
	return wrong
}

// endedPortal is the visit at its end, without anything that only a running one needs.
func endedPortal(p Portal) Portal {
	p.Status, p.CompletionCode, p.TicketDigest, p.Login, p.Claim = PortalEnded, Secret{}, "", LoginRun{}, ""
	return p
}

// portalOf reads a visit of the caller's own.
func (s *Service) portalOf(ctx context.Context, caller Caller, id string) (Portal, error) {
	portal, err := s.loadPortal(ctx, id)
	if err != nil {
		return Portal{}, err
	}
	if portal.Tenant != caller.Client.Tenant || portal.Client != caller.Client.ID {
		return Portal{}, errNoPortal()
	}
	return portal, nil
}

func errNoPortal() *Error {
	return Errorf(CodeNotFound, "there is no such visit; one that is over can be read for an hour")
}

// loadPortal reads a visit by id; a malformed id is one that does not exist.
func (s *Service) loadPortal(ctx context.Context, id string) (Portal, error) {
	if _, ok := ShardOfID(id); !ok {
		return Portal{}, errNoPortal()
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
	defer cancel()
	portal, err := s.cfg.Portals.Portal(ctx, id)
	if errors.Is(err, ErrNotFound) {
		return Portal{}, errNoPortal()
	}
	if err != nil {
		return Portal{}, storeError("read the visit", err)
	}
	return portal, nil
}

// updatePortal is one compare-and-swap, repeated for as long as a browser waits if the store does not answer. ErrConflict
// passes through as it is. A visit that is lost with an answer costs its user a new link and nothing else.
func (s *Service) updatePortal(ctx context.Context, portal Portal, entries ...Entry) (Portal, error) {
	return repeated(ctx, s, s.untilEnd(ctx), func(bool) (Portal, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.StoreTimeout)
		defer cancel()
		stored, err := s.cfg.Portals.UpdatePortal(ctx, portal, entries)
		switch {
		case errors.Is(err, ErrConflict):
			return Portal{}, ErrConflict
		case errors.Is(err, ErrNotFound):
			return Portal{}, errNoPortal()
		case err != nil:
			return Portal{}, storeError("store the visit", err)
		}
		return stored, nil
	})
}

// portalStatusOf is the status with the deadline applied.
func (s *Service) portalStatusOf(p Portal) PortalStatus {
	if p.Status != PortalEnded && !s.cfg.Now().Before(p.Deadline) {
		return PortalExpired
	}
	return p.Status
}

func (s *Service) portalView(p Portal) PortalView {
	return PortalView{ID: p.ID, Status: s.portalStatusOf(p), Subject: p.Subject, Binding: p.Binding, ExpiresAt: p.Deadline}
}

// portalEntry begins an audit entry about the visit.
func (s *Service) portalEntry(ctx context.Context, p Portal, t EventType, outcome, reason string) (Entry, error) {
	entry := named(ctx, Entry{
		Type: t, Time: s.cfg.Now().UTC(), Tenant: p.Tenant, Client: p.Client, Subject: p.Subject, Portal: p.ID,
		Outcome: outcome, Reason: reason, RequestID: p.RequestID, TraceID: p.TraceID,
	})
	var err error
	if entry.Scopes, err = s.eventScopes(ScopeSet{}, ScopeSet{}); err != nil {
		return Entry{}, serverError(err)
	}
	return entry, nil
}

// portalRefused records a refusal that leaves the visit as it is, and returns the error to answer with.
func (s *Service) portalRefused(ctx context.Context, p Portal, reason string, cause error) error {
	entry, err := s.portalEntry(ctx, p, EventPortalRefused, "", reason)
	if err != nil {
		return err
	}
	return s.refusedWith(context.WithoutCancel(ctx), entry, ScopeSet{}, cause)
}
