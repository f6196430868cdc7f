package web_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
	"tokenbroker/web"
	"tokenbroker/web/webtest"
)

const (
	portalPath = "/portal/" + webtest.Link
	visitPath  = "/portal/session/pv_1"
	visitValue = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE" // 32 bytes, as the broker makes them
)

// newPortal is a site with one link and one visit, whose cookie the browser has.
func newPortal(t *testing.T) *site { return newPortalWith(t, nil) }

func newPortalWith(t *testing.T, change func(*web.Config)) *site {
	s := newSite(t, public, change)
	missing := broker.Errorf(broker.CodeNotFound, "none")
	mine := func(id string, cookie func(string) broker.Secret) bool {
		return id == "pv_1" && cookie("tb-pv_1").Equal(broker.NewSecret(visitValue))
	}
	s.service.Visits = webtest.Visits{
		Open: func(link broker.Secret, _ func(string) broker.Secret) (broker.PortalPage, error) {
			if link.Reveal() != webtest.Link {
				return broker.PortalPage{}, missing
			}
			return broker.PortalPage{ClientName: "Acme Chat", ClientID: "acme-chat", Binding: broker.BindingCode, Expires: time.Now().Add(9 * time.Minute)}, nil
		},
		Start: func(broker.Secret, func(string) broker.Secret) (broker.PortalStart, error) {
			return broker.PortalStart{ID: "pv_1", CookieName: "tb-pv_1", Cookie: broker.NewSecret(visitValue), MaxAge: time.Minute}, nil
		},
		Visit: func(id string, cookie func(string) broker.Secret, _ string) (broker.PortalVisit, error) {
			if !mine(id, cookie) {
				return broker.PortalVisit{}, missing
			}
			return webtest.Visit(time.Now()), nil
		},
		One: func(id string, cookie func(string) broker.Secret, connection string) (broker.PortalConnection, error) {
			if !mine(id, cookie) || connection != "cn_1" {
				return broker.PortalConnection{}, missing
			}
			return webtest.Visit(time.Now()).Connections[0], nil
		},
	}
	s.jar["__Host-tb-pv_1"] = visitValue
	return s
}

// visitNonce opens the page and returns what its forms hold.
func (s *site) visitNonce() string {
	s.t.Helper()
	m := nonceField.FindStringSubmatch(body(s.t, s.get(visitPath)))
	if m == nil {
		s.t.Fatal("the page has no nonce")
	}
	return m[1]
}

// Threat 15: whoever only opens the link, or posts without having opened it, leaves it as it was.
func TestThreat15OpeningAPortalLinkChangesNothing(t *testing.T) {
	s := newPortal(t)
	s.jar = map[string]string{}
	for _, method := range []string{http.MethodHead, http.MethodGet, http.MethodGet} {
		r := httptest.NewRequest(method, portalPath, nil)
		r.Header.Set("User-Agent", "Slackbot-LinkExpanding 1.0")
		status(t, s.send(r), http.StatusOK)
	}
	page := body(t, s.get(portalPath))
	contains(t, page, "<title>My connections</title>", "Acme Chat", "Open this only if <strong>you</strong>", "short code", "9 more minutes")
	lacks(t, page, "Ada", "Google")
	m := nonceField.FindStringSubmatch(page)
	name, value := onlyCookie(t, s)
	for what, try := range map[string]struct {
		cookie, nonce, site string
	}{
		"bare": {"", "", ""}, "nonce without its cookie": {"", m[1], "same-origin"}, "cookie without the nonce": {value, "", "same-origin"},
		"another browser's cookie": {strings.Repeat("A", 43), m[1], "same-origin"}, "from elsewhere": {value, m[1], "cross-site"}, "from a sibling": {value, m[1], "same-site"},
	} {
		s.jar = map[string]string{}
		if try.cookie != "" {
			s.jar[name] = try.cookie
		}
		res := s.send(formRequest(portalPath, url.Values{"nonce": {try.nonce}}, try.site))
		status(t, res, http.StatusForbidden)
		if page := body(t, res); !strings.Contains(page, `href="`+portalPath+`"`) {
			t.Errorf("%s: no way back to the link", what)
		}
	}
	for _, call := range s.service.Calls() {
		if call != "OpenPortalLink" {
			t.Fatalf("one of those called %s", call)
		}
	}
	s.jar = map[string]string{name: value}
	status(t, s.post("/portal/another-link", url.Values{"nonce": {m[1]}}), http.StatusForbidden)
	res := s.post(portalPath, url.Values{"nonce": {m[1]}})
	status(t, res, http.StatusSeeOther)
	if loc := res.Header.Get("Location"); loc != visitPath || s.jar["__Host-tb-pv_1"] != visitValue {
		t.Errorf("on to %q with cookies %v", loc, s.jar)
	}
}

func TestPortalGoesOnToProveWhoItIs(t *testing.T) {
	s := newPortal(t)
	m := nonceField.FindStringSubmatch(body(t, s.get(portalPath)))
	for location, want := range map[string]int{"https://chat.example/done?code=x": http.StatusSeeOther, "javascript:alert(1)": http.StatusInternalServerError, "http://evil.example/": http.StatusInternalServerError} {
		s.service.Visits.Start = func(broker.Secret, func(string) broker.Secret) (broker.PortalStart, error) {
			return broker.PortalStart{ID: "pv_1", CookieName: "tb-pv_1", Cookie: broker.NewSecret(visitValue), MaxAge: time.Minute, Location: broker.NewSecret(location)}, nil
		}
		res := s.post(portalPath, url.Values{"nonce": {m[1]}})
		status(t, res, want)
		if want == http.StatusSeeOther && res.Header.Get("Location") != location {
			t.Errorf("on to %q", res.Header.Get("Location"))
		}
	}
	s.service.Visits.Start = func(broker.Secret, func(string) broker.Secret) (broker.PortalStart, error) {
		return broker.PortalStart{}, broker.Errorf(broker.CodeAccessDenied, "canary")
	}
	res := s.post(portalPath, url.Values{"nonce": {m[1]}})
	status(t, res, http.StatusForbidden)
	page := body(t, res)
	contains(t, page, "opened in another browser", "somebody else may have this one")
	lacks(t, page, "canary")
}

func TestPortalLinkOfTheOpenVisit(t *testing.T) {
	s := newPortal(t)
	s.service.Visits.Open = func(_ broker.Secret, cookie func(string) broker.Secret) (broker.PortalPage, error) {
		if cookie("tb-pv_1").Reveal() != visitValue {
			return broker.PortalPage{}, broker.Errorf(broker.CodeNotFound, "used")
		}
		return broker.PortalPage{Visit: "pv_1"}, nil
	}
	res := s.get(portalPath)
	status(t, res, http.StatusSeeOther)
	if loc := res.Header.Get("Location"); loc != visitPath {
		t.Errorf("on to %q", loc)
	}
	s.jar = map[string]string{}
	status(t, s.get(portalPath), http.StatusNotFound)
}

func TestPortalWaitsForTheCode(t *testing.T) {
	s := newPortal(t)
	visit := broker.PortalVisit{ID: "pv_1", ClientName: "Acme Chat", Status: broker.PortalStarted, Binding: broker.BindingCode, Code: broker.NewSecret("WDJB-MJHT")}
	s.service.Visits.Visit = func(string, func(string) broker.Secret, string) (broker.PortalVisit, error) { return visit, nil }
	res := s.get(visitPath)
	contains(t, res.Header.Get("Content-Security-Policy"), "connect-src 'self'")
	page := body(t, res)
	contains(t, page, "WDJB-MJHT", `data-status="started"`, "data-waiting", `href="`+visitPath+`"`, "give it to nobody")
	visit.Code = broker.Secret{}
	page = body(t, s.get(visitPath))
	contains(t, page, "We don&#39;t know yet who you are")
	lacks(t, page, "WDJB")
}

func TestPortalShowsWhatThereIs(t *testing.T) {
	s := newPortal(t)
	res := s.get(visitPath)
	status(t, res, http.StatusOK)
	if got := res.Header.Get("Cross-Origin-Opener-Policy"); got != "same-origin" {
		t.Errorf("opener policy %q", got)
	}
	page := body(t, res)
	contains(t, page, "Google Drive", "ada@example.com", "See and download all your files", "Needs your consent", "Never used", "Set up by your organisation", visitPath+"/disconnect/cn_1",
		"<strong><bdi>Travel assistant</bdi></strong> got access to <bdi>Google Drive</bdi>", "12 times that day", "through <bdi>Acme Chat</bdi>", "tool <bdi>list_files</bdi>",
		"Reason given: <bdi>find the hotel&#39;s confirmation</bdi>", "<strong><bdi>Acme Chat</bdi></strong> got access to <bdi>Slack</bdi>", "<strong><bdi>Night job</bdi></strong> asked for access to <bdi>Google Drive</bdi> and was refused",
		"<strong><bdi>Night job</bdi></strong> asked for access to <bdi>Google Drive</bdi> and needed your consent",
		"You disconnected <bdi>Slack</bdi>", "did not confirm that the access has ended there", "was disconnected through", "You allowed <bdi>Acme Chat</bdi> to use", "needs your consent again",
		"14 minutes", `href="`+visitPath+`?cursor=the-cursor#uses"`, " UTC</time>", `data-status="open"`)
	lacks(t, page, visitPath+"/disconnect/cn_3", "<script>", "style=", "⟦", visitValue)
	if total := len(page) + len(body(t, s.get("/static/site.css"))) + len(body(t, s.get("/static/portal.css"))) + len(body(t, s.get("/static/portal.js"))) + len(body(t, s.get("/static/icon.svg"))); total > 60<<10 {
		t.Errorf("the page is %d bytes in all", total)
	}
	var cursor string
	s.service.Visits.Visit = func(_ string, _ func(string) broker.Secret, c string) (broker.PortalVisit, error) {
		cursor = c
		return broker.PortalVisit{ID: "pv_1", ClientName: "Acme Chat", Status: broker.PortalOpen, Older: "more"}, nil
	}
	page = body(t, s.get(visitPath+"?cursor=the-cursor"))
	contains(t, page, "Nothing is connected.", "Nothing in this stretch of time", ">Newest<", ">Earlier<")
	if cursor != "the-cursor" {
		t.Errorf("cursor %q", cursor)
	}
	s.jar = map[string]string{}
	s.service.Visits.Visit = nil
	res = s.get(visitPath)
	status(t, res, http.StatusNotFound)
	contains(t, body(t, res), "This page is closed")
}

// Threats 19 and 60: names, accounts, assistants and reasons are strangers' texts, and stay texts.
func TestPortalOfHostileTexts(t *testing.T) {
	s := newPortal(t)
	s.service.Visits.Visit = func(string, func(string) broker.Secret, string) (broker.PortalVisit, error) {
		return webtest.HostileVisit(time.Now()), nil
	}
	s.service.Visits.One = func(string, func(string) broker.Secret, string) (broker.PortalConnection, error) {
		return webtest.HostileVisit(time.Now()).Connections[0], nil
	}
	for _, path := range []string{visitPath, visitPath + "/disconnect/cn_1"} {
		page := body(t, s.get(path))
		lacks(t, page, "<img src=x", "<script>window", "\u202e", "\u2066", "\u200b", "⟦")
		contains(t, page, "&lt;script&gt;")
	}
}

func TestPortalEntrance(t *testing.T) {
	s := newPortal(t)
	var got []string
	var fault error
	s.service.Visits.Enter = func(id string, ticket broker.Secret, cookie func(string) broker.Secret) error {
		got = append(got, id+" "+ticket.Reveal()+" "+cookie("tb-pv_1").Reveal())
		return fault
	}
	res := s.get(visitPath + "/enter/the-ticket")
	status(t, res, http.StatusSeeOther)
	if loc := res.Header.Get("Location"); loc != visitPath || len(got) != 1 || got[0] != "pv_1 the-ticket "+visitValue {
		t.Errorf("on to %q, asked %q", loc, got)
	}
	lacks(t, s.log.String(), "the-ticket")
	for _, method := range []string{http.MethodHead, http.MethodPost, http.MethodOptions} {
		status(t, s.send(httptest.NewRequest(method, visitPath+"/enter/the-ticket", nil)), http.StatusMethodNotAllowed)
	}
	status(t, s.get(visitPath+"/enter/%3Cb%3E"), http.StatusNotFound)
	if len(got) != 1 {
		t.Errorf("asked %q", got)
	}
	fault = broker.Errorf(broker.CodeAccessDenied, "canary")
	res = s.get(visitPath + "/enter/the-ticket")
	status(t, res, http.StatusForbidden)
	page := body(t, res)
	contains(t, page, "opened in another browser")
	lacks(t, page, "canary", "the-ticket", "?lang=")
	fault = broker.Errorf(broker.CodeNotFound, "canary")
	for range 30 {
		s.get(visitPath + "/enter/guess")
	}
	status(t, s.get(visitPath+"/enter/guess"), http.StatusTooManyRequests)
}

// Threat 61: disconnecting needs our own page, its nonce and the visit's cookie; asking first changes nothing.
func TestThreat61DisconnectFromOurPageAlone(t *testing.T) {
	s := newPortal(t)
	var ended []string
	outcome := broker.RevokedDone
	s.service.Visits.Disconnect = func(_ context.Context, id string, cookie func(string) broker.Secret, connection string) (broker.PortalConnection, broker.RevokedUpstream, error) {
		ended = append(ended, id+" "+connection+" "+cookie("tb-pv_1").Reveal())
		return webtest.Visit(time.Now()).Connections[0], outcome, nil
	}
	res := s.get(visitPath + "/disconnect/cn_1")
	status(t, res, http.StatusOK)
	page := body(t, res)
	contains(t, page, "Disconnect <bdi>Google Drive</bdi>?", "ada@example.com", "We ask <bdi>Google</bdi> to end it there too", `value="disconnect"`, `href="`+visitPath+`"`)
	nonce := nonceField.FindStringSubmatch(page)[1]
	form := url.Values{"nonce": {nonce}, "action": {"disconnect"}, "connection": {"cn_1"}}
	bend := func(name, value string) url.Values {
		bent := url.Values{}
		for k, v := range form {
			bent[k] = v
		}
		bent.Set(name, value)
		return bent
	}
	for what, try := range map[string]struct {
		form   url.Values
		site   string
		cookie string
		want   int
	}{
		"bare": {url.Values{}, "", visitValue, 403}, "another site": {form, "cross-site", visitValue, 403}, "a neighbour": {form, "same-site", visitValue, 403},
		"no nonce": {bend("nonce", ""), "same-origin", visitValue, 403}, "another nonce": {bend("nonce", nonce[1:]+"A"), "same-origin", visitValue, 403},
		"no cookie": {form, "same-origin", "", 403}, "a cookie of another form": {form, "same-origin", "x", 403}, "another browser's": {form, "same-origin", strings.Repeat("A", 43), 403},
		"another order": {bend("action", "erase"), "same-origin", visitValue, 400}, "no connection": {bend("connection", ""), "same-origin", visitValue, 404},
		"odd connection": {bend("connection", "../x"), "same-origin", visitValue, 404},
	} {
		s.jar = map[string]string{}
		if try.cookie != "" {
			s.jar["__Host-tb-pv_1"] = try.cookie
		}
		if res := s.send(formRequest(visitPath, try.form, try.site)); res.StatusCode != try.want {
			t.Errorf("%s: %d, want %d", what, res.StatusCode, try.want)
		}
	}
	if len(ended) != 0 {
		t.Fatalf("ended %q", ended)
	}
	s.jar = map[string]string{"__Host-tb-pv_1": visitValue}
	status(t, s.post("/portal/session/pv_2", form), http.StatusForbidden) // of another visit

	for result, words := range map[broker.RevokedUpstream][]string{
		broker.RevokedDone:        {"Google Drive is disconnected", "Google has confirmed that it ended the access that we held", "may still be listed", "mood-good"},
		broker.RevokedUnsupported: {"Google Drive is disconnected here", "We could not end it at", "look in your account at", "mood-off"},
		broker.RevokedFailed:      {"but not confirmed", "did not confirm that it has ended there", "we can&#39;t ask again", "mood-bad"},
	} {
		outcome = result
		res := s.post(visitPath, form)
		status(t, res, http.StatusOK)
		page := strings.NewReplacer("<bdi>", "", "</bdi>", "").Replace(body(t, res))
		contains(t, page, append(words, `href="`+visitPath+`"`)...)
		lacks(t, page, "⟦", "?lang=")
	}
	if len(ended) != 3 || ended[0] != "pv_1 cn_1 "+visitValue {
		t.Errorf("ended %q", ended)
	}
}

// What is disconnected already is not asked about: the list says how it is.
func TestPortalAsksOnlyWhatCanBeAnswered(t *testing.T) {
	s := newPortal(t)
	s.service.Visits.One = func(string, func(string) broker.Secret, string) (broker.PortalConnection, error) {
		conn := webtest.Visit(time.Now()).Connections[0]
		conn.Connection.Status = broker.ConnectionRevoked
		return conn, nil
	}
	res := s.get(visitPath + "/disconnect/cn_1")
	status(t, res, http.StatusSeeOther)
	if loc := res.Header.Get("Location"); loc != visitPath {
		t.Errorf("on to %q", loc)
	}
}

func TestPortalSignOut(t *testing.T) {
	s := newPortal(t)
	ended := 0
	s.service.Visits.End = func(_ context.Context, id string, cookie func(string) broker.Secret) error {
		if id == "pv_1" && cookie("tb-pv_1").Reveal() == visitValue {
			ended++
		}
		return nil
	}
	status(t, s.post(visitPath, url.Values{"action": {"end"}}), http.StatusForbidden)
	res := s.post(visitPath, url.Values{"nonce": {s.visitNonce()}, "action": {"end"}})
	status(t, res, http.StatusOK)
	contains(t, body(t, res), "You are signed out")
	if _, left := s.jar["__Host-tb-pv_1"]; left || ended != 1 {
		t.Errorf("ended %d times, cookies %v", ended, s.jar)
	}
}

// A closed tab does not keep what was begun from its end.
func TestPortalActsOutliveTheBrowser(t *testing.T) {
	s := newPortal(t)
	var gone context.CancelFunc
	closes := func(what string, ctx context.Context) {
		gone()
		if ctx.Err() != nil {
			t.Errorf("a closed tab ends %s", what)
		}
		if _, ok := ctx.Deadline(); !ok {
			t.Errorf("%s has no deadline", what)
		}
	}
	s.service.Visits.Disconnect = func(ctx context.Context, _ string, _ func(string) broker.Secret, _ string) (broker.PortalConnection, broker.RevokedUpstream, error) {
		closes("disconnecting", ctx)
		return webtest.Visit(time.Now()).Connections[0], broker.RevokedDone, nil
	}
	s.service.Visits.End = func(ctx context.Context, _ string, _ func(string) broker.Secret) error {
		closes("signing out", ctx)
		return nil
	}
	nonce := s.visitNonce()
	for _, action := range []string{"disconnect", "end"} {
		ctx, cancel := context.WithCancel(t.Context())
		gone = cancel
		form := url.Values{"nonce": {nonce}, "action": {action}, "connection": {"cn_1"}}
		status(t, s.send(formRequest(visitPath, form, "same-origin").WithContext(ctx)), http.StatusOK)
		cancel()
	}
}

// everyPortalPage is each of them in that language.
func everyPortalPage(t *testing.T, tag string) map[string]string {
	s := newPortal(t)
	s.jar["__Host-tb_lang"] = tag
	pages := map[string]string{"portal ask": body(t, s.get(visitPath+"/disconnect/cn_1")), "portal gone": body(t, s.get("/portal/session/pv_2"))}
	open := s.service.Visits.Open
	for _, binding := range []broker.Binding{broker.BindingCode, broker.BindingReturn, broker.BindingLogin} {
		s.service.Visits.Open = func(link broker.Secret, cookie func(string) broker.Secret) (broker.PortalPage, error) {
			p, err := open(link, cookie)
			p.Binding = binding
			return p, err
		}
		pages["portal link "+string(binding)] = body(t, s.get(portalPath))
	}
	for _, result := range []broker.RevokedUpstream{broker.RevokedDone, broker.RevokedUnsupported, broker.RevokedFailed} {
		s.service.Visits.Disconnect = func(context.Context, string, func(string) broker.Secret, string) (broker.PortalConnection, broker.RevokedUpstream, error) {
			return webtest.Visit(time.Now()).Connections[0], result, nil
		}
		pages["portal "+string(result)] = body(t, s.post(visitPath, url.Values{"nonce": {s.visitNonce()}, "action": {"disconnect"}, "connection": {"cn_1"}}))
	}
	s.service.Visits.End = func(context.Context, string, func(string) broker.Secret) error { return nil }
	nonce := s.visitNonce()
	for name, visit := range map[string]broker.PortalVisit{
		"open": webtest.Visit(time.Now()), "empty": {Status: broker.PortalOpen}, "quiet": {Status: broker.PortalOpen, Older: "x"},
		"code": {Status: broker.PortalStarted, Code: broker.NewSecret("WDJB-MJHT")}, "started": {Status: broker.PortalStarted},
	} {
		s.service.Visits.Visit = func(string, func(string) broker.Secret, string) (broker.PortalVisit, error) { return visit, nil }
		pages["portal "+name] = body(t, s.get(visitPath+"?cursor=x"))
	}
	pages["portal signed out"] = body(t, s.post(visitPath, url.Values{"nonce": {nonce}, "action": {"end"}}))
	s.service.Visits.Enter = func(string, broker.Secret, func(string) broker.Secret) error {
		return broker.Errorf(broker.CodeAccessDenied, "x")
	}
	pages["portal another browser"] = body(t, s.get(visitPath+"/enter/ticket"))
	return pages
}

func TestPortalHasTheClientsLook(t *testing.T) {
	s := newPortalWith(t, func(c *web.Config) { c.Themes = acme(t) })
	s.service.Visits.Disconnect = func(context.Context, string, func(string) broker.Secret, string) (broker.PortalConnection, broker.RevokedUpstream, error) {
		return webtest.Visit(time.Now()).Connections[0], broker.RevokedDone, nil
	}
	pages := []string{body(t, s.get(portalPath)), body(t, s.get(visitPath)), body(t, s.get(visitPath+"/disconnect/cn_1")),
		body(t, s.post(visitPath, url.Values{"nonce": {s.visitNonce()}, "action": {"disconnect"}, "connection": {"cn_1"}}))}
	for i, page := range pages {
		if !themeAddress.MatchString(page) {
			t.Errorf("page %d has not the client's look", i)
		}
	}
}
