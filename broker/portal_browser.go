package broker

import (
	"context"
	"errors"
	"time"
)

// This file is the browser's half of a visit to "My connections".

// PortalPage is what the page behind a link shows: who asks, and what it will open. Nothing of what is connected.
type PortalPage struct {
	ClientName string
	ClientID   string
	Binding    Binding
	Expires    time.Time
	Visit      string // of the link, which is open in this very browser; empty: none
}

// PortalStart is what the browser gets that a visit now belongs to.
type PortalStart struct {
	ID string
	// Cookie binds the visit to this browser, under CookieName, for MaxAge.
	CookieName string
	Cookie     Secret
	MaxAge     time.Duration
	// Location is the client's return_to with the code (binding return), or the tenant's OpenID Provider (binding login); zero:
	// the page at ID shows the code to type.
	Location Secret
}

// PortalCookie is the name of the cookie that a visit's browser has.
func PortalCookie(id string) string { return cookieName(id) }

// OpenPortalLink shows whose page a link leads to. It changes nothing, so that previews and mail scanners do no harm. An
// unknown, an expired and a used link look the same: not_found. To the browser that is in the open visit it tells which that is.
func (s *Service) OpenPortalLink(ctx context.Context, link Secret, cookie func(name string) Secret) (PortalPage, error) {
	portal, client, err := s.linkedPortal(ctx, link)
	if err != nil {
		return PortalPage{}, err
	}
	page := PortalPage{ClientName: client.Name, ClientID: client.ID, Binding: portal.Binding, Expires: portal.CreatedAt.Add(LinkLife)}
	if s.portalStatusOf(portal) == PortalOpen && cookie(cookieName(portal.ID)).MatchesDigest(portal.BrowserDigest) {
		page.Visit = portal.ID
	} else if !s.canStart(portal) {
		return PortalPage{}, errNoPortal()
	} else if err := s.mayVisit(ctx, portal); err != nil {
		return PortalPage{}, err
	}
	return page, nil
}

// linkedPortal finds the visit of a link, in whatever state, and its client.
func (s *Service) linkedPortal(ctx context.Context, link Secret) (Portal, Client, error) {
	id, ok := consentIDOf(link)
	if !ok {
		return Portal{}, Client{}, errNoPortal()
	}
	portal, err := s.loadPortal(ctx, id)
	if err != nil {
		return Portal{}, Client{}, err
	}
	client, there := s.cfg.Client(portal.Client)
	if !link.Equal(portal.Link) || !there || client.Tenant != portal.Tenant {
		return Portal{}, Client{}, errNoPortal()
	}
	return portal, client, nil
}

// canStart tells whether the link of the visit can still be used: nobody is vouched for, and it is not too old.
func (s *Service) canStart(portal Portal) bool {
	unproved := portal.Status == PortalPending || portal.Status == PortalStarted && portal.TicketDigest == ""
	return unproved && s.cfg.Now().Before(portal.CreatedAt.Add(LinkLife))
}

// StartPortal makes the visit this browser's, and begins what shows who sits there: a code by which the client can vouch for
// them, or a sign-in. The same browser may start again (the back button): what was begun before is void then. Another browser
// may not.
func (s *Service) StartPortal(ctx context.Context, link Secret, cookie func(name string) Secret) (PortalStart, error) {
	portal, client, err := s.linkedPortal(ctx, link)
	if err != nil {
		return PortalStart{}, err
	}
	if !s.canStart(portal) {
		return PortalStart{}, errNoPortal()
	}
	if portal.Status == PortalStarted && !cookie(cookieName(portal.ID)).MatchesDigest(portal.BrowserDigest) {
		return PortalStart{}, s.strangeVisitor(ctx, portal, "a second browser tried to open the link",
			Errorf(CodeAccessDenied, "this link was already opened in another browser; ask for a new one in the chat"))
	}
	if err := s.mayVisit(ctx, portal); err != nil {
		return PortalStart{}, s.disabledVisit(ctx, portal, err)
	}
	if !s.mayStart(portal.ID) {
		return PortalStart{}, errNoPortal()
	}
	browser, err := s.ids().secret(32)
	if err != nil {
		return PortalStart{}, serverError(err)
	}
	start := PortalStart{ID: portal.ID, CookieName: cookieName(portal.ID), Cookie: browser}
	var life time.Duration
	switch portal.Binding {
	case BindingLogin:
		life = FlowLife
		portal, start.Location, err = s.startLoginAtPortal(ctx, portal, client, browser)
	case BindingReturn:
		life = ReturnCodeLife
		if portal.CompletionCode, err = s.ids().secret(32); err == nil {
			start.Location = returnTo(portal.ReturnTo, "portal", portal.ID, portal.CompletionCode, "", portal.State)
		}
	default:
		life = ProvisionalLife
		portal.CompletionCode, err = s.ids().userCode()
	}
	if err != nil {
		var public *Error
		if !errors.As(err, &public) {
			err = serverError(err)
		}
		return PortalStart{}, err
	}
	portal.Status, portal.BrowserDigest, portal.Deadline = PortalStarted, browser.Digest(), s.cfg.Now().UTC().Add(life)
	// A crash after this write leaves a visit whose cookie nobody has: the link is dead, and the chat makes a new one.
	if _, err := s.updatePortal(ctx, portal); err != nil {
		if errors.Is(err, ErrConflict) {
			return PortalStart{}, Errorf(CodeAccessDenied, "this link is being opened in another window; go on there, or ask for a new one in the chat")
		}
		return PortalStart{}, err
	}
	start.MaxAge = life + ReturnCodeLife + PortalLife
	return start, nil
}

// EnterPortal opens a visit of binding return, for the browser that it belongs to and that its client has just sent on. A ticket
// in another browser opens nothing: then the one that started the link is not the one that is logged in at the client.
func (s *Service) EnterPortal(ctx context.Context, id string, ticket Secret, cookie func(name string) Secret) error {
	portal, err := s.loadPortal(ctx, id)
	if err != nil {
		return err
	}
	mine := cookie(cookieName(portal.ID)).MatchesDigest(portal.BrowserDigest)
	switch status := s.portalStatusOf(portal); {
	case status == PortalOpen && mine:
		return nil // loaded again
	case status != PortalStarted || !ticket.MatchesDigest(portal.TicketDigest):
		return errNoPortal()
	case !mine:
		return s.strangeVisitor(ctx, portal, "the person logged in came with another browser than the one that opened the link",
			Errorf(CodeAccessDenied, "this link was opened in another browser"))
	}
	_, err = s.openPortal(ctx, portal)
	if errors.Is(err, ErrConflict) {
		// The same address twice at once. The other one may have been let in, and then it is the same browser's.
		if now, err := s.loadPortal(ctx, id); err == nil && s.portalStatusOf(now) == PortalOpen {
			return nil
		}
		return errNoPortal()
	}
	return err
}

// EndPortal signs the browser out of the visit, which is over then.
func (s *Service) EndPortal(ctx context.Context, id string, cookie func(name string) Secret) error {
	for range releaseAttempts {
		portal, _, err := s.ownPortal(ctx, id, cookie)
		if err != nil {
			return err
		}
		if _, err = s.updatePortal(ctx, endedPortal(portal)); !errors.Is(err, ErrConflict) {
			return err
		}
	}
	return &Error{Code: CodeTemporarilyUnavailable, Description: "the visit keeps changing", RetryAfter: time.Second}
}

// ownPortal is a running visit of this browser, and its client. Whatever else it is looks the same: not_found.
func (s *Service) ownPortal(ctx context.Context, id string, cookie func(name string) Secret) (Portal, Client, error) {
	portal, err := s.loadPortal(ctx, id)
	if err != nil {
		return Portal{}, Client{}, err
	}
	client, there := s.cfg.Client(portal.Client)
	status := s.portalStatusOf(portal)
	if !cookie(cookieName(portal.ID)).MatchesDigest(portal.BrowserDigest) || !there || client.Tenant != portal.Tenant ||
		status != PortalStarted && status != PortalOpen {
		return Portal{}, Client{}, errNoPortal()
	}
	return portal, client, nil
}

// openedPortal is ownPortal for what only a visit that is open may do, and the caller that it acts as: its client, on the
// user's own behalf.
func (s *Service) openedPortal(ctx context.Context, id string, cookie func(name string) Secret) (Portal, Caller, error) {
	portal, client, err := s.ownPortal(ctx, id, cookie)
	if err != nil {
		return Portal{}, Caller{}, err
	}
	if portal.Status != PortalOpen {
		return Portal{}, Caller{}, errNoPortal()
	}
	return portal, portal.caller(ctx, client), nil
}

func (p Portal) caller(ctx context.Context, client Client) Caller {
	e := named(ctx, Entry{RequestID: p.RequestID, TraceID: p.TraceID})
	return Caller{Client: client, RequestID: e.RequestID, TraceID: e.TraceID, Portal: p.ID}
}
