package web

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"time"

	"tokenbroker/broker"
)

// cookieName adds the prefix by which browsers promise that this very host set the cookie over TLS, so that a
// neighbouring subdomain can't plant one. Loopback over http has no such promise.
func (w *Web) cookieName(name string) string {
	if w.https {
		return "__Host-" + name
	}
	return name
}

// setCookie sends a cookie that scripts can't read and that other sites' requests don't carry, links excepted.
func (w *Web) setCookie(rw http.ResponseWriter, name, value string, age time.Duration) error {
	c := &http.Cookie{
		Name: w.cookieName(name), Value: value, Path: "/", MaxAge: max(1, int(age.Seconds())),
		Secure: w.https, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	}
	if err := c.Valid(); err != nil { // http.SetCookie would drop it silently
		return fmt.Errorf("set cookie: %w", err)
	}
	http.SetCookie(rw, c)
	return nil
}

// dropCookie ends a cookie that setCookie made.
func (w *Web) dropCookie(rw http.ResponseWriter, name string) {
	http.SetCookie(rw, &http.Cookie{Name: w.cookieName(name), Path: "/", MaxAge: -1, Secure: w.https, HttpOnly: true, SameSite: http.SameSiteLaxMode})
}

// cookie returns a lookup for broker: the names there have no prefix. Two cookies of one name are as good as none: one
// of them was put there with another path or domain, and absence must never pass for a match.
func (w *Web) cookie(r *http.Request) func(name string) broker.Secret {
	return func(name string) broker.Secret {
		found := r.CookiesNamed(w.cookieName(name))
		if len(found) != 1 {
			return broker.Secret{}
		}
		return broker.NewSecret(found[0].Value)
	}
}

// The nonce ties a form to the browser that loaded its page: a random value in a cookie, and in the form a digest of it
// together with the link. A link scanner that posts forms without keeping cookies, and another site that posts, have
// at most one of the two. Nothing of it is kept on the server, so that opening a page writes nothing.
const (
	nonceBytes = 32
	nonceLabel = "tokenbroker consent form\x00"
)

// nonceCookie names the cookie of a link, so that several open consents don't disturb each other. The name is a part of
// the link's digest, which gives nothing of the link away.
func nonceCookie(link broker.Secret) string {
	return "tb_form_" + link.Digest()[:16]
}

// formNonce is what the form of that link must bring beside the cookie. The random part has a fixed length, so the
// hashed text can be read in one way only.
func formNonce(cookie, link broker.Secret) broker.Secret {
	sum := sha256.Sum256([]byte(nonceLabel + cookie.Reveal() + link.Reveal()))
	return broker.NewSecret(base64.RawURLEncoding.EncodeToString(sum[:]))
}

// validNonce tells whether a cookie's value has the form of ours.
func validNonce(cookie broker.Secret) bool {
	b, err := base64.RawURLEncoding.DecodeString(cookie.Reveal())
	return err == nil && len(b) == nonceBytes
}

// nonce returns the form's nonce and sets its cookie. The browser's cookie stays if it has one already: the same link
// in a second tab must not break the form in the first.
func (w *Web) nonce(rw http.ResponseWriter, r *http.Request, link broker.Secret, age time.Duration) (broker.Secret, error) {
	cookie := w.cookie(r)(nonceCookie(link))
	if !validNonce(cookie) {
		b := make([]byte, nonceBytes)
		if _, err := io.ReadFull(w.cfg.Random, b); err != nil {
			return broker.Secret{}, fmt.Errorf("make form nonce: %w", err)
		}
		cookie = broker.NewSecret(base64.RawURLEncoding.EncodeToString(b))
	}
	if err := w.setCookie(rw, nonceCookie(link), cookie.Reveal(), age); err != nil {
		return broker.Secret{}, err
	}
	return formNonce(cookie, link), nil
}

// checkNonce tells whether the form's nonce belongs to the browser's cookie and to the link.
func (w *Web) checkNonce(r *http.Request, link, nonce broker.Secret) bool {
	cookie := w.cookie(r)(nonceCookie(link))
	return validNonce(cookie) && nonce.Equal(formNonce(cookie, link))
}
