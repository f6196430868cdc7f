package web

import (
	"context"
	"net/http"

	"github.com/labstack/echo/v4"

	"tokenbroker/broker"
)

// signedIn is GET /oauth2/login/CLIENT, the redirect URI at the OpenID Provider of that client's tenant: with the right person on
// to where the sign-in was for.
func (w *Web) signedIn(c echo.Context) error {
	cb, ok := parseCallback(c.Param("client"), c.Request().URL.RawQuery)
	if !ok {
		return w.show(c, areaSignIn, badCallback)
	}
	ctx, cancel := w.begin(context.WithoutCancel(c.Request().Context()), c.Request(), w.cfg.FlowTimeout)
	defer cancel()
	var finish broker.LoginFinish
	err := w.guess(c, func() (err error) {
		finish, err = w.cfg.Service.FinishLogin(ctx, broker.LoginCallback{
			Client: cb.Connector, State: cb.State, Code: cb.Code, Issuer: cb.Issuer, HasIssuer: cb.HasIssuer, Error: cb.Error, Cookie: w.cookie(c.Request()),
		})
		return err
	})
	if err != nil && finish.Visit {
		return w.fail(c, areaVisitSignIn, err)
	}
	if err != nil {
		return err
	}
	if finish.Path != "" {
		return c.Redirect(http.StatusSeeOther, finish.Path)
	}
	if !destination(finish.Location) {
		return broker.Errorf(broker.CodeProviderMisconfigured, "the authorization endpoint is neither https nor loopback")
	}
	return c.Redirect(http.StatusSeeOther, finish.Location.Reveal())
}

// decisionNonce stands for a finish page where a link stands for a consent page: the nonce of its form hangs on it.
func decisionNonce(consentID string) broker.Secret { return broker.NewSecret("/consent/" + consentID) }

// decideFinish is POST /consent/ID: what the user says to an account that is another one than before, or to trying again. As with
// decideConsent, a form that can't prove where it comes from asks nobody.
func (w *Web) decideFinish(c echo.Context) error {
	id := c.Param("id")
	if !linkShape.MatchString(id) {
		return w.show(c, areaFinished, deadPage)
	}
	refused := outcome{Status: http.StatusForbidden, Key: "form_refused", Again: "/consent/" + id}
	form, err, sent := w.sentHere(c, areaFinished, refused, func(nonce broker.Secret) bool { return w.checkNonce(c.Request(), decisionNonce(id), nonce) })
	if !sent {
		return err
	}
	decision, ok := map[string]broker.Decision{"replace": broker.DecideReplace, "keep": broker.DecideKeep, "retry": broker.DecideRetry}[form("action")]
	if !ok {
		return w.show(c, areaFinished, badRequest)
	}
	// Without the request's cancellation, as at the callback.
	ctx, cancel := w.begin(context.WithoutCancel(c.Request().Context()), c.Request(), w.cfg.FlowTimeout)
	defer cancel()
	var finish broker.Finish
	err = w.guess(c, func() (err error) {
		finish, err = w.cfg.Service.DecideConsent(ctx, id, w.cookie(c.Request()), decision)
		return err
	})
	if err != nil {
		return err
	}
	if !finish.Location.IsZero() {
		return w.leave(c, finish)
	}
	return c.Redirect(http.StatusSeeOther, "/consent/"+id)
}
