package web_test

import (
	"net/http"
	"strings"
	"testing"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
	"tokenbroker/web"
)

// What a browser's request leaves in the audit trail names that request, as its answer and the log do.
func TestEventsNameTheRequest(t *testing.T) {
	h := brokertest.New(t, 1)
	id := ""
	s := newSite(t, public, func(c *web.Config) { c.Service, c.RequestID = h.Service, func(*http.Request) string { return id } })
	newLink := func() string {
		_, link, err := h.Service.CreateConsent(t.Context(), h.Caller(), broker.ConsentRequest{Connector: "files", Subject: "alice"})
		if err != nil {
			t.Fatal(err)
		}
		return "/connect/" + brokertest.LinkSecret(link).Reveal()
	}
	press := func(link, action string) *http.Response {
		m := nonceField.FindStringSubmatch(body(t, s.get(link)))
		if m == nil {
			t.Fatal("the page has no nonce")
		}
		return s.post(link, map[string][]string{"nonce": {m[1]}, "action": {action}})
	}
	wants := func(kind broker.EventType, want string) {
		t.Helper()
		entries := h.Store.Entries(kind)
		if len(entries) == 0 || entries[len(entries)-1].RequestID != want {
			t.Errorf("%s: %d entries, not the last of request %s", kind, len(entries), want)
		}
	}
	id = "req-start"
	res := press(newLink(), "continue")
	status(t, res, http.StatusSeeOther)
	wants(broker.EventConsentStarted, id)
	_, query, _ := strings.Cut(res.Header.Get("Location"), "state=")
	state, _, _ := strings.Cut(query, "&")
	id = "req-callback"
	status(t, s.get("/oauth2/callback/files?code=c&state="+state), http.StatusSeeOther)
	wants(broker.EventConsentGranted, id)
	id = "req-cancel"
	status(t, press(newLink(), "cancel"), http.StatusOK)
	wants(broker.EventConsentDenied, id)
}
