package web

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"tokenbroker/broker"
)

// Threat 15: the nonce proves nothing unless the cookie is one of ours. How it is made is no secret, so it can be
// computed for a cookie that isn't there, or for one that the asker made up too short.
func TestNonceNeedsOurCookie(t *testing.T) {
	w := &Web{}
	link, other := broker.NewSecret("link-one"), broker.NewSecret("link-two")
	good := broker.NewSecret(strings.Repeat("A", 43))
	request := func(link, cookie broker.Secret) *http.Request {
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		if !cookie.IsZero() {
			r.AddCookie(&http.Cookie{Name: nonceCookie(link), Value: cookie.Reveal()})
		}
		return r
	}
	if !w.checkNonce(request(link, good), link, formNonce(good, link)) {
		t.Fatal("the right nonce was refused")
	}
	for what, cookie := range map[string]broker.Secret{"no": {}, "a short": broker.NewSecret("abc"), "an odd": broker.NewSecret(strings.Repeat("!", 43))} {
		if w.checkNonce(request(link, cookie), link, formNonce(cookie, link)) {
			t.Errorf("%s cookie passed", what)
		}
	}
	// The value of one link's cookie, planted for another link, brings its nonce no further.
	if w.checkNonce(request(other, good), other, formNonce(good, link)) {
		t.Error("the nonce of one link passed for another")
	}
	if nonceCookie(link) == nonceCookie(other) || strings.Contains(nonceCookie(link), "link") {
		t.Error("the cookie's name is not the link's own, or shows it")
	}
}
