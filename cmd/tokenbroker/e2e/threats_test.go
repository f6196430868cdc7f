package e2e

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// Threats 2, 3, 4: a consent link goes to somebody else. Three people, three cookie jars: whatever they try, nobody gets a
// token of another one's account.
func TestForwardedLinkInThreeJars(t *testing.T) {
	t.Parallel()
	forwardedLinkInThreeJars(t, newRig(t))
}

func forwardedLinkInThreeJars(t *testing.T, r *rig) {
	p := r.start()
	c := p.api(r.key)
	mallory, victim, third := newBrowser(t), newBrowser(t), newBrowser(t)
	victim.hint = "alice"
	noToken := func(when string) {
		t.Helper()
		for _, subject := range []string{"mallory", "victim", "third"} {
			a, err := c.try("POST", "/v1/tokens", object{"connector": "files", "subject": subject})
			if err != nil || a.status != 409 || a.str("error") != "consent_required" {
				t.Fatalf("%s: subject %s: %v, %d %s", when, subject, err, a.status, a.raw)
			}
		}
	}

	t.Run("the link, binding code", func(t *testing.T) {
		consent := c.consent("mallory")
		end := victim.consent(consent.str("url")) // the victim follows mallory's link with the own account
		end.code(t)
		noToken("after the victim's consent")
		// Mallory has the link and the consent's id, but not the code; nor can the page be read in another browser.
		if got := mallory.get(end.url); strings.Contains(got.body, end.code(t)) || got.status == 200 {
			t.Fatalf("another browser reads the victim's page: %d", got.status)
		}
		if got := mallory.get(consent.str("url")); got.status != 404 {
			t.Errorf("the used link in another browser: %d", got.status)
		}
		for _, guess := range []string{"BCDF-GHJK", "", "0", "bcdfghjk"} {
			a, _ := c.try("POST", "/v1/consents/"+consent.str("id")+"/complete", object{"subject": "mallory", "code": guess})
			if a.status != 400 {
				t.Errorf("guess %q: %d %s", guess, a.status, a.raw)
			}
		}
		// The victim types it in the victim's own chat.
		c.want(403, "POST", "/v1/consents/"+consent.str("id")+"/complete", object{"subject": "victim", "code": end.code(t)})
		noToken("after everything")
		before := r.provider.Stats().Revocations
		for range 5 {
			_, _ = c.try("POST", "/v1/consents/"+consent.str("id")+"/complete", object{"subject": "mallory", "code": "BCDF-GHJK"})
		}
		if got := c.want(200, "GET", "/v1/consents/"+consent.str("id"), nil); got.str("status") != "failed" {
			t.Errorf("after five wrong codes: %s", got.raw)
		}
		if r.provider.Stats().Revocations != before+1 {
			t.Error("the victim's provisional grant was not revoked at the provider")
		}
		c.want(410, "POST", "/v1/consents/"+consent.str("id")+"/complete", object{"subject": "mallory", "code": end.code(t)})
	})

	t.Run("the link, binding return", func(t *testing.T) {
		exchanges := r.provider.Stats().TokenRequests["authorization_code"]
		consent := c.consent("mallory", object{"return_to": "http://127.0.0.1:3000/done", "state": "m"})
		back, _ := url.Parse(victim.consent(consent.str("url")).location)
		// The victim's browser is at the client now, where the victim is logged in.
		body := object{"subject": "victim", "code": back.Query().Get("code")}
		if got := c.want(403, "POST", "/v1/consents/"+consent.str("id")+"/complete", body); got.str("error") != "subject_mismatch" {
			t.Error(got.raw)
		}
		noToken("after the mismatch")
		if n := r.provider.Stats().TokenRequests["authorization_code"]; n != exchanges {
			t.Errorf("the provider's code was redeemed %d times before the right completion", n-exchanges)
		}
		mismatches := c.events(url.Values{"type": {"consent.failed"}, "subject": {"mallory"}})
		if len(mismatches) == 0 || mismatches[len(mismatches)-1]["outcome"] != "subject_mismatch" {
			t.Errorf("the mismatch is not on record: %v", mismatches)
		}
	})

	t.Run("the provider's address", func(t *testing.T) {
		consent := c.consent("mallory")
		authorize := mallory.start(consent.str("url")).location
		callback := victim.atProvider(authorize)
		exchanges := r.provider.Stats().TokenRequests["authorization_code"]
		if got := victim.get(callback); got.status != 403 {
			t.Errorf("a callback in a browser that did not start: %d", got.status)
		}
		if n := r.provider.Stats().TokenRequests["authorization_code"]; n != exchanges {
			t.Error("the provider saw a code from the wrong browser")
		}
		noToken("after a forwarded authorization URL")
	})

	t.Run("mallory's callback in the victim's browser", func(t *testing.T) {
		mallory.hint = "mallory"
		consent := c.consent("victim")
		callback := mallory.atProvider(mallory.start(consent.str("url")).location)
		if got := victim.get(callback); got.status != 403 {
			t.Errorf("status %d", got.status)
		}
		if got := third.get(consent.str("url")); got.status == 200 {
			if again := third.post(consent.str("url"), got.form()); again.status == http.StatusSeeOther {
				t.Error("a second browser starts a link that another one has started")
			}
		}
		noToken("after mallory's callback")
	})
}

// Threats 1, 5, 6, 9, 10 to 12, 15, 16, 18 to 20, as far as they show from outside.
func TestConsentThreats(t *testing.T) {
	t.Parallel()
	consentThreats(t, newRig(t))
}

func consentThreats(t *testing.T, r *rig) {
	p := r.start()
	c := p.api(r.key)
	exchanges := func() int { return r.provider.Stats().TokenRequests["authorization_code"] }

	t.Run("1 state", func(t *testing.T) {
		before := exchanges()
		b := newBrowser(t)
		callback := b.atProvider(b.start(c.consent("u1").str("url")).location)
		u, _ := url.Parse(callback)
		state := u.Query().Get("state")
		for _, query := range []string{"code=x", "code=x&state=", "code=x&state=A&state=B", "code=x&state=" + state + "&state=" + state, "code=x&code=y&state=" + state, "state=" + state} {
			for _, who := range []*browser{b, newBrowser(t)} {
				if got := who.get(p.url + "/oauth2/callback/files?" + query); got.status < 400 || got.status > 499 {
					t.Errorf("callback with %q: %d", strings.ReplaceAll(query, state, "STATE"), got.status)
				}
			}
		}
		if exchanges() != before {
			t.Error("the provider saw a code")
		}
	})
	t.Run("5 another connector's callback", func(t *testing.T) {
		before := exchanges()
		b := newBrowser(t)
		callback := b.atProvider(b.start(c.consent("u5").str("url")).location)
		if got := b.get(strings.Replace(callback, "/callback/files", "/callback/other", 1)); got.status < 400 || got.status > 499 {
			t.Errorf("status %d", got.status)
		}
		if exchanges() != before {
			t.Error("the provider saw a code")
		}
	})
	t.Run("6 issuer", func(t *testing.T) {
		before := exchanges()
		b := newBrowser(t)
		consent := c.consent("u6")
		callback := b.atProvider(b.start(consent.str("url")).location)
		u, _ := url.Parse(callback)
		q := u.Query()
		q.Set("iss", "https://evil.example")
		u.RawQuery = q.Encode()
		b.follow(b.get(u.String()))
		if exchanges() != before {
			t.Error("the provider saw a code of another issuer")
		}
		if got := c.want(200, "GET", "/v1/consents/"+consent.str("id"), nil); got.str("status") != "failed" {
			t.Errorf("status: %s", got.raw)
		}
	})
	t.Run("9 PKCE stripped", func(t *testing.T) {
		b := newBrowser(t)
		consent := c.consent("u9")
		u, _ := url.Parse(b.start(consent.str("url")).location)
		q := u.Query()
		if q.Get("code_challenge_method") != "S256" || len(q.Get("code_challenge")) != 43 {
			t.Errorf("challenge %q, method %q", q.Get("code_challenge"), q.Get("code_challenge_method"))
		}
		if q.Get("redirect_uri") != r.public+"/oauth2/callback/files" {
			t.Errorf("redirect_uri %q", q.Get("redirect_uri"))
		}
		q.Set("code_challenge", "0000000000000000000000000000000000000000000")
		u.RawQuery = q.Encode()
		b.follow(b.get(b.atProvider(u.String())))
		if got := c.want(200, "GET", "/v1/consents/"+consent.str("id"), nil); got.str("status") != "failed" {
			t.Errorf("status: %s", got.raw)
		}
	})
	t.Run("11 return_to", func(t *testing.T) {
		const good = "http://127.0.0.1:3000/done"
		for _, bad := range []string{
			"//evil.example", `/\evil.example`, "https://127.0.0.1:3000/done", good + "/", good + "?", good + "#x", good + "%2f", "http://127.0.0.1:3000@evil.example/done",
			"http://evil.example/http://127.0.0.1:3000/done", "http://127.0.0.1:3000.evil.example/done", "HTTP://127.0.0.1:3000/done", "http://127.0.0.1:3000/Done",
			"http://127.0.0.1:3000/done\r\nX: y", "javascript:alert(1)", "http://127.0.0.1:3000//done", "http://127.0.0.1:3000/../done", "http://localhost:3000/done",
			" " + good, good + " ", "http://xn--127-tda.0.0.1:3000/done",
		} {
			c.want(400, "POST", "/v1/consents", object{"connector": "files", "subject": "u", "return_to": bad})
		}
	})
	t.Run("12 host", func(t *testing.T) {
		req, _ := http.NewRequest("POST", p.url+"/v1/consents", strings.NewReader(`{"connector":"files","subject":"u12"}`))
		req.Host = "evil.example"
		for _, h := range []string{"X-Forwarded-Host", "X-Forwarded-Proto", "X-Original-Host"} {
			req.Header.Set(h, "evil.example")
		}
		req.Header.Set("Forwarded", "host=evil.example")
		req.Header.Set("Authorization", "Bearer "+r.key)
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != 201 || bytes.Contains(body, []byte("evil")) {
			t.Errorf("status %d: %s", resp.StatusCode, body)
		}
	})
	t.Run("15 mail scanners", func(t *testing.T) {
		consent := c.consent("u15")
		link := consent.str("url")
		scanner := newBrowser(t)
		for _, agent := range []string{"Slackbot-LinkExpanding 1.0", "Mozilla/5.0 SafeLinks"} {
			for _, method := range []string{"HEAD", "GET", "GET"} {
				req, _ := http.NewRequest(method, link, nil)
				req.Header.Set("User-Agent", agent)
				if got := scanner.do(req); got.status != 200 {
					t.Errorf("%s: %d", method, got.status)
				}
			}
		}
		// A form sent without the page's nonce, or with it but without the page's cookie, or from another site.
		if got := scanner.post(link, url.Values{}); got.status != 403 {
			t.Errorf("post without nonce: %d", got.status)
		}
		form := scanner.get(link).form()
		if got := newBrowser(t).post(link, form); got.status != 403 {
			t.Errorf("post without cookie: %d", got.status)
		}
		req, _ := http.NewRequest("POST", link, strings.NewReader(form.Encode()))
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Sec-Fetch-Site", "cross-site")
		if got := scanner.do(req); got.status != 403 {
			t.Errorf("cross-site post: %d", got.status)
		}
		if got := c.want(200, "GET", "/v1/consents/"+consent.str("id"), nil); got.str("status") != "pending" {
			t.Errorf("the scanners changed it: %s", got.raw)
		}
		newBrowser(t).consent(link).code(t)
	})
	t.Run("18 replayed callback", func(t *testing.T) {
		b := newBrowser(t)
		before := exchanges()
		callback := b.atProvider(b.start(c.consent("u18").str("url")).location)
		var wg sync.WaitGroup
		var mu sync.Mutex
		statuses := map[int]int{}
		for range 50 {
			wg.Go(func() {
				req, _ := http.NewRequest("GET", callback, nil)
				resp, err := b.http.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				_ = resp.Body.Close()
				mu.Lock()
				statuses[resp.StatusCode]++
				mu.Unlock()
			})
		}
		wg.Wait()
		good := 0
		for status, n := range statuses {
			if status < 400 {
				good += n
			} else if status > 499 {
				t.Errorf("status %d", status)
			}
		}
		if good != 1 || exchanges() != before+1 {
			t.Errorf("statuses %v, exchanges %d", statuses, exchanges()-before)
		}
	})
	t.Run("19 reflected error", func(t *testing.T) {
		b := newBrowser(t)
		u, _ := url.Parse(b.atProvider(b.start(c.consent("u19").str("url")).location))
		state := u.Query().Get("state")
		got := b.follow(b.get(p.url + "/oauth2/callback/files?error=%3Cscript%3Ealert(1)%3C/script%3E&error_description=%3Cimg%20src=x%20onerror=alert(2)%3E&state=" + url.QueryEscape(state)))
		if strings.Contains(got.body, "alert(") {
			t.Error("the provider's text is on the page")
		}
	})
	t.Run("14 and 17 headers everywhere", func(t *testing.T) {
		b := newBrowser(t)
		for _, path := range []string{"/connect/nope", "/connect/nope/status", "/sdk/nope", "/oauth2/callback/files", "/oauth2/callback/nope", "/dashboard", "/nope", "/consent/nope"} {
			got := b.get(p.url + path)
			csp := got.header.Get("Content-Security-Policy")
			if !strings.Contains(csp, "frame-ancestors 'none'") || !strings.Contains(csp, "default-src 'none'") || got.header.Get("X-Frame-Options") != "DENY" ||
				got.header.Get("Referrer-Policy") != "no-referrer" || got.header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s (%d): headers %v", path, got.status, got.header)
			}
		}
	})
}

// Threat 16: what a guesser sees.
func TestUnknownLinks(t *testing.T) {
	t.Parallel()
	unknownLinks(t, newRig(t))
}

func unknownLinks(t *testing.T, r *rig) {
	p := r.start()
	c := p.api(r.key)
	b := newBrowser(t)
	used, unused := c.consent("u16").str("url"), c.consent("u17").str("url")
	b.consent(used)
	unknown, gone := b.get(p.url+"/connect/"+strings.Repeat("A", 56)), b.get(used)
	if unknown.status != 404 || gone.status != 404 || unknown.body != gone.body {
		t.Errorf("an unknown and a used link differ: %d and %d", unknown.status, gone.status)
	}
	limited := false
	for range 300 {
		if b.get(p.url+"/connect/"+strings.Repeat("B", 56)).status == 429 {
			limited = true
			break
		}
	}
	if !limited {
		t.Error("guessing links is not slowed down")
	}
	// People whose link is right don't pay for a guesser behind the same address.
	newBrowser(t).consent(unused).code(t)
}
