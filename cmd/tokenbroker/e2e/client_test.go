package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// api is a client of the REST API, as a chatbot backend would be.
type api struct {
	t    *testing.T
	base string
	key  string
	http *http.Client
	// seen collects every answer's body and headers for the search for canaries; nil: nobody looks.
	seen func(path string, resp *http.Response, body []byte)
}

func (p *brokerProcess) api(key string) *api {
	return &api{t: p.rig.t, base: p.url, key: key, http: &http.Client{Timeout: 60 * time.Second}}
}

type answer struct {
	status int
	header http.Header
	body   map[string]any
	raw    string
}

func (a answer) str(path ...string) string {
	var v any = a.body
	for _, p := range path {
		m, _ := v.(map[string]any)
		v = m[p]
	}
	s, _ := v.(string)
	return s
}

func (a answer) list(name string) []map[string]any {
	rows, _ := a.body[name].([]any)
	out := make([]map[string]any, len(rows))
	for i, row := range rows {
		out[i], _ = row.(map[string]any)
	}
	return out
}

func (c *api) try(method, path string, body any) (answer, error) {
	var reader io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		reader = strings.NewReader(b)
	default:
		encoded, err := json.Marshal(b)
		if err != nil {
			return answer{}, err
		}
		reader = bytes.NewReader(encoded)
	}
	req, err := http.NewRequest(method, c.base+path, reader)
	if err != nil {
		return answer{}, err
	}
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{}, err
	}
	if c.seen != nil {
		c.seen(method+" "+path, resp, raw)
	}
	a := answer{status: resp.StatusCode, header: resp.Header, raw: string(raw)}
	if err := json.Unmarshal(raw, &a.body); err != nil {
		return a, fmt.Errorf("%s %s: status %d, body is not JSON: %q", method, path, resp.StatusCode, raw)
	}
	return a, nil
}

// callAgain is how long a caller goes on calling again while a busy machine holds the store up.
const callAgain = 30 * time.Second

// comeAgain tells whether the broker's store or audit could not do its part just now; nothing is lost by that.
func (a answer) comeAgain() bool {
	return a.status == http.StatusServiceUnavailable && a.str("error") == "temporarily_unavailable"
}

// want makes a call that must end with the status. Where none was expected, it takes a 503 of a store that a busy machine held
// up as the contract says, and calls again, for half a minute at most.
func (c *api) want(status int, method, path string, body any) answer {
	c.t.Helper()
	var a answer
	for began := time.Now(); ; {
		var err error
		if a, err = c.try(method, path, body); err != nil {
			c.t.Fatalf("%s %s: %v", method, path, err)
		}
		if status == http.StatusServiceUnavailable || !a.comeAgain() || time.Since(began) > callAgain {
			break
		}
		c.t.Logf("%s %s: called again after %s", method, path, a.raw)
		time.Sleep(time.Second) // Retry-After
	}
	if a.status != status {
		c.t.Fatalf("%s %s: status %d, want %d: %s", method, path, a.status, status, a.raw)
	}
	return a
}

type object = map[string]any

func (c *api) token(subject string, more ...object) answer {
	c.t.Helper()
	return c.want(200, "POST", "/v1/tokens", merge(object{"connector": "files", "subject": subject}, more...))
}

func (c *api) refused(status int, code, subject string, more ...object) answer {
	c.t.Helper()
	a := c.want(status, "POST", "/v1/tokens", merge(object{"connector": "files", "subject": subject}, more...))
	if a.str("error") != code {
		c.t.Fatalf("error %q, want %q: %s", a.str("error"), code, a.raw)
	}
	return a
}

func merge(first object, more ...object) object {
	for _, m := range more {
		for k, v := range m {
			first[k] = v
		}
	}
	return first
}

func (c *api) consent(subject string, more ...object) answer {
	c.t.Helper()
	return c.want(201, "POST", "/v1/consents", merge(object{"connector": "files", "subject": subject}, more...))
}

// connect runs a whole consent of binding "code" for the subject and returns the connection's id.
func (c *api) connect(b *browser, subject string, more ...object) string {
	c.t.Helper()
	consent := c.consent(subject, more...)
	page := b.consent(consent.str("url"))
	done := c.want(200, "POST", "/v1/consents/"+consent.str("id")+"/complete", object{"subject": subject, "code": page.code(c.t)})
	return done.str("id")
}

func (c *api) events(query url.Values) []object {
	c.t.Helper()
	if query == nil {
		query = url.Values{}
	}
	query.Set("limit", "1000")
	var all []object
	for {
		a := c.want(200, "GET", "/v1/events?"+query.Encode(), nil)
		all = append(all, a.list("events")...)
		if a.str("next_cursor") == "" {
			return all
		}
		query.Set("cursor", a.str("next_cursor"))
	}
}

// query is a parameter of an address.
func query(t *testing.T, address, name string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return u.Query().Get(name)
}
