package web

import (
	"net"
	"strings"

	"github.com/labstack/echo/v4"

	"tokenbroker/broker"
)

// area is a part of the site whose pages share their headers and their words for errors.
type area int

const (
	areaOther area = iota
	areaConsent
	areaCallback
	areaSignIn
	areaVisitSignIn // areaSignIn, where the sign-in was for "My connections"
	areaFinished
	areaUndecided // areaFinished, while the page asks something
	areaPortal    // the link of a visit to "My connections"
	areaEntrance  // where a client sends the visit's browser
	areaVisit
	areaVisitEnd // areaVisit, for what loading the page anew would not show
	areaStatic
	areaDashboard
	areaLive             // its overview once it is shown, and the stream of that
	areaOperatorCallback // of the dashboard; a GET of it has an effect
	areaStatus           // JSON, not pages
	areaSDK
)

// secure sets the headers that every answer has, whatever becomes of the request.
func (w *Web) secure(c echo.Context, a area) {
	h := c.Response().Header()
	h.Set("Content-Security-Policy", w.policy(a))
	h.Set("X-Frame-Options", "DENY") // for browsers without frame-ancestors (RFC 9700 section 4.16)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=(), clipboard-read=(), clipboard-write=(self)")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("X-Robots-Tag", "noindex, nofollow")
	if w.https {
		h.Set("Strict-Transport-Security", "max-age=31536000")
	}
	switch a {
	case areaDashboard, areaLive, areaOperatorCallback, areaVisit, areaVisitEnd:
		// Not on the consent pages: it would cut window.opener, which those must tell how it went.
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
	}
}

// policy is the Content-Security-Policy: our own files and nothing else.
//
// form-action is wider where the user decides. The form posts to ourselves and is answered by 303 to the provider, which
// may send the browser on over further hosts, then back to the callback and to the client's return_to; Chromium and
// Safari hold every hop of that chain against form-action (w3c/webappsec-csp issue 8), so 'self' alone would stop the
// flow without a word. Those hosts can't be known here. Plain http is allowed for loopback alone, as in the
// configuration: a provider or a return_to of somebody who develops.
func (w *Web) policy(a area) string {
	action, connect := "'self'", ""
	switch a {
	case areaConsent, areaUndecided, areaPortal:
		action = "'self' https: http://127.0.0.1:* http://localhost:*"
	}
	switch a {
	case areaFinished, areaUndecided, areaVisit, areaLive:
		connect = "connect-src 'self'; " // the page at the end, that with the code of a visit, and the overview ask for news
	}
	return "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; " + connect + "base-uri 'none'; frame-ancestors 'none'; form-action " + action
}

// sameOrigin refuses a form that another site sent. With Referrer-Policy no-referrer browsers send "Origin: null" with
// our own forms, so it is Sec-Fetch-Site that decides.
func (w *Web) sameOrigin(c echo.Context) error {
	if err := w.cross.Check(c.Request()); err != nil {
		return broker.Errorf(broker.CodeAccessDenied, "the form was not sent by this site").Because(err)
	}
	return nil
}

// destination tells whether a browser may be sent there: https, or http to loopback (CVE-2025-6514 and its like began
// with other schemes). It is asked last, after broker and configuration: nobody should reach its no.
func destination(location broker.Secret) bool {
	scheme, rest, ok := strings.Cut(location.Reveal(), "://")
	if !ok || strings.ContainsAny(location.Reveal(), "\r\n\\ ") {
		return false
	}
	switch strings.ToLower(scheme) {
	case "https":
		return rest != ""
	case "http":
		host, _, _ := strings.Cut(rest, "/")
		host, _, _ = strings.Cut(host, "?")
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		host = strings.Trim(host, "[]")
		ip := net.ParseIP(host)
		return host == "localhost" || ip != nil && ip.IsLoopback()
	}
	return false
}
