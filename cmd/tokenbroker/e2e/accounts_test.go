package e2e

import (
	"html"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestOperatorAccounts is a night shift: an operator of the real program finds a connected account, refreshes it, makes the user a
// new link, and revokes it; each does at the provider what the page says, and is on record with its reason.
func TestOperatorAccounts(t *testing.T) {
	t.Parallel()
	r := newRig(t, shortLived(time.Hour))
	p := r.start()
	c := p.api(r.key)
	subject := "night{shift}@example.com"
	conn := c.connect(newBrowser(t), subject)

	op := newBrowser(t)
	op.http.Transport = ownPages{http.DefaultTransport}
	var pages []string
	op.seen = func(path string, resp *http.Response, body []byte) {
		pages = append(pages, path+" "+resp.Header.Get("Location")+string(body))
	}
	if got := op.post(p.url+"/dashboard/login", url.Values{"token": {dashboardToken}}); got.status != http.StatusSeeOther {
		t.Fatalf("sign in: %d\n%s", got.status, tail(got.body, 2000))
	}
	at := p.url + "/dashboard/accounts"
	var list page
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		if list = op.get(at + "?connector=files&status=active"); strings.Contains(list.body, conn) {
			break
		}
		if time.Since(began) > 20*time.Second {
			t.Fatalf("not listed\n%s", tail(list.body, 3000))
		}
	}
	if !strings.Contains(list.body, html.EscapeString(subject)) || !strings.Contains(list.body, "1 account match") {
		t.Errorf("the list\n%s", tail(list.body, 3000))
	}
	found := op.post(at, with(list.form(), "subject", subject))
	if found.status != http.StatusOK || !strings.Contains(found.body, conn) {
		t.Fatalf("find the subject: %d\n%s", found.status, tail(found.body, 2000))
	}
	account := at + "/" + conn + "?tenant=acme"
	if got := op.get(account); got.status != http.StatusOK || !strings.Contains(got.body, "token.issued") && !strings.Contains(got.body, "consent.completed") {
		t.Fatalf("the account: %d\n%s", got.status, tail(got.body, 3000))
	}
	do := func(action, reason string) page {
		t.Helper()
		address := at + "/" + conn + "/" + action + "?tenant=acme"
		ask := op.get(address)
		if ask.status != http.StatusOK {
			t.Fatalf("%s: %d\n%s", action, ask.status, tail(ask.body, 2000))
		}
		return op.post(address, with(ask.form(), "reason", reason))
	}

	before := c.token(subject).str("access_token")
	if got := do("refresh", "the user called"); got.status != http.StatusSeeOther || !strings.HasSuffix(got.location, "&notice=refreshed") {
		t.Fatalf("refresh: %d %s\n%s", got.status, got.location, tail(got.body, 2000))
	}
	if now := c.token(subject).str("access_token"); now == before {
		t.Error("after a refresh the same token is issued")
	}

	link := do("link", "ticket 7")
	m := regexp.MustCompile(`id="link" value="([^"]+)"`).FindStringSubmatch(link.body)
	if m == nil {
		t.Fatalf("no link: %d\n%s", link.status, tail(link.body, 2000))
	}
	end := newBrowser(t).consent(html.UnescapeString(m[1]))
	code := end.code(t)
	id := strings.TrimPrefix(strings.TrimSuffix(end.url, "/"), p.url+"/consent/")
	done := c.want(200, "POST", "/v1/consents/"+id+"/complete", object{"subject": subject, "code": code})
	if done.str("id") != conn {
		t.Errorf("the link made %s of %s", done.str("id"), conn)
	}

	if got := do("revoke", ""); got.status != http.StatusBadRequest || !strings.Contains(got.body, "Say why") {
		t.Errorf("revoked without a reason: %d", got.status)
	}
	live := c.token(subject).str("access_token")
	if got := do("revoke", "left the company"); got.status != http.StatusSeeOther || !strings.HasSuffix(got.location, "&notice=revoked") {
		t.Fatalf("revoke: %d %s\n%s", got.status, got.location, tail(got.body, 2000))
	}
	c.refused(409, "consent_required", subject)
	if got := op.get(account + "&notice=revoked"); !strings.Contains(got.body, "left the company") || !strings.Contains(got.body, "operator.revoked") || !strings.Contains(got.body, "the user called") {
		t.Errorf("the timeline\n%s", tail(got.body, 4000))
	}
	for _, kind := range []string{"operator.refreshed", "operator.link_created", "operator.revoked"} {
		events := c.want(200, "GET", "/v1/events?type="+kind, nil).list("events")
		if len(events) != 1 || events[0]["connection"] != conn || events[0]["reason"] == "" {
			t.Errorf("%s: %v", kind, events)
		}
	}
	for _, seen := range pages {
		for what, secret := range map[string]string{"token": before, "newer token": live} {
			if strings.Contains(seen, secret) {
				t.Errorf("a page shows a %s: %s", what, strings.SplitN(seen, "\n", 2)[0])
			}
		}
	}
	if n := strings.Count(strings.Join(pages, "\n"), html.UnescapeString(m[1])); n != 1 {
		t.Errorf("the link was shown %d times", n)
	}
	p.stop()
	if log := p.log.String(); strings.Contains(log, m[1]) || strings.Contains(log, subject) {
		t.Error("the log has the link or the subject")
	}
}

// ownPages says of each form what a browser says of one that lies on a page of the same site.
type ownPages struct{ http.RoundTripper }

func (o ownPages) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method == http.MethodPost {
		req = req.Clone(req.Context())
		req.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	return o.RoundTripper.RoundTrip(req)
}

func with(form url.Values, name, value string) url.Values {
	form.Set(name, value)
	return form
}
