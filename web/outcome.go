package web

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"tokenbroker/broker"
)

// outcome is a page that says in fixed words what happened and what to do now.
type outcome struct {
	Status int
	Title  string
	Text   string
	Next   string // what to do
	// Again is an address of ours where the user can try again; AgainLabel its button.
	Again      string
	AgainLabel string
	Reference  string // the request id, for whoever asks the operator. Never on a 404: its body is always the same
	RetryAfter time.Duration
}

// The outcomes that no error stands behind.
var (
	noSuchPage = outcome{Status: http.StatusNotFound, Title: "There is nothing here",
		Text: "This address doesn't belong to any page.", Next: "Check it for typing mistakes, or go back to where you came from."}
	methodNotAllowed = outcome{Status: http.StatusMethodNotAllowed, Title: "That doesn't work here",
		Text: "This address can't be used in that way.", Next: "Go back to the page that you came from."}
	badRequest = outcome{Status: http.StatusBadRequest, Title: "That request can't be read",
		Text: "Something in it is missing or doubled.", Next: "Go back and try it again from the start."}
	badCallback = outcome{Status: http.StatusBadRequest, Title: "This sign-in can't be continued",
		Text: "The answer that came back is not complete. Nothing was connected.", Next: "Go back to the chat and ask for a new link."}
	dashboardOff = outcome{Status: http.StatusNotFound, Title: "The dashboard is not enabled",
		Text: "No login token for operators is configured.", Next: "Set dashboard.token_sha256 in the configuration and restart."}
	serverError = outcome{Status: http.StatusInternalServerError, Title: "Something went wrong on our side",
		Text: "It is not your fault, and it has been noted.", Next: "Wait a moment, then try again."}
	busy = outcome{Status: http.StatusServiceUnavailable, Title: "Not available right now",
		Text: "We can't answer this at the moment.", Next: "Wait a few seconds, then load the page again."}
	slowDown = outcome{Status: http.StatusTooManyRequests, Title: "Too many attempts",
		Text: "There were too many wrong attempts from your network.", Next: "Wait a minute, then try again."}
)

// The outcomes of errors, by area, then by code. What an area doesn't name is in areaOther.
var outcomes = map[area]map[broker.Code]outcome{
	areaOther: {
		broker.CodeInvalidRequest:         badRequest,
		broker.CodeNotFound:               noSuchPage,
		broker.CodeExpired:                noSuchPage,
		broker.CodeSlowDown:               slowDown,
		broker.CodeTemporarilyUnavailable: busy,
		broker.CodeAccessDenied: {Status: http.StatusForbidden, Title: "That was refused",
			Text: "This request didn't come from our own page.", Next: "Load the page again and repeat it there."},
		broker.CodeProviderUnavailable: {Status: http.StatusServiceUnavailable, Title: "The other service doesn't answer",
			Text: "The service that you want to connect can't be reached right now.", Next: "Wait a minute, then try again."},
		broker.CodeProviderMisconfigured: {Status: http.StatusBadGateway, Title: "This connection isn't set up properly",
			Text: "The service that you want to connect refuses ours. That isn't your fault, and trying again won't help.", Next: "Tell whoever runs the chat."},
	},
	areaConsent: {
		broker.CodeNotFound: deadLink,
		broker.CodeExpired:  deadLink,
		broker.CodeAccessDenied: {Status: http.StatusForbidden, Title: "This link was opened in another browser",
			Text: "For your safety it can only be used where it was opened first. Nothing was connected here.",
			Next: "Go on in that browser or window, or ask for a new link in the chat."},
		broker.CodeSlowDown: {Status: http.StatusTooManyRequests, Title: "This is under way in another window",
			Text: "Your sign-in is just being finished there.", Next: "Look there, or wait a moment and load this page again."},
	},
	areaCallback: {
		broker.CodeInvalidRequest: badState,
		broker.CodeNotFound:       deadState,
		broker.CodeExpired:        deadState,
		broker.CodeAccessDenied: {Status: http.StatusForbidden, Title: "This sign-in began in another browser",
			Text: "For your safety it can only be finished where it was started. Nothing was connected here.",
			Next: "If you began it yourself, go back to that browser. If somebody sent you this link, close the page."},
	},
	areaFinished: {
		broker.CodeNotFound:     deadPage,
		broker.CodeExpired:      deadPage,
		broker.CodeAccessDenied: deadPage,
	},
}

var (
	deadLink = outcome{Status: http.StatusNotFound, Title: "This link doesn't work",
		Text: "It may have been used already, or be older than 10 minutes, or not be complete.", Next: "Go back to the chat and ask for a new link."}
	deadState = outcome{Status: http.StatusNotFound, Title: "This sign-in can't be continued",
		Text: "It was finished already, or it took too long.", Next: "Go back to the chat and ask for a new link."}
	// One page for every answer that fits no consent: used up, too late, invented, or for a connector that doesn't exist.
	badState = outcome{Status: http.StatusBadRequest, Title: deadState.Title,
		Text: "This answer doesn't belong to any sign-in that is under way here. Nothing was connected by it.", Next: deadState.Next}
	deadPage = outcome{Status: http.StatusNotFound, Title: "This page is no longer available",
		Text: "It can be seen for a short time, and only in the browser that began the sign-in.", Next: "Go back to the chat: it knows how it went."}
)

// outcomeOf is the page for an error.
func outcomeOf(a area, err error) outcome {
	code := broker.CodeOf(err)
	if code == broker.CodeServerError && errors.Is(err, context.DeadlineExceeded) {
		code = broker.CodeTemporarilyUnavailable
	}
	o, ok := outcomes[a][code]
	if !ok {
		o, ok = outcomes[areaOther][code]
	}
	if !ok {
		o = serverError
	}
	if errors.Is(err, errGuessing) {
		o = slowDown
	}
	var e *broker.Error
	if errors.As(err, &e) {
		o.RetryAfter = e.RetryAfter
	}
	return o
}

// formRefused is for a form that could not prove where it came from. The link is alive.
func (w *Web) formRefused(link broker.Secret) outcome {
	o := outcome{Status: http.StatusForbidden, Title: "Please open the page again",
		Text: "We could not be sure that this came from our own page: it was open for too long, or your browser blocks cookies. Nothing happened, and your link still works."}
	if !linkShape.MatchString(link.Reveal()) {
		o.Next = "Open the link from the chat again."
	} else {
		o.Again, o.AgainLabel = "/connect/"+link.Reveal(), "Open the page again"
	}
	return o
}

// show answers with an outcome.
func (w *Web) show(c echo.Context, a area, o outcome) error {
	if o.Status == http.StatusTooManyRequests || o.Status == http.StatusServiceUnavailable {
		if o.RetryAfter <= 0 {
			o.RetryAfter = 5 * time.Second
		}
		c.Response().Header().Set("Retry-After", retryAfter(o.RetryAfter))
	}
	if o.Status != http.StatusNotFound && w.cfg.RequestID != nil {
		o.Reference = w.cfg.RequestID(c.Request())
	}
	if err := w.render(c, o.Status, "message", messageView{Title: o.Title, Dashboard: a == areaDashboard, Outcome: o}); err != nil {
		return c.String(o.Status, o.Title) // only a broken template gets here
	}
	return nil
}

// messageView is what the message page shows.
type messageView struct {
	Title     string
	Dashboard bool
	Outcome   outcome
}
