package web

import (
	"context"
	"errors"
	"net/http"
	"regexp"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"tokenbroker/broker"
)

// maxForm bounds a posted form, in bytes; ours have a few hundred.
const maxForm = 8 << 10

// linkShape is what any link or id of ours looks like. Whatever else stands in that place is unknown without asking.
var linkShape = regexp.MustCompile(`^[A-Za-z0-9._~-]{1,256}$`)

// showConsent is GET /connect/LINK: who asks, for what, and two buttons. It writes nothing, here or in the store.
func (w *Web) showConsent(c echo.Context) error {
	ctx, cancel := w.begin(c.Request().Context(), c.Request(), w.cfg.PageTimeout)
	defer cancel()
	link := broker.NewSecret(c.Param("link"))
	var page broker.ConsentPage
	err := w.guess(c, func() (err error) {
		if !linkShape.MatchString(link.Reveal()) {
			return broker.Errorf(broker.CodeNotFound, "no such link")
		}
		page, err = w.cfg.Service.OpenLink(ctx, link)
		return err
	})
	if err != nil {
		return err
	}
	left := page.Expires.Sub(w.cfg.Now())
	nonce, err := w.nonce(c.Response(), c.Request(), link, min(max(left, time.Minute), broker.LinkLife))
	if err != nil {
		return err
	}
	return w.render(c, http.StatusOK, "consent", consentView(w.themed(w.frame(c, areaConsent), page.ClientID), page, left, nonce))
}

// decideConsent is POST /connect/LINK: on to the provider, or not. Until the form has proved where it comes from, the
// link isn't even looked up: a bare POST by a scanner leaves it as it was.
func (w *Web) decideConsent(c echo.Context) error {
	link := broker.NewSecret(c.Param("link"))
	form, err, sent := w.sentHere(c, areaConsent, w.formRefused(link), func(nonce broker.Secret) bool {
		return linkShape.MatchString(link.Reveal()) && w.checkNonce(c.Request(), link, nonce)
	})
	if !sent {
		return err
	}
	ctx, cancel := w.begin(c.Request().Context(), c.Request(), w.cfg.FlowTimeout)
	defer cancel()
	switch form("action") {
	case "", "continue":
		return w.start(ctx, c, link)
	case "cancel":
		return w.cancel(ctx, c, link)
	default:
		return w.show(c, areaConsent, badRequest)
	}
}

func (w *Web) start(ctx context.Context, c echo.Context, link broker.Secret) error {
	var start broker.Start
	err := w.guess(c, func() (err error) {
		start, err = w.cfg.Service.StartConsent(ctx, link, w.cookie(c.Request()))
		return err
	})
	if err != nil {
		return err
	}
	if !destination(start.Location) {
		return broker.Errorf(broker.CodeProviderMisconfigured, "the authorization endpoint is neither https nor loopback")
	}
	if err := w.setCookie(c.Response(), start.CookieName, start.Cookie.Reveal(), start.MaxAge); err != nil {
		return err
	}
	// 303, so that no browser repeats the form at the provider (RFC 9700 section 4.12).
	return c.Redirect(http.StatusSeeOther, start.Location.Reveal())
}

func (w *Web) cancel(ctx context.Context, c echo.Context, link broker.Secret) error {
	var finish broker.Finish
	err := w.guess(c, func() (err error) {
		finish, err = w.cfg.Service.CancelConsent(ctx, link, w.cookie(c.Request()))
		return err
	})
	if err != nil {
		return err
	}
	if !finish.Location.IsZero() {
		return w.leave(c, finish)
	}
	// Shown at once: this browser has no cookie yet by which it could ask for another page. The address holds a link that
	// is dead from now on.
	f := w.themed(w.frame(c, areaConsent), finish.ClientID)
	f.Languages = nil // for the same reason
	return w.render(c, http.StatusOK, "finish", finishView(f, finish))
}

// leave sends the browser on to the client's return_to.
func (w *Web) leave(c echo.Context, finish broker.Finish) error {
	if !destination(finish.Location) {
		return broker.Errorf(broker.CodeServerError, "return_to is neither https nor loopback")
	}
	return c.Redirect(http.StatusSeeOther, finish.Location.Reveal())
}

// guess runs ask, which looks something up by a value that the browser brought, and counts it when there is no such
// thing. An address that has guessed too often is told to wait; what is right works even then: many people share an
// address, and nobody guesses 192 random bits. Only in a flood, of more than all who share addresses with guessers would ask, it is not
// looked up any more what comes from such an address: that is work which everybody else pays for.
func (w *Web) guess(c echo.Context, ask func() error) error {
	if wait := w.misses.wait(w.cfg.ClientIP(c.Request())); wait > 0 && !w.looks.AllowN(w.cfg.Now(), 1) {
		w.cfg.Service.NoteGuessing(broker.GuessedLinks)
		return &broker.Error{Code: broker.CodeSlowDown, Description: "too many misses from this address", RetryAfter: wait, Cause: errGuessing}
	}
	err := ask()
	if _, off := broker.DisabledBy(err); err == nil || off {
		return err // it is there
	}
	switch broker.CodeOf(err) {
	case broker.CodeNotFound, broker.CodeExpired, broker.CodeAccessDenied, broker.CodeInvalidRequest: // the last: an unknown state
		addr := w.cfg.ClientIP(c.Request())
		if wait := w.misses.wait(addr); wait > 0 {
			w.cfg.Service.NoteGuessing(broker.GuessedLinks)
			return &broker.Error{Code: broker.CodeSlowDown, Description: "too many misses from this address", RetryAfter: wait, Cause: errGuessing}
		}
		w.misses.miss(addr)
	}
	return err
}

// errGuessing tells our own slow_down from the broker's.
var errGuessing = errors.New("limit of misses reached")

// sentHere returns a form that comes from our own page, as its nonce and the browser say. Where it does not, or can't be read,
// that is answered, refused or else.
func (w *Web) sentHere(c echo.Context, a area, refused outcome, nonceFits func(nonce broker.Secret) bool) (form func(name string) string, answered error, sent bool) {
	if err := w.sameOrigin(c); err != nil {
		return nil, w.show(c, a, refused), false
	}
	form, ok := readForm(c)
	if !ok {
		return nil, w.show(c, a, badRequest), false
	}
	if !nonceFits(broker.NewSecret(form("nonce"))) {
		return nil, w.show(c, a, refused), false
	}
	return form, nil, true
}

// readForm returns the posted form, or false where it is too big, no form, or names a field twice. The query is left out: what
// decides must come from the form.
func readForm(c echo.Context) (func(name string) string, bool) {
	r := c.Request()
	r.Body = http.MaxBytesReader(c.Response(), r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		return nil, false
	}
	for _, values := range r.PostForm {
		if len(values) != 1 {
			return nil, false
		}
	}
	return r.PostForm.Get, true
}

// retryAfter says how long to wait, in whole seconds, rounded up.
func retryAfter(d time.Duration) string {
	return strconv.Itoa(max(1, int((d+time.Second-1)/time.Second)))
}
