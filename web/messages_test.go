package web_test

import (
	"net/http"
	"strings"
	"testing"

	"tokenbroker/broker/brokertest"
	"tokenbroker/web"
)

// A message is rendered once for each language, and everybody's has their own reference, inert.
func TestMessagesHaveTheirOwnReference(t *testing.T) {
	h := brokertest.New(t, 1)
	id := ""
	s := newSite(t, public, func(c *web.Config) { c.Service, c.RequestID = h.Service, func(*http.Request) string { return id } })
	ask := func(reference, lang string) string {
		t.Helper()
		id = reference
		res := s.get("/oauth2/callback/files?state=unknown&state=twice&lang=" + lang)
		status(t, res, http.StatusBadRequest)
		return body(t, res)
	}
	first := ask("req-1", "en")
	for _, c := range []struct{ reference, shown, lang string }{
		{"req-1", "req-1", "en"}, {"req-2", "req-2", "en"}, {"<i>&\"", "&lt;i&gt;&amp;&#34;", "en"}, {"req-1", "req-1", "de"}, {"req-3", "req-3", "de"},
	} {
		got := ask(c.reference, c.lang)
		if !strings.Contains(got, "<code>"+c.shown+"</code>") || strings.Contains(got, "reference-goes-here") {
			t.Errorf("the page of request %s has no reference to it:\n%s", c.reference, got)
		}
		if !strings.Contains(got, `<html lang="`+c.lang+`"`) {
			t.Errorf("the page is not in %s", c.lang)
		}
		if same := strings.ReplaceAll(got, c.shown, "req-1"); c.lang == "en" && same != first {
			t.Errorf("the page differs in more than the reference:\n%s\n%s", got, first)
		}
	}
	if got := ask("", "en"); strings.Contains(got, "<code>") {
		t.Errorf("a request without an id has a reference:\n%s", got)
	}
}
