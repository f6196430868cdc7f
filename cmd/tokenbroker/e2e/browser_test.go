package e2e

import (
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"
)

// browser is a person's browser: a cookie jar, and redirects followed by hand so that each step can be looked at.
type browser struct {
	t    *testing.T
	http *http.Client
	seen func(path string, resp *http.Response, body []byte)
	// hint is the account that the person uses at the provider; "": the provider's default one.
	hint string
}

func newBrowser(t *testing.T) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &browser{t: t, http: &http.Client{
		Jar: jar, Timeout: 60 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

type page struct {
	status   int
	url      string
	location string
	header   http.Header
	body     string
}

func (b *browser) do(req *http.Request) page {
	b.t.Helper()
	resp, err := b.http.Do(req)
	if err != nil {
		b.t.Fatalf("%s %s: %v", req.Method, req.URL.Path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	if b.seen != nil {
		b.seen(req.Method+" "+req.URL.Path, resp, body)
	}
	p := page{status: resp.StatusCode, url: req.URL.String(), header: resp.Header, body: string(body)}
	if l, err := resp.Location(); err == nil {
		p.location = l.String()
	}
	return p
}

func (b *browser) get(address string) page {
	b.t.Helper()
	req, err := http.NewRequest("GET", address, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	return b.do(req)
}

// post sends a form as a browser does from a page of the same site.
func (b *browser) post(address string, form url.Values) page {
	b.t.Helper()
	req, err := http.NewRequest("POST", address, strings.NewReader(form.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	return b.do(req)
}

var hiddenInput = regexp.MustCompile(`<input[^>]*type="hidden"[^>]*>`)
var nameAttr, valueAttr = regexp.MustCompile(`name="([^"]*)"`), regexp.MustCompile(`value="([^"]*)"`)

// form returns the hidden fields of the page's form.
func (p page) form() url.Values {
	form := url.Values{}
	for _, input := range hiddenInput.FindAllString(p.body, -1) {
		name, value := nameAttr.FindStringSubmatch(input), valueAttr.FindStringSubmatch(input)
		if name != nil && value != nil {
			form.Set(name[1], value[1])
		}
	}
	return form
}

var userCode = regexp.MustCompile(`<output[^>]*id="code"[^>]*>([A-Z-]+)</output>`)

// code is the short code that the page shows.
func (p page) code(t *testing.T) string {
	t.Helper()
	m := userCode.FindStringSubmatch(p.body)
	if m == nil {
		t.Fatalf("the page shows no code: status %d at %s\n%s", p.status, p.url, tail(p.body, 3000))
	}
	return m[1]
}

// cookies are the values that the browser keeps for that place.
func (b *browser) cookies(address string) (values []string) {
	b.t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, c := range b.http.Jar.Cookies(u) {
		values = append(values, c.Value)
	}
	return values
}

// start opens the link and presses Continue: the answer leads to the provider.
func (b *browser) start(link string) page {
	b.t.Helper()
	began := time.Now()
	again := func(p page) bool {
		if p.status != http.StatusServiceUnavailable || time.Since(began) > callAgain {
			return false
		}
		time.Sleep(time.Second) // a busy machine held the store up: people press the button again
		return true
	}
	opened := b.get(link)
	for again(opened) {
		opened = b.get(link)
	}
	if opened.status != 200 {
		b.t.Fatalf("open link: status %d\n%s", opened.status, tail(opened.body, 2000))
	}
	p := b.post(link, opened.form())
	for again(p) {
		p = b.post(link, opened.form())
	}
	if p.status != http.StatusSeeOther {
		b.t.Fatalf("continue: status %d, want 303\n%s", p.status, tail(p.body, 2000))
	}
	return p
}

// atProvider goes through the provider's pages, which decide by themselves, and returns the callback's address.
func (b *browser) atProvider(authorize string) string {
	b.t.Helper()
	if b.hint != "" {
		authorize += "&login_hint=" + b.hint + "&auto=allow"
	}
	next := authorize
	for range 6 {
		p := b.get(next)
		if p.location == "" {
			b.t.Fatalf("the provider answered %d without going on\n%s", p.status, tail(p.body, 2000))
		}
		next = p.location
		if strings.Contains(next, "/oauth2/callback/") {
			return next
		}
	}
	b.t.Fatalf("the provider goes in circles: %s", next)
	return ""
}

// consent goes the whole way and returns the page at its end; redirects to other sites are not followed.
func (b *browser) consent(link string) page {
	b.t.Helper()
	callback := b.atProvider(b.start(link).location)
	return b.follow(b.get(callback))
}

// follow goes on as long as the broker redirects to itself.
func (b *browser) follow(p page) page {
	b.t.Helper()
	for range 3 {
		from, _ := url.Parse(p.url)
		to, err := url.Parse(p.location)
		if p.location == "" || err != nil || to.Host != from.Host {
			break
		}
		p = b.get(p.location)
	}
	return p
}
