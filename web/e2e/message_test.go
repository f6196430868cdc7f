package e2e

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"go.yaml.in/yaml/v3"

	"tokenbroker/broker"
)

// messages are the pages that say what happened and what to do now: addresses of the gallery, by the key of their words. What the last
// part of an address, or a code, stands for is in troubles.
var messages = map[string]string{
	"bad_callback":           "/oauth2/login/acme-chat",
	"bad_request":            "/connect/unreadable",
	"bad_state":              "/oauth2/login/acme-chat?state=x&code=unreadable",
	"busy":                   "/connect/busy",
	"dead_link":              "/connect/no-such-link",
	"dead_page":              "/consent/no-such-consent",
	"disabled":               "/connect/switched-off",
	"dead_state":             "/oauth2/login/acme-chat?state=x&code=gone",
	"form_refused":           "/connect/code?as-method=POST",
	"form_refused_anywhere":  "/connect/%3Cb%3E?as-method=POST",
	"gone_visit":             "/portal/session/gone",
	"method_not_allowed":     "/connect/code?as-method=PUT",
	"no_such_page":           "/connect",
	"other_browser":          "/connect/elsewhere",
	"other_browser_sign_in":  "/oauth2/login/acme-chat?state=x&code=elsewhere",
	"other_window":           "/connect/slow-down",
	"provider_misconfigured": "/connect/misconfigured",
	"provider_unavailable":   "/connect/unavailable",
	"refused":                "/portal/session/elsewhere",
	"server_error":           "/connect/broken",
	"sign_in_failed":         "/oauth2/login/acme-chat?state=x&code=nobody",
	"sign_in_misconfigured":  "/oauth2/login/acme-chat?state=x&code=their-settings",
	"sign_in_unavailable":    "/oauth2/login/acme-chat?state=x&code=their-silence",
	"slow_down":              "/portal/slow-down",
	"strange_browser":        "/portal/session/open/enter/elsewhere",
	"visitor_unknown":        "/oauth2/login/acme-chat?state=visit&code=nobody",
	"wrong_visitor":          "/oauth2/login/acme-chat?state=visit&code=somebody-else",
	"wrong_person":           "/oauth2/login/acme-chat?state=x&code=somebody-else",
}

var troubles = map[string]error{
	"broken":         errors.New("x"),
	"busy":           broker.Errorf(broker.CodeTemporarilyUnavailable, "x"),
	"elsewhere":      broker.Errorf(broker.CodeAccessDenied, "x"),
	"gone":           broker.Errorf(broker.CodeNotFound, "x"),
	"misconfigured":  broker.Errorf(broker.CodeProviderMisconfigured, "x"),
	"nobody":         broker.Errorf(broker.CodeLoginFailed, "x"),
	"switched-off":   &broker.Error{Code: broker.CodeAccessDenied, Disabled: broker.SwitchConnector},
	"slow-down":      broker.Errorf(broker.CodeSlowDown, "x"),
	"somebody-else":  broker.Errorf(broker.CodeSubjectMismatch, "x"),
	"their-settings": &broker.Error{Code: broker.CodeProviderMisconfigured, AtLogin: true},
	"their-silence":  &broker.Error{Code: broker.CodeProviderUnavailable, AtLogin: true},
	"unavailable":    broker.Errorf(broker.CodeProviderUnavailable, "x"),
	"unreadable":     broker.Errorf(broker.CodeInvalidRequest, "x"),
}

// pictured are the messages that look different: with and without a reference, a button, much to read. The first one also on a desk.
var pictured = []string{
	"dead_link", "busy", "dead_page", "gone_visit", "no_such_page", "other_browser", "provider_misconfigured", "server_error", "sign_in_failed",
	"slow_down", "strange_browser", "wrong_person",
}

// messageStates adds the troubles to what the gallery shows. It comes last: it asks what is there before.
func messageStates(s *site) []state {
	open, visits := s.service.Open, s.service.Visits
	s.service.Open = func(link broker.Secret) (broker.ConsentPage, error) {
		if err, ok := troubles[link.Reveal()]; ok {
			return broker.ConsentPage{}, err
		}
		return open(link)
	}
	s.service.SignIn = func(_ context.Context, cb broker.LoginCallback) (broker.LoginFinish, error) {
		return broker.LoginFinish{Visit: cb.State.Reveal() == "visit"}, troubles[cb.Code.Reveal()]
	}
	s.service.Visits.Open = func(link broker.Secret, cookie func(string) broker.Secret) (broker.PortalPage, error) {
		if err, ok := troubles[link.Reveal()]; ok {
			return broker.PortalPage{}, err
		}
		return visits.Open(link, cookie)
	}
	s.service.Visits.Visit = func(id string, cookie func(string) broker.Secret, cursor string) (broker.PortalVisit, error) {
		if err, ok := troubles[id]; ok {
			return broker.PortalVisit{}, err
		}
		return visits.Visit(id, cookie, cursor)
	}
	s.service.Visits.Enter = func(_ string, ticket broker.Secret, _ func(string) broker.Secret) error {
		return troubles[ticket.Reveal()]
	}
	var states []state
	for _, key := range slices.Sorted(maps.Keys(messages)) {
		states = append(states, state{"message-" + strings.ReplaceAll(key, "_", "-"), messages[key], key})
	}
	return states
}

// wordsOfMessages reads what the messages say in a language from the file of its words.
func wordsOfMessages(t *testing.T, lang string) map[string]struct{ Title, Text string } {
	t.Helper()
	text, err := os.ReadFile("../locales/" + lang + ".yaml")
	if err != nil {
		t.Fatal(err)
	}
	var words struct {
		Outcome map[string]struct{ Title, Text string }
	}
	if err := yaml.Unmarshal(text, &words); err != nil {
		t.Fatal(err)
	}
	return words.Outcome
}

// says holds the page against the words of a message, so that a state can't be another one than it is named for.
func (b *tab) says(t *testing.T, key, lang string) {
	t.Helper()
	want := wordsOfMessages(t, lang)[key]
	got := ask(t, b, chromedp.Evaluate[string](`document.querySelector("h1").textContent + " / " + document.querySelector(".lead").textContent`))
	if want.Title == "" || got != want.Title+" / "+want.Text {
		t.Errorf("%s in %s reads %q, not %q", key, lang, got, want)
	}
}

// TestGalleryHasEveryMessage: axe and the eye see each of them.
func TestGalleryHasEveryMessage(t *testing.T) {
	want := slices.Sorted(maps.Keys(wordsOfMessages(t, "en")))
	if got := slices.Sorted(maps.Keys(messages)); !slices.Equal(got, want) || len(want) < 20 {
		t.Errorf("the gallery has the messages %v\nnot %v", got, want)
	}
	for _, key := range pictured {
		if messages[key] == "" {
			t.Errorf("no message %s to make a picture of", key)
		}
	}
}
