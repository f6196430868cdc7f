package web

import (
	"context"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"tokenbroker/broker"
)

// Visits is what the pages of "My connections" ask of package broker. A visit that is unknown, over or another browser's is
// not_found.
type Visits interface {
	// OpenPortalLink reads what the page behind a link shows. It changes nothing.
	OpenPortalLink(ctx context.Context, link broker.Secret, cookie func(name string) broker.Secret) (broker.PortalPage, error)
	// StartPortal makes the visit this browser's, and tells where it goes to show who sits there.
	StartPortal(ctx context.Context, link broker.Secret, cookie func(name string) broker.Secret) (broker.PortalStart, error)
	// EnterPortal opens a visit for the browser that its client has just sent on.
	EnterPortal(ctx context.Context, id string, ticket broker.Secret, cookie func(name string) broker.Secret) error
	// VisitPortal reads what a running visit shows. It changes nothing.
	VisitPortal(ctx context.Context, id string, cookie func(name string) broker.Secret, cursor string) (broker.PortalVisit, error)
	// PortalConnection reads one of the visit's connections.
	PortalConnection(ctx context.Context, id string, cookie func(name string) broker.Secret, connection string) (broker.PortalConnection, error)
	// PortalDisconnect ends one, and tells what the provider did.
	PortalDisconnect(ctx context.Context, id string, cookie func(name string) broker.Secret, connection string) (broker.PortalConnection, broker.RevokedUpstream, error)
	// EndPortal ends the visit.
	EndPortal(ctx context.Context, id string, cookie func(name string) broker.Secret) error
}

// showPortalLink is GET /portal/LINK: whose page it opens, and one button. It writes nothing, here or in the store.
func (w *Web) showPortalLink(c echo.Context) error {
	ctx, cancel := w.begin(c.Request().Context(), c.Request(), w.cfg.PageTimeout)
	defer cancel()
	link := broker.NewSecret(c.Param("link"))
	var page broker.PortalPage
	err := w.guess(c, func() (err error) {
		if !linkShape.MatchString(link.Reveal()) {
			return broker.Errorf(broker.CodeNotFound, "no such link")
		}
		page, err = w.cfg.Service.OpenPortalLink(ctx, link, w.cookie(c.Request()))
		return err
	})
	if err != nil {
		return err
	}
	if page.Visit != "" { // the link once more, where it was opened
		return c.Redirect(http.StatusSeeOther, visitAddress(page.Visit))
	}
	left := page.Expires.Sub(w.cfg.Now())
	nonce, err := w.nonce(c.Response(), c.Request(), link, min(max(left, time.Minute), broker.LinkLife))
	if err != nil {
		return err
	}
	return w.render(c, http.StatusOK, "portal-link", portalLinkView(w.themed(w.frame(c, areaPortal), page.ClientID), page, left, nonce))
}

// openPortalLink is POST /portal/LINK. As with a consent, a form that can't prove where it comes from asks nobody.
func (w *Web) openPortalLink(c echo.Context) error {
	link := broker.NewSecret(c.Param("link"))
	refused := outcome{Status: http.StatusForbidden, Key: "form_refused_anywhere"}
	if linkShape.MatchString(link.Reveal()) {
		refused.Key, refused.Again = "form_refused", "/portal/"+link.Reveal()
	}
	if _, err, sent := w.sentHere(c, areaPortal, refused, func(nonce broker.Secret) bool {
		return refused.Again != "" && w.checkNonce(c.Request(), link, nonce)
	}); !sent {
		return err
	}
	ctx, cancel := w.begin(c.Request().Context(), c.Request(), w.cfg.FlowTimeout)
	defer cancel()
	var start broker.PortalStart
	err := w.guess(c, func() (err error) {
		start, err = w.cfg.Service.StartPortal(ctx, link, w.cookie(c.Request()))
		return err
	})
	if err != nil {
		return err
	}
	target := visitAddress(start.ID)
	if !start.Location.IsZero() {
		if !destination(start.Location) {
			return broker.Errorf(broker.CodeServerError, "the address to go on to is neither https nor loopback")
		}
		target = start.Location.Reveal()
	}
	if err := w.setCookie(c.Response(), start.CookieName, start.Cookie.Reveal(), start.MaxAge); err != nil {
		return err
	}
	return c.Redirect(http.StatusSeeOther, target)
}

func visitAddress(id string) string { return "/portal/session/" + id }

// enterPortal is GET /portal/session/ID/enter/TICKET, where the client sends the browser of whoever is logged in there. Then on
// to an address without the ticket: it does not stay in the history, and a reload repeats nothing.
func (w *Web) enterPortal(c echo.Context) error {
	ctx, cancel := w.begin(c.Request().Context(), c.Request(), w.cfg.PageTimeout)
	defer cancel()
	id := c.Param("id")
	err := w.guess(c, func() error {
		if !linkShape.MatchString(id) || !linkShape.MatchString(c.Param("ticket")) {
			return broker.Errorf(broker.CodeNotFound, "no such visit")
		}
		return w.cfg.Service.EnterPortal(ctx, id, broker.NewSecret(c.Param("ticket")), w.cookie(c.Request()))
	})
	if err != nil {
		return err
	}
	return c.Redirect(http.StatusSeeOther, visitAddress(id))
}

// visit is GET /portal/session/ID: what is connected and who used it, or what the user has to do before that is shown.
func (w *Web) visit(c echo.Context) error {
	ctx, cancel := w.begin(c.Request().Context(), c.Request(), w.cfg.PageTimeout)
	defer cancel()
	id := c.Param("id")
	var v broker.PortalVisit
	err := w.guess(c, func() (err error) {
		if !linkShape.MatchString(id) {
			return broker.Errorf(broker.CodeNotFound, "no such visit")
		}
		v, err = w.cfg.Service.VisitPortal(ctx, id, w.cookie(c.Request()), c.QueryParam("cursor"))
		return err
	})
	if err != nil {
		return err
	}
	f := w.themed(w.frame(c, areaVisit), v.ClientID)
	if v.Status != broker.PortalOpen {
		return w.render(c, http.StatusOK, "portal-wait", portalWaitView(f, v))
	}
	return w.render(c, http.StatusOK, "portal", portalView(f, v, c.QueryParam("cursor") != "", v.Expires.Sub(w.cfg.Now()), w.visitNonce(c.Request(), id)))
}

// askDisconnect is GET /portal/session/ID/disconnect/CONNECTION: what will happen, and two buttons.
func (w *Web) askDisconnect(c echo.Context) error {
	ctx, cancel := w.begin(c.Request().Context(), c.Request(), w.cfg.PageTimeout)
	defer cancel()
	id, connection := c.Param("id"), c.Param("connection")
	var conn broker.PortalConnection
	err := w.guess(c, func() (err error) {
		if !linkShape.MatchString(id) || !linkShape.MatchString(connection) {
			return broker.Errorf(broker.CodeNotFound, "no such connection")
		}
		conn, err = w.cfg.Service.PortalConnection(ctx, id, w.cookie(c.Request()), connection)
		return err
	})
	if err != nil {
		return err
	}
	if conn.Connection.Status == broker.ConnectionRevoked { // meanwhile, or this is an old page
		return c.Redirect(http.StatusSeeOther, visitAddress(id))
	}
	return w.render(c, http.StatusOK, "portal-ask", portalAskView(w.themed(w.frame(c, areaVisit), conn.ClientID), id, conn, w.visitNonce(c.Request(), id)))
}

// visitNonce is what a form of the visit must bring beside the visit's own cookie, which scripts and other sites can't read.
func (w *Web) visitNonce(r *http.Request, id string) broker.Secret {
	return formNonce(w.cookie(r)(broker.PortalCookie(id)), broker.NewSecret(visitAddress(id)))
}

// actOnVisit is POST /portal/session/ID: disconnect an account, or sign out.
func (w *Web) actOnVisit(c echo.Context) error {
	id := c.Param("id")
	if !linkShape.MatchString(id) {
		return w.show(c, areaVisit, goneVisit)
	}
	refused := outcome{Status: http.StatusForbidden, Key: "form_refused", Again: visitAddress(id)}
	form, err, sent := w.sentHere(c, areaVisit, refused, func(nonce broker.Secret) bool {
		return validNonce(w.cookie(c.Request())(broker.PortalCookie(id))) && nonce.Equal(w.visitNonce(c.Request(), id))
	})
	if !sent {
		return err
	}
	// Without the request's cancellation: what was begun is carried out, and told if somebody still listens.
	ctx, cancel := w.begin(context.WithoutCancel(c.Request().Context()), c.Request(), w.cfg.FlowTimeout)
	defer cancel()
	switch form("action") {
	case "disconnect":
		return w.disconnect(ctx, c, id, form("connection"))
	case "end":
		if err := w.guess(c, func() error { return w.cfg.Service.EndPortal(ctx, id, w.cookie(c.Request())) }); err != nil {
			return err
		}
		w.dropCookie(c.Response(), broker.PortalCookie(id))
		return w.render(c, http.StatusOK, "portal-end", portalEndView(w.frame(c, areaVisitEnd), "", broker.PortalConnection{}, "portal.ended", "off"))
	default:
		return w.show(c, areaVisit, badRequest)
	}
}

// disconnect shows its outcome at once: loaded again, the form finds what came of it the first time.
func (w *Web) disconnect(ctx context.Context, c echo.Context, id, connection string) error {
	var conn broker.PortalConnection
	var outcome broker.RevokedUpstream
	err := w.guess(c, func() (err error) {
		if !linkShape.MatchString(connection) {
			return broker.Errorf(broker.CodeNotFound, "no such connection")
		}
		conn, outcome, err = w.cfg.Service.PortalDisconnect(ctx, id, w.cookie(c.Request()), connection)
		return err
	})
	if err != nil {
		return err
	}
	mood := map[broker.RevokedUpstream]string{broker.RevokedDone: "good", broker.RevokedUnsupported: "off"}[outcome]
	if mood == "" {
		mood = "bad"
	}
	return w.render(c, http.StatusOK, "portal-end", portalEndView(w.themed(w.frame(c, areaVisitEnd), conn.ClientID), id, conn, "portal.result."+string(outcome), mood))
}
