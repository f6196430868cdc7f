package web_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
	"tokenbroker/web"
	"tokenbroker/web/webtest"
)

func (s *site) ask(path, origin string) (*http.Response, map[string]any) {
	s.t.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	if origin != "" {
		r.Header.Set("Origin", origin)
	}
	res := s.send(r)
	text := body(s.t, res)
	var object map[string]any
	if err := json.Unmarshal([]byte(text), &object); err != nil {
		s.t.Errorf("%s (%d): no JSON: %q", path, res.StatusCode, text)
	}
	if res.Header.Get("Cache-Control") != "no-store" || res.Header.Get("Vary") != "Origin" || res.Header.Get("Access-Control-Allow-Credentials") != "" || len(res.Cookies()) > 0 {
		s.t.Errorf("%s (%d): headers %v", path, res.StatusCode, res.Header)
	}
	return res, object
}

// Pages of the client's origins read how a consent goes on, others don't; and it tells two things alone.
func TestLinkStatus(t *testing.T) {
	s := newSite(t, public, nil)
	type asked struct {
		known broker.ConsentStatus
		wait  time.Duration
	}
	var got asked
	var fail error
	s.service.Status = func(link broker.Secret, known broker.ConsentStatus, wait time.Duration) (broker.LinkStatus, error) {
		got = asked{known, wait}
		if link.Reveal() != webtest.Link {
			return broker.LinkStatus{}, broker.Errorf(broker.CodeNotFound, "no such link")
		}
		return broker.LinkStatus{ConsentID: "k1", Status: broker.ConsentStarted, Origins: []string{"https://chat.example", "http://127.0.0.1:3000", "null", "*"}}, fail
	}
	for origin, allowed := range map[string]bool{
		"https://chat.example": true, "http://127.0.0.1:3000": true, "": false, "null": false, "*": false, "https://chat.example.evil": false, "https://CHAT.example": false,
		"http://chat.example": false, "https://chat.example:443": false, "https://evil.example": false, "https://chat.example/": false,
	} {
		res, object := s.ask(linkPath+"/status", origin)
		want := ""
		if allowed {
			want = origin
		}
		if values := res.Header.Values("Access-Control-Allow-Origin"); strings.Join(values, ",") != want {
			t.Errorf("origin %q: allowed is %q", origin, values)
		}
		if res.StatusCode != 200 || !reflect.DeepEqual(object, map[string]any{"consent": "k1", "status": "started"}) {
			t.Errorf("%d %v", res.StatusCode, object)
		}
	}
	for query, want := range map[string]asked{"": {}, "?wait=25&status=pending": {broker.ConsentPending, 25 * time.Second}, "?wait=60": {"", time.Minute}, "?status=started": {broker.ConsentStarted, 0}} {
		if s.ask(linkPath+"/status"+query, ""); got != want {
			t.Errorf("%s became %+v", query, got)
		}
	}
	before := s.service.Count("LinkStatus")
	for _, query := range []string{"?wait=61", "?wait=-1", "?wait=x", "?wait=1.5", "?status=" + strings.Repeat("x", 33)} {
		if res, object := s.ask(linkPath+"/status"+query, ""); res.StatusCode != 400 || object["error"] != "invalid_request" || object["error_description"] == "" || object["request_id"] != "req-1" {
			t.Errorf("%s: %d %v", query, res.StatusCode, object)
		}
	}
	if s.service.Count("LinkStatus") != before {
		t.Error("a bad question was asked")
	}
	// One that must wait is told so in a way that its page can read.
	fail = &broker.Error{Code: broker.CodeSlowDown, Description: "too many", RetryAfter: 5 * time.Second}
	if res, object := s.ask(linkPath+"/status?wait=5", "https://chat.example"); res.StatusCode != 429 || object["error"] != "slow_down" || res.Header.Get("Retry-After") != "5" || res.Header.Get("Access-Control-Allow-Origin") == "" {
		t.Errorf("%d %v %v", res.StatusCode, object, res.Header)
	}
}

// deadlines is a writer that knows when its answer must be out.
type deadlines struct {
	*httptest.ResponseRecorder
	until time.Time
}

func (d *deadlines) SetWriteDeadline(t time.Time) error {
	d.until = t
	return nil
}

// Who waits for news is answered though the server gives other answers less time than that.
func TestLinkStatusHasTheTimeToWait(t *testing.T) {
	s := newSite(t, public, func(c *web.Config) { c.PageTimeout = 5 * time.Second })
	d := &deadlines{ResponseRecorder: httptest.NewRecorder()}
	s.service.Status = func(_ broker.Secret, _ broker.ConsentStatus, wait time.Duration) (broker.LinkStatus, error) {
		if left := time.Until(d.until); left < wait || left > wait+5*time.Second {
			t.Errorf("while it waits for %v, the answer must be out in %v", wait, left)
		}
		return broker.LinkStatus{ConsentID: "k1", Status: broker.ConsentStarted}, nil
	}
	s.echo.ServeHTTP(d, httptest.NewRequest(http.MethodGet, linkPath+"/status?wait=60", nil))
	if d.Code != http.StatusOK {
		t.Errorf("%d %s", d.Code, d.Body)
	}
}

// Who guesses links by their status is slowed down as on the page, together with it; who has a right one is not.
func TestLinkStatusIsNoOracle(t *testing.T) {
	s := newSite(t, public, nil)
	s.service.Status = func(link broker.Secret, _ broker.ConsentStatus, _ time.Duration) (broker.LinkStatus, error) {
		if link.Reveal() != webtest.Link {
			return broker.LinkStatus{}, broker.Errorf(broker.CodeNotFound, "no such link")
		}
		return broker.LinkStatus{ConsentID: "k1", Status: broker.ConsentStarted, Origins: []string{"https://chat.example"}}, nil
	}
	said := map[string]bool{}
	for i := range 30 {
		path := "/connect/unknown/status"
		if i%2 == 0 {
			path = "/connect/not%20a%20link/status"
		}
		if res, object := s.ask(path, "https://chat.example"); res.StatusCode != 404 || object["error"] != "not_found" || len(object) != 3 || object["request_id"] != "req-1" {
			t.Fatalf("%d %v %v", res.StatusCode, object, res.Header)
		} else if said[object["error_description"].(string)] = true; len(said) != 1 || strings.Join(res.Header.Values("Access-Control-Allow-Origin"), ",") != "*" {
			t.Fatalf("pages are told %v, as %v", said, res.Header) // the same for all links that are none, to all pages
		}
	}
	if res, object := s.ask("/connect/unknown/status", "https://chat.example"); res.StatusCode != 429 || object["error"] != "slow_down" || res.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("a guesser: %d %v %v", res.StatusCode, object, res.Header)
	}
	status(t, s.get("/connect/unknown"), http.StatusTooManyRequests)
	if res, _ := s.ask(linkPath+"/status", ""); res.StatusCode != 200 {
		t.Errorf("a right link of the same address: %d", res.StatusCode)
	}
	if strings.Contains(s.log.String(), webtest.Link) {
		t.Error("the link is in the log")
	}
}

// With the real broker: asking changes nothing, a used link still tells, and no code comes out.
func TestLinkStatusOfARealConsent(t *testing.T) {
	h := brokertest.New(t, 1)
	h.Client.Origins = []string{"https://chat.example"}
	s := newSite(t, public, func(c *web.Config) { c.Service = h.Service })
	_, link, err := h.Service.CreateConsent(t.Context(), h.Caller(), broker.ConsentRequest{Connector: "files", Subject: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	path := "/connect/" + brokertest.LinkSecret(link).Reveal() + "/status"
	said := func(want string) {
		t.Helper()
		events := len(h.Store.Entries())
		res, object := s.ask(path, "https://chat.example")
		if res.StatusCode != 200 || !reflect.DeepEqual(object, map[string]any{"consent": link.ID, "status": want}) || res.Header.Get("Access-Control-Allow-Origin") != "https://chat.example" {
			t.Errorf("%d %v, want %s", res.StatusCode, object, want)
		}
		if len(h.Store.Entries()) != events {
			t.Error("asking left an event")
		}
	}
	said("pending")
	said("pending")
	callback := h.Start(t, link)
	said("started")
	finish, err := h.Service.FinishConsent(t.Context(), callback)
	if err != nil {
		t.Fatal(err)
	}
	said("awaiting_completion")
	if _, err := h.Service.CompleteConsent(t.Context(), h.Caller(), link.ID, broker.Completion{Subject: "alice", Code: finish.UserCode}); err != nil {
		t.Fatal(err)
	}
	said("completed")
	status(t, s.get(strings.TrimSuffix(path, "/status")), http.StatusNotFound)
	if res, _ := s.ask(path[:len(path)-len("A/status")]+"A/status", ""); res.StatusCode != 404 && !strings.HasSuffix(path, "A/status") {
		t.Errorf("another link of the same consent: %d", res.StatusCode)
	}
}
