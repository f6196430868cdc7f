package e2e

import (
	"encoding/csv"
	"encoding/json"
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// TestAuditTrail is a security officer's afternoon with the real program: what one agent did, what it could reach, all of it as a file,
// and a verification that names what somebody changed in Redis, as the command line does.
func TestAuditTrail(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := withStaff(t, r)
	p := r.start()
	c := p.api(r.key)
	const subject = "ann+audit@example.com"
	conn := c.connect(newBrowser(t), subject)
	var tokens []string
	for _, agent := range []string{"day-agent", "night-agent", "night-agent"} {
		tokens = append(tokens, c.token(subject, object{"actor": object{"agent": agent, "run": "run-" + agent}, "reason": "=1+1, said the agent"}).str("access_token"))
	}

	o := operatorsTown{rig: r, staff: s, chrome: openChromium(t, chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"))}
	w := o.browser(t, looks[0])
	o.signIn(w, "/dashboard/audit", "auditor")
	o.at(w, "/dashboard/audit", "Audit trail")
	w.do(chromedp.SendKeys(chromedp.CSS("#subject"), subject), chromedp.SendKeys(chromedp.CSS("#agent"), "night-agent"))
	w.click("form.filters button[type=submit]")
	w.until(`location.search.includes("agent=night-agent") && document.querySelectorAll("table.events tbody tr").length >= 2 && !document.querySelector("table.events").innerText.includes("day-agent")`)
	w.until(`!decodeURIComponent(location.href).includes("ann") && document.querySelector("#subject").value === "` + subject + `"`)
	w.whole()

	// The same by hand, for what a browser keeps as a file.
	b := newBrowser(t)
	b.http.Transport = ownPages{http.DefaultTransport}
	s.signIn(b, "", "auditor")
	form := formToken.FindStringSubmatch(b.get(p.url + "/dashboard/session").body)[1]
	export := func(format, kind string) string {
		t.Helper()
		got := b.post(p.url+"/dashboard/audit/export", url.Values{"form": {form}, "tenant": {"acme"}, "format": {format}, "type": {kind}, "agent": {"night-agent"}})
		if got.status != http.StatusOK {
			t.Fatalf("export as %s: %d\n%s", format, got.status, tail(got.body, 1000))
		}
		return got.body
	}
	var want []object
	for _, e := range c.events(url.Values{"type": {"token.issued"}, "subject": {subject}}) {
		if actor, _ := e["actor"].(object); actor["agent"] == "night-agent" {
			want = append(want, e)
		}
	}
	var got []object
	lines := export("jsonl", "token.issued")
	for line := range strings.Lines(lines) {
		var e object
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		got = append(got, e)
	}
	if len(want) < 2 || !reflect.DeepEqual(got, want) {
		t.Errorf("exported %v\nthe API has %v", got, want)
	}
	sheet := export("csv", "")
	rows, err := csv.NewReader(strings.NewReader(sheet)).ReadAll()
	if err != nil || len(rows) < len(want)+1 || !strings.Contains(sheet, "'=1+1") {
		t.Errorf("%d rows, %v\n%s", len(rows), err, sheet)
	}
	reach := b.get(p.url + "/dashboard/audit/reach?" + url.Values{"tenant": {"acme"}, "agent": {"night-agent"}, "month": {time.Now().UTC().Format("2006-01")}}.Encode())
	if reach.status != http.StatusOK || !strings.Contains(reach.body, "/dashboard/accounts/"+conn) || !strings.Contains(reach.body, "files.read") || strings.Contains(reach.body, "This is not all") {
		t.Errorf("the reach: %d\n%s", reach.status, tail(reach.body, 3000))
	}
	for _, token := range tokens {
		for what, text := range map[string]string{"the JSON Lines": lines, "the sheet": sheet, "the reach": reach.body} {
			if strings.Contains(text, token) {
				t.Errorf("%s have a token", what)
			}
		}
	}
	if seen := c.events(url.Values{"type": {"operator.exported"}}); len(seen) != 2 || !strings.Contains(seen[0]["reason"].(string), "night-agent") {
		t.Errorf("on record: %v", seen)
	}

	verify := func() string {
		w.do(chromedp.Navigate(r.public+"/dashboard/audit/verify"), chromedp.SendKeys(chromedp.CSS("#reason"), "the yearly audit"))
		w.click("main form button[type=submit]")
		w.until(`document.querySelector("p.result") !== null`) // the page loads itself anew
		return w.text(`document.querySelector("p.result").textContent`)
	}
	if got := verify(); !strings.HasPrefix(got, "the audit trail is whole") {
		t.Errorf("untouched: %s", got)
	}
	redis := r.redisCLI()
	stream := redis.longestStream()
	entries := redis.entries(stream)
	redis.do("XDEL", stream, entries[len(entries)/2].ID)
	first := regexp.MustCompile(`first bad event is .* \(stream [^)]*\)`)
	out, code := r.try("audit", "verify", "--config", r.config)
	page := verify()
	if named := first.FindString(page); code != 1 || named == "" || named != first.FindString(out) {
		t.Errorf("the page says %q, the command %q", page, out)
	}
}
