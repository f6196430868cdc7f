package broker_test

import (
	"testing"
	"testing/synctest"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

// Where a provider has no scopes the page says what the whole grant may do, once, and only then.
func TestPageOfAWholeGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		whole := &broker.ScopeInfo{Description: "Do what you can", Access: broker.AccessDelete, Sensitive: true}
		page := func() broker.ConsentPage {
			t.Helper()
			page, err := h.Service.OpenLink(t.Context(), brokertest.LinkSecret(newLink(t, h, broker.ConsentRequest{Subject: "alice"})))
			if err != nil {
				t.Fatal(err)
			}
			return page
		}
		h.Conns[0].Whole = whole
		if p := page(); len(p.Scopes) != 1 || p.Scopes[0].Name != "files.read" {
			t.Errorf("with scopes: %+v", p.Scopes)
		}
		h.Conns[0].Scopes, h.Conns[0].Default = nil, broker.ScopeSet{}
		if p := page(); len(p.Scopes) != 1 || p.Scopes[0] != (broker.PageScope{ScopeInfo: *whole}) {
			t.Errorf("without scopes: %+v", p.Scopes)
		}
		h.Conns[0].Whole = nil
		if p := page(); len(p.Scopes) != 0 {
			t.Errorf("without a word: %+v", p.Scopes)
		}
	})
}
