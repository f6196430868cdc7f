package web_test

import (
	"bufio"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
)

// A page whose answer takes its time begins before it is there: its beginning is sent while the answer is still looked for.
func TestLatePage(t *testing.T) {
	s := newSite(t, public, nil)
	s.signIn()
	server := httptest.NewServer(s.echo)
	defer server.Close()
	for name, c := range map[string]struct {
		err   error
		says  string
		lacks string
	}{
		"found":  {nil, "1 permission, from 7 events", "could not be read"},
		"failed": {broker.Errorf(broker.CodeTemporarilyUnavailable, "the store is away"), "This could not be read to its end", "Nothing."},
	} {
		t.Run(name, func(t *testing.T) {
			release := make(chan struct{})
			s.service.Trail.Reach = func(broker.Operator, string, broker.EventFilter) (broker.Reach, error) {
				<-release
				return broker.Reach{Events: 7, Rows: []broker.Reached{{Connector: "files", Subject: "u", Connection: "cn_1", Scope: "files.read", First: made, Last: made, Count: 7}}}, c.err
			}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/dashboard/audit/reach?tenant=acme&agent=helper", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.AddCookie(&http.Cookie{Name: sessionCookie, Value: s.jar[sessionCookie]})
			req.Header.Set("Test-Address", "192.0.2.1")
			// This would wait for ever if nothing came before the answer.
			deadline := time.AfterFunc(10*time.Second, func() { close(release) })
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			body := bufio.NewReader(res.Body)
			var begun strings.Builder
			for !strings.Contains(begun.String(), "<h2>") {
				line, err := body.ReadString('\n')
				if begun.WriteString(line); err != nil {
					t.Fatalf("%v after\n%s", err, begun.String())
				}
			}
			if !deadline.Stop() {
				t.Fatal("the beginning came with the answer")
			}
			close(release)
			rest, err := io.ReadAll(body)
			if err != nil {
				t.Fatal(err)
			}
			contains(t, string(rest), c.says, "</html>")
			lacks(t, string(rest), c.lacks)
			if res.StatusCode != http.StatusOK || res.Header.Get("Cache-Control") != "no-store" || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/html") {
				t.Errorf("%d %v", res.StatusCode, res.Header)
			}
		})
	}
	// What fails in time is an error page like any other.
	s.service.Trail.Reach = func(broker.Operator, string, broker.EventFilter) (broker.Reach, error) {
		return broker.Reach{}, broker.Errorf(broker.CodeTemporarilyUnavailable, "the store is away")
	}
	status(t, s.get("/dashboard/audit/reach?tenant=acme&agent=helper"), http.StatusServiceUnavailable)
}
