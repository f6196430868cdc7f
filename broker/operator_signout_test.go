package broker_test

import (
	"net/url"
	"testing"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

// The provider is told whose session ends and where the browser shall come back to, with a state that only that browser knows.
func TestSignOutAtProvider(t *testing.T) {
	h := withOperators(t)
	ada := h.Operators.People["ada"]
	ada.IDToken = broker.NewSecret("a.b.c")
	h.Operators.People["ada"] = ada
	b := brokertest.Browser{}
	who, err := finishOperator(t, h, b.BeginAsOperator(t, h.Service, "", "ada"))
	if err != nil || who.IDToken.Reveal() != "a.b.c" {
		t.Fatalf("%v", err)
	}
	if start, err := h.Service.SignOutAtProvider(t.Context(), who.IDToken); err != nil || !start.Location.IsZero() {
		t.Errorf("a provider that can't: %v", err)
	}
	h.Operators.EndsSessions = true
	seen := map[string]bool{}
	for range 2 {
		start, err := h.Service.SignOutAtProvider(t.Context(), who.IDToken)
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(start.Location.Reveal())
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		if q.Get("post_logout_redirect_uri") != "https://broker.example/dashboard/login/out" || q.Get("id_token_hint") != "a.b.c" || len(q.Get("state")) < 32 || q.Get("state") != start.Cookie.Reveal() || start.CookieName != broker.OperatorSignOutCookie {
			t.Errorf("%v", q)
		}
		seen[q.Get("state")] = true
	}
	if len(seen) != 2 {
		t.Error("a state came twice")
	}
	h.Operators.Fail = &broker.UpstreamError{Class: broker.ClassUnsent, What: "away"}
	if _, err := h.Service.SignOutAtProvider(t.Context(), who.IDToken); broker.CodeOf(err) != broker.CodeProviderUnavailable {
		t.Errorf("a provider that is away: %v", err)
	}
}
