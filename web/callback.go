package web

import (
	"context"
	"net/http"
	"net/url"
	"regexp"

	"github.com/labstack/echo/v4"

	"tokenbroker/broker"
)

const (
	// maxQuery bounds the callback's query, in bytes. Real ones stay under 4 KiB.
	maxQuery = 16 << 10
	// maxParams bounds the parameters that are handed on.
	maxParams = 50
)

var (
	// errorShape is what an error code may look like to be handed on (RFC 6749 section 4.1.2.1 allows more, nobody uses it).
	errorShape     = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)
	connectorShape = regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)
)

// callback is GET /oauth2/callback/CONNECTOR, the redirect URI. What is malformed ends here, before anybody is asked:
// absence of state must never pass for a match (CVE-2025-12419 and its like).
func (w *Web) callback(c echo.Context) error {
	cb, ok := parseCallback(c.Param("connector"), c.Request().URL.RawQuery)
	if !ok {
		return w.show(c, areaCallback, badCallback)
	}
	cb.Cookie = w.cookie(c.Request())

	// Without the request's cancellation: once the state is used and the code sent, a closed tab must not lose the
	// answer. The handler itself waits for it, so that a shutdown does too.
	ctx, cancel := w.begin(context.WithoutCancel(c.Request().Context()), c.Request(), w.cfg.FlowTimeout)
	defer cancel()
	var finish broker.Finish
	err := w.guess(c, func() (err error) {
		finish, err = w.cfg.Service.FinishConsent(ctx, cb)
		return err
	})
	if err != nil {
		return err
	}
	if !finish.Location.IsZero() {
		return w.leave(c, finish)
	}
	// On to an address without code and state: neither stays in the history, and a reload repeats nothing.
	return c.Redirect(http.StatusSeeOther, "/consent/"+url.PathEscape(finish.ConsentID))
}

// parseCallback reads the authorization response (RFC 6749 section 4.1.2, RFC 9207). False: it is malformed.
func parseCallback(connector, query string) (broker.Callback, bool) {
	if !connectorShape.MatchString(connector) || len(query) > maxQuery {
		return broker.Callback{}, false
	}
	q, err := url.ParseQuery(query)
	if err != nil || len(q) > maxParams {
		return broker.Callback{}, false
	}
	for _, once := range []string{"state", "code", "error", "iss"} {
		if len(q[once]) > 1 {
			return broker.Callback{}, false
		}
	}
	state, code, refusal := q.Get("state"), q.Get("code"), q.Get("error")
	if state == "" || q.Has("code") == q.Has("error") || (code == "" && refusal == "") {
		return broker.Callback{}, false
	}
	if refusal != "" && !errorShape.MatchString(refusal) {
		refusal = "unrecognized" // the state is used up all the same
	}
	params := make(map[string]string, len(q))
	for name, values := range q {
		if name != "state" && name != "code" {
			params[name] = values[0]
		}
	}
	return broker.Callback{
		Connector: connector, State: broker.NewSecret(state), Code: broker.NewSecret(code), Error: refusal,
		Issuer: q.Get("iss"), HasIssuer: q.Has("iss"), Params: params,
	}, true
}

// finished is GET /consent/ID: how it ended, for the browser that it is bound to alone.
func (w *Web) finished(c echo.Context) error {
	ctx, cancel := w.begin(c.Request().Context(), c.Request(), w.cfg.PageTimeout)
	defer cancel()
	var finish broker.Finish
	err := w.guess(c, func() (err error) {
		if !linkShape.MatchString(c.Param("id")) {
			return broker.Errorf(broker.CodeNotFound, "no such consent")
		}
		finish, err = w.cfg.Service.FinishedConsent(ctx, c.Param("id"), w.cookie(c.Request()))
		return err
	})
	if err != nil {
		return err
	}
	v := finishView(w.themed(w.frame(c, areaFinished), finish.ClientID), finish)
	if v.Asks != "" {
		// As long as the grant waits for an answer at most; the page says so itself once it is over.
		nonce, err := w.nonce(c.Response(), c.Request(), decisionNonce(finish.ConsentID), broker.ProvisionalLife)
		if err != nil {
			return err
		}
		v.Nonce = nonce.Reveal()
		c.Response().Header().Set("Content-Security-Policy", w.policy(areaUndecided))
	}
	return w.render(c, http.StatusOK, "finish", v)
}
