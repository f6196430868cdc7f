package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// pagesScenario asks for pages of the API and of the dashboard in two stores, of which one has a hundred times as much: no page may
// take longer because of that.
type pagesScenario struct{}

func (pagesScenario) name() string { return "pages" }

func (pagesScenario) about() string {
	return "a page of connections, of events and of the dashboard, with 10,000 and with 1,000,000 connections"
}

// page is one that is measured.
type page struct {
	name string
	path string
	api  bool // with the API key; else as an operator who is signed in
	// deep: the page so many pages behind this one.
	deep int
}

func benchPages(now time.Time) []page {
	day := now.Add(-24 * time.Hour).Format(time.RFC3339)
	return []page{
		{name: "GET /v1/connections", path: "/v1/connections?limit=50", api: true},
		{name: "GET /v1/connections, page 21", path: "/v1/connections?limit=50", api: true, deep: 20},
		{name: "GET /v1/connections of a connector", path: "/v1/connections?limit=50&connector=" + benchConnector, api: true},
		{name: "GET /v1/events", path: "/v1/events?limit=50", api: true},
		{name: "GET /v1/events, page 21", path: "/v1/events?limit=50", api: true, deep: 20},
		{name: "GET /v1/events since a day", path: "/v1/events?limit=50&since=" + url.QueryEscape(day), api: true},
		{name: "GET /v1/events of a type", path: "/v1/events?limit=50&type=token.issued", api: true},
		{name: "GET /v1/events of a subject", path: "/v1/events?limit=50&subject=" + url.QueryEscape(subject(7)), api: true},
		{name: "dashboard, overview", path: "/dashboard"},
		{name: "dashboard, accounts", path: "/dashboard/accounts"},
		{name: "dashboard, accounts of a tenant", path: "/dashboard/accounts?tenant=" + benchTenant},
		{name: "dashboard, accounts, page 21", path: "/dashboard/accounts?tenant=" + benchTenant, deep: 20},
		{name: "dashboard, audit trail, newest", path: "/dashboard/audit?tenant=" + benchTenant},
		{name: "dashboard, audit trail, an agent", path: "/dashboard/audit?tenant=" + benchTenant + "&agent=agent-7"},
		{name: "dashboard, audit trail, page 21", path: "/dashboard/audit?tenant=" + benchTenant, deep: 20},
	}
}

func (pagesScenario) run(ctx context.Context, b *bench) (section, error) {
	out := section{title: "Pages, however much there is"}
	all, err := b.towns(ctx)
	if err != nil {
		return out, err
	}
	towns := all[1:]
	rounds := 20 * b.options.Rounds // of a page that takes 5 ms, fewer scatter by more than what is demanded
	if b.options.Quick {
		rounds = 6
	}
	readers := make([]*pageReader, len(towns))
	for i, t := range towns {
		if readers[i], err = newPageReader(ctx, t); err != nil {
			return out, err
		}
	}
	table := table{caption: fmt.Sprintf("Whole answers, medians of %d requests in turn, one at a time, in ms.", rounds),
		head: []string{"page", "with " + thousands(int64(towns[0].connections)), "with " + thousands(int64(towns[1].connections)), "ratio"}}
	for _, p := range benchPages(time.Now().UTC()) {
		times, err := timePage(ctx, readers, p, rounds)
		if err != nil {
			return out, err
		}
		few, many := spreadOf(times[0]), spreadOf(times[1])
		table.add(p.name, few.String(), many.String(), figure(many.median/few.median))
		out.demands = append(out.demands, demand{what: p.name + fmt.Sprintf(", %s connections / %s", thousands(int64(towns[1].connections)), thousands(int64(towns[0].connections))),
			have: many.median / few.median, want: 1.2, most: true})
		b.say("%s: %s and %s ms", p.name, few, many)
	}
	out.tables = append(out.tables, table)
	out.text = append(out.text, "Two brokers on a Redis each, with ten events for each connection. What the pages ask of Redis is counted, and held, by a test of this package.")
	return out, nil
}

// timePage asks all readers for the page in turn; the times of each are in ms.
func timePage(ctx context.Context, readers []*pageReader, p page, rounds int) ([][]float64, error) {
	paths := make([]string, len(readers))
	for i, r := range readers {
		paths[i] = p.path
		for range p.deep {
			got, err := r.get(ctx, paths[i], p.api)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", p.name, err)
			}
			next := got.next(p)
			if next == "" {
				break // this store has fewer pages
			}
			paths[i] = next
		}
	}
	times := make([][]float64, len(readers))
	for round := range rounds + 2 {
		for k := range readers {
			i := (k + round) % len(readers)
			got, err := readers[i].get(ctx, paths[i], p.api)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", p.name, err)
			}
			if round >= 2 { // the first ones warm up
				times[i] = append(times[i], milliseconds(got.took))
			}
		}
	}
	return times, nil
}

// pageReader asks one broker for pages.
type pageReader struct {
	base   string
	client *http.Client
}

// gotPage is an answer.
type gotPage struct {
	body string
	took time.Duration
}

// newPageReader signs in to the dashboard.
func newPageReader(ctx context.Context, t *town) (*pageReader, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	r := &pageReader{base: "http://" + t.broker.address, client: &http.Client{
		Jar: jar, Timeout: time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	form := url.Values{"token": {dashboardToken}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.base+"/dashboard/login", strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusSeeOther {
		return nil, fmt.Errorf("sign in to the dashboard: status %d", resp.StatusCode)
	}
	return r, nil
}

func (r *pageReader) get(ctx context.Context, path string, api bool) (gotPage, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.base+path, nil)
	if err != nil {
		return gotPage{}, err
	}
	if api {
		req.Header.Set("Authorization", "Bearer "+benchKey)
	}
	began := time.Now()
	resp, err := r.client.Do(req)
	if err != nil {
		return gotPage{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return gotPage{}, err
	}
	if resp.StatusCode != http.StatusOK {
		return gotPage{}, fmt.Errorf("status %d: %.300s", resp.StatusCode, body)
	}
	return gotPage{body: string(body), took: time.Since(began)}, nil
}

var nextLink = regexp.MustCompile(`href="([^"]+)" rel="next"`)

// next is the path of the page behind it; "": that was the last.
func (g gotPage) next(p page) string {
	if p.api {
		var answer struct {
			Next *string `json:"next_cursor"`
		}
		if json.Unmarshal([]byte(g.body), &answer) != nil || answer.Next == nil {
			return ""
		}
		return p.path + "&cursor=" + url.QueryEscape(*answer.Next)
	}
	found := nextLink.FindStringSubmatch(g.body)
	if found == nil {
		return ""
	}
	return strings.ReplaceAll(found[1], "&amp;", "&")
}
