//go:build scale

package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"tokenbroker/vault/vaulttest"
)

// TestDashboardAtScale fills a Redis with SCALE_CONNECTIONS connections and SCALE_EVENTS events (a million and ten million),
// starts the real program on it, and measures the first byte of every page of the dashboard. make scale runs it; the report goes
// to SCALE_REPORT.
func TestDashboardAtScale(t *testing.T) {
	connections, events := int(setting(t, "SCALE_CONNECTIONS", 1_000_000)), int(setting(t, "SCALE_EVENTS", 10_000_000))
	rounds := int(setting(t, "SCALE_ROUNDS", 30))
	server := vaulttest.StartRedis(t, "--dir", t.TempDir(), "--appendfsync", "everysec", "--auto-aof-rewrite-percentage", "0")
	r := newRigAt(t, server.URL())
	r.server = server
	r.writeConfig("early_refreshes: 0\n") // the sandbox knows none of the seed's refresh tokens
	s := r.seeder()
	s.connections(connections)
	s.events(events)
	cli := r.redisCLI()

	began := time.Now()
	p := r.start("LOG_LEVEL=info")
	op := &scaleOperator{t: t, p: p, client: &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
	op.signIn()
	indexed := op.waitIndexed(connections)
	t.Logf("all connections were in the index %s after the start", indexed.Sub(began).Round(time.Second))
	searchable := op.waitSearchable(cli)
	t.Logf("all events were in the index %s after the start", searchable.Sub(began).Round(time.Second))

	idle := p.resident(t)
	before := cli.calls("keys", "scan")
	report := op.measure(s, rounds)
	after := cli.calls("keys", "scan")
	report += fmt.Sprintf("\nMemory of the process: %d MiB before these requests, %d MiB after them. KEYS and SCAN during them: %d.\n", idle>>20, p.resident(t)>>20, after-before)
	memory := cli.info("used_memory")
	text := fmt.Sprintf("# The dashboard at scale, %s\n\n%d connections, %d events; Redis %s uses %d MiB; %d processors; first byte of %d requests each, one at a time, over loopback.\n"+
		"Indexing them from nothing, in the background, took one replica %s for the connections and %s for the events.\n\n%s",
		time.Now().UTC().Format("2006-01-02"), connections, events, cli.infoText("redis_version"), memory>>20, runtime.NumCPU(), rounds,
		indexed.Sub(began).Round(time.Second), searchable.Sub(began).Round(time.Second), report)
	t.Log(text)
	if file := os.Getenv("SCALE_REPORT"); file != "" {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Error(err)
		}
	}
	if after != before {
		t.Errorf("%d KEYS or SCAN while pages were asked for", after-before)
	}
}

// scaleOperator asks for pages and takes their times.
type scaleOperator struct {
	t      *testing.T
	p      *brokerProcess
	client *http.Client
	cookie []*http.Cookie
	form   string
}

type timed struct {
	status int
	first  time.Duration
	whole  time.Duration
	body   string
}

func (o *scaleOperator) ask(method, path string, form url.Values) timed {
	o.t.Helper()
	var first time.Time
	ctx, cancel := context.WithTimeout(httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{GotFirstResponseByte: func() { first = time.Now() }}), time.Minute)
	defer cancel()
	var body io.Reader
	if form != nil {
		form.Set("form", o.form)
		body = strings.NewReader(form.Encode())
	}
	req, err := http.NewRequestWithContext(ctx, method, o.p.url+path, body)
	if err != nil {
		o.t.Fatal(err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	for _, c := range o.cookie {
		req.AddCookie(c)
	}
	began := time.Now()
	resp, err := o.client.Do(req)
	if err != nil {
		o.t.Fatalf("%s: %v", path, err)
	}
	defer resp.Body.Close()
	all, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err != nil {
		o.t.Fatalf("%s: %v", path, err)
	}
	if c := resp.Cookies(); len(c) > 0 {
		o.cookie = c
	}
	return timed{status: resp.StatusCode, first: first.Sub(began), whole: time.Since(began), body: string(all)}
}

var scaleForm = regexp.MustCompile(`name="form" value="([^"]+)"`)

func (o *scaleOperator) signIn() {
	o.t.Helper()
	if got := o.ask("POST", "/dashboard/login", url.Values{"token": {dashboardToken}}); got.status != http.StatusSeeOther {
		o.t.Fatalf("sign in: %d %s", got.status, tail(got.body, 1000))
	}
	m := scaleForm.FindStringSubmatch(o.ask("GET", "/dashboard/accounts", nil).body)
	if m == nil {
		o.t.Fatal("no form token")
	}
	o.form = m[1]
}

// measure asks for every page so many times, pages in turn, so that a slow moment of the machine meets them all.
func (o *scaleOperator) measure(s *seeder, rounds int) string {
	o.t.Helper()
	type row struct {
		name, method, path string
		form               url.Values
		times              []time.Duration
		whole              []time.Duration
	}
	from, to := s.now.Add(-time.Hour).Format("2006-01-02T15:04"), s.now.Add(24*time.Hour).Format("2006-01-02T15:04")
	var rows []*row
	add := func(name, method, path string, form url.Values) {
		rows = append(rows, &row{name: name, method: method, path: path, form: form})
	}
	for _, page := range scalePages(s, from, to) {
		add(page.name, page.method, page.path, page.form)
	}
	deep := "/dashboard/accounts?tenant=acme"
	for range 40 { // the forty-first page
		got := o.ask("GET", deep, nil)
		next := nextPage.FindStringSubmatch(got.body)
		if next == nil {
			o.t.Fatalf("no next page of %s: %d", deep, got.status)
		}
		deep = strings.ReplaceAll(next[1], "&amp;", "&")
	}
	add("accounts, page 41", "GET", deep, nil)
	for range rounds {
		for _, row := range rows {
			var form url.Values
			if row.form != nil {
				form = url.Values{}
				for k, v := range row.form {
					form[k] = slices.Clone(v)
				}
			}
			got := o.ask(row.method, row.path, form)
			if got.status != http.StatusOK {
				o.t.Fatalf("%s: %d\n%s", row.name, got.status, tail(got.body, 3000))
			}
			if strings.Contains(got.body, "canary-access-") || strings.Contains(got.body, "canary-refresh-") {
				o.t.Fatalf("%s shows a token", row.name)
			}
			row.times, row.whole = append(row.times, got.first), append(row.whole, got.whole)
		}
	}
	out := "| page | median | 95 of 100 | longest | whole, median |\n| --- | --- | --- | --- | --- |\n"
	ms := func(d time.Duration) string {
		return strconv.FormatFloat(float64(d.Microseconds())/1000, 'f', 1, 64) + " ms"
	}
	for _, row := range rows {
		slices.Sort(row.times)
		slices.Sort(row.whole)
		median := row.times[len(row.times)/2]
		out += fmt.Sprintf("| %s | %s | %s | %s | %s |\n", row.name, ms(median), ms(row.times[len(row.times)*95/100]), ms(row.times[len(row.times)-1]), ms(row.whole[len(row.whole)/2]))
		if median >= 200*time.Millisecond {
			o.t.Errorf("%s: first byte after %s at the median", row.name, median)
		}
	}
	return out
}

var nextPage = regexp.MustCompile(`href="([^"]+)" rel="next"`)

// calls counts how often the server got these commands.
func (c *redisCLI) calls(names ...string) (n int) {
	c.t.Helper()
	for _, name := range names {
		if m := regexp.MustCompile(`calls=(\d+)`).FindStringSubmatch(c.infoText("cmdstat_" + name)); m != nil {
			k, _ := strconv.Atoi(m[1])
			n += k
		}
	}
	return n
}
