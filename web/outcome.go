package web

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"time"

	"github.com/labstack/echo/v4"

	"tokenbroker/broker"
)

// outcome is a page that says what happened and what to do now, in the words under outcome.KEY.
type outcome struct {
	Status int
	Key    string
	// Again is an address of ours where the user can try again.
	Again      string
	Reference  string // the request id, for whoever asks the operator. Never on a 404: its body is always the same
	RetryAfter time.Duration
	Board      boardWords // what operators read instead
}

// The outcomes that no error stands behind.
var (
	noSuchPage       = outcome{Status: http.StatusNotFound, Key: "no_such_page"}
	methodNotAllowed = outcome{Status: http.StatusMethodNotAllowed, Key: "method_not_allowed"}
	badRequest       = outcome{Status: http.StatusBadRequest, Key: "bad_request"}
	badCallback      = outcome{Status: http.StatusBadRequest, Key: "bad_callback"}
	serverError      = outcome{Status: http.StatusInternalServerError, Key: "server_error"}
	busy             = outcome{Status: http.StatusServiceUnavailable, Key: "busy"}
	disabled         = outcome{Status: http.StatusForbidden, Key: "disabled"} // by an operator
	slowDown         = outcome{Status: http.StatusTooManyRequests, Key: "slow_down"}
)

// The outcomes of errors, by area, then by code. What an area doesn't name is in areaOther.
var outcomes = map[area]map[broker.Code]outcome{
	areaOther: {
		broker.CodeInvalidRequest:         badRequest,
		broker.CodeNotFound:               noSuchPage,
		broker.CodeExpired:                noSuchPage,
		broker.CodeSlowDown:               slowDown,
		broker.CodeTemporarilyUnavailable: busy,
		broker.CodeAccessDenied:           {Status: http.StatusForbidden, Key: "refused"},
		broker.CodeProviderUnavailable:    {Status: http.StatusServiceUnavailable, Key: "provider_unavailable"},
		broker.CodeProviderMisconfigured:  {Status: http.StatusBadGateway, Key: "provider_misconfigured"},
	},
	areaConsent: {
		broker.CodeNotFound:     deadLink,
		broker.CodeExpired:      deadLink,
		broker.CodeAccessDenied: {Status: http.StatusForbidden, Key: "other_browser"},
		broker.CodeSlowDown:     {Status: http.StatusTooManyRequests, Key: "other_window"},
	},
	areaCallback: {
		broker.CodeInvalidRequest: badState,
		broker.CodeNotFound:       deadState,
		broker.CodeExpired:        deadState,
		broker.CodeAccessDenied:   {Status: http.StatusForbidden, Key: "other_browser_sign_in"},
	},
	areaSignIn: {
		broker.CodeInvalidRequest:  badState,
		broker.CodeNotFound:        deadState,
		broker.CodeExpired:         deadState,
		broker.CodeAccessDenied:    {Status: http.StatusForbidden, Key: "other_browser_sign_in"},
		broker.CodeSubjectMismatch: {Status: http.StatusForbidden, Key: "wrong_person"},
		broker.CodeLoginFailed:     {Status: http.StatusBadRequest, Key: "sign_in_failed"},
	},
	areaVisitSignIn: {
		broker.CodeInvalidRequest:  badState,
		broker.CodeNotFound:        deadState,
		broker.CodeExpired:         deadState,
		broker.CodeAccessDenied:    strangeBrowser,
		broker.CodeSubjectMismatch: {Status: http.StatusForbidden, Key: "wrong_visitor"},
		broker.CodeLoginFailed:     {Status: http.StatusBadRequest, Key: "visitor_unknown"},
	},
	areaPortal: {
		broker.CodeNotFound:     deadLink,
		broker.CodeExpired:      deadLink,
		broker.CodeAccessDenied: strangeBrowser,
	},
	areaEntrance: {
		broker.CodeNotFound:     goneVisit,
		broker.CodeAccessDenied: strangeBrowser,
	},
	areaVisit: {
		broker.CodeNotFound: goneVisit,
	},
	areaFinished: {
		broker.CodeSlowDown:     {Status: http.StatusTooManyRequests, Key: "other_window"},
		broker.CodeNotFound:     deadPage,
		broker.CodeExpired:      deadPage,
		broker.CodeAccessDenied: deadPage,
	},
}

// The outcomes of a tenant's own OpenID Provider that fails, wherever it was asked.
var loginOutcomes = map[broker.Code]outcome{
	broker.CodeProviderUnavailable:   {Status: http.StatusServiceUnavailable, Key: "sign_in_unavailable"},
	broker.CodeProviderMisconfigured: {Status: http.StatusBadGateway, Key: "sign_in_misconfigured"},
}

var (
	deadLink  = outcome{Status: http.StatusNotFound, Key: "dead_link"}
	deadState = outcome{Status: http.StatusNotFound, Key: "dead_state"}
	// One page for every answer that fits no consent: used up, too late, invented, or for a connector that doesn't exist.
	badState  = outcome{Status: http.StatusBadRequest, Key: "bad_state"}
	goneVisit = outcome{Status: http.StatusNotFound, Key: "gone_visit"}
	// The link of a visit, or where it leads to, in another browser than the one that opened it.
	strangeBrowser = outcome{Status: http.StatusForbidden, Key: "strange_browser"}
	deadPage       = outcome{Status: http.StatusNotFound, Key: "dead_page"}
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
	if _, off := broker.DisabledBy(err); off {
		o = disabled
	}
	var e *broker.Error
	if errors.As(err, &e) {
		if theirs, ok := loginOutcomes[code]; ok && e.AtLogin {
			o = theirs
		}
		o.RetryAfter = e.RetryAfter
	}
	return o
}

// formRefused is for a form that could not prove where it came from. The link is alive.
func (w *Web) formRefused(link broker.Secret) outcome {
	if !linkShape.MatchString(link.Reveal()) {
		return outcome{Status: http.StatusForbidden, Key: "form_refused_anywhere"}
	}
	return outcome{Status: http.StatusForbidden, Key: "form_refused", Again: "/connect/" + link.Reveal()}
}

// show answers with an outcome.
func (w *Web) show(c echo.Context, a area, o outcome) error {
	if o.Status == http.StatusTooManyRequests || o.Status == http.StatusServiceUnavailable {
		if o.RetryAfter <= 0 {
			o.RetryAfter = 5 * time.Second
		}
		c.Response().Header().Set("Retry-After", retryAfter(o.RetryAfter))
	}
	if a == areaStatus || a == areaSDK {
		return w.showJSON(c, o)
	}
	if o.Status != http.StatusNotFound && w.cfg.RequestID != nil {
		o.Reference = w.cfg.RequestID(c.Request())
	}
	v := messageView{frame: w.frame(c, a), Outcome: o, Key: "outcome." + o.Key}
	v.Title = cmp.Or(o.Board.Title, v.title(v.Key+".title"))
	page := "message"
	switch {
	case v.Dashboard:
		page = "board-message"
	case o.Again == "":
		if made, err := w.made(v); err == nil {
			return c.HTMLBlob(o.Status, made.with(o.Reference))
		}
	}
	if err := w.render(c, o.Status, page, v); err != nil {
		return c.String(o.Status, v.Title) // only a broken template gets here
	}
	return nil
}

// madeMessage is a message page as it was rendered once. These are the answers in a flood, when the time that others wait for is spent
// on them; and but for the reference they are the same for everybody who reads the same language.
type madeMessage struct{ before, after []byte }

// madeKey tells them apart: there are as many as there are messages and languages, twice.
type madeKey struct {
	key, lang  string
	languages  bool
	referenced bool
}

// referenceMark stands where the reference goes.
const referenceMark = "reference-goes-here"

func (w *Web) made(v messageView) (*madeMessage, error) {
	key := madeKey{key: v.Key, lang: v.Lang.Tag, languages: len(v.Languages) > 0, referenced: v.Outcome.Reference != ""}
	if found, ok := w.messages.Load(key); ok {
		return found.(*madeMessage), nil
	}
	if key.referenced {
		v.Outcome.Reference = referenceMark
	}
	var b bytes.Buffer
	if err := w.pages["message"].ExecuteTemplate(&b, "layout.html", v); err != nil {
		return nil, fmt.Errorf("render a message: %w", err)
	}
	before, after, found := bytes.Cut(b.Bytes(), []byte(referenceMark))
	if found != key.referenced {
		return nil, errors.New("render a message: its reference is not shown")
	}
	m := &madeMessage{before: before, after: after}
	w.messages.Store(key, m)
	return m, nil
}

func (m *madeMessage) with(reference string) []byte {
	return slices.Concat(m.before, []byte(template.HTMLEscapeString(reference)), m.after)
}

// messageView is what the message page shows.
type messageView struct {
	frame
	Outcome outcome
	Key     string // of its words: title, text, and next or again where there is something to do
}
