package providers

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
)

// threats.md 54: a redirect from the token endpoint carries nothing anywhere.
func TestRedirectIsNotFollowed(t *testing.T) {
	canary := newFake(t)
	for _, status := range []int{301, 302, 303, 307, 308} {
		f := newFake(t)
		f.mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, canary.URL+"/stolen", status)
		})
		_, err := refreshOnce(t, connect(t, setup{yaml: f.plain()}))
		u := class(t, err, broker.ClassRefused)
		if u.Status != status {
			t.Errorf("status %d, want %d", u.Status, status)
		}
		if canary.count("/stolen") != 0 {
			t.Errorf("%d was followed", status)
		}
	}
}

// The same of addresses that the operator configured, such as where audit events go: their lines and headers stay there.
func TestThreat54OutboundFollowsNoRedirect(t *testing.T) {
	canary := newFake(t)
	for _, code := range []int{301, 302, 303, 307, 308} {
		f := newFake(t)
		f.mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, canary.URL+"/stolen", code) })
		res, err := NewOutbound(nil).Post(f.URL+"/events", "application/json", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != code || canary.count("/stolen") != 0 {
			t.Errorf("%d: answered as %d, followed %d times", code, res.StatusCode, canary.count("/stolen"))
		}
	}
}

// threats.md 53: a proxy of the environment would dial for us, and nobody would judge the address.
func TestThreat53NoProxyOfTheEnvironment(t *testing.T) {
	for _, r := range []reach{reachPublic, reachPrivate, reachGuarded} {
		if newTransport(Config{}, r).Proxy != nil {
			t.Errorf("reach %d: requests may go by a proxy", r)
		}
	}
}

// threats.md 55: a body without end costs a megabyte and one error.
func TestEndlessBody(t *testing.T) {
	f := newFake(t)
	chunk := bytes.Repeat([]byte(" "), 1<<20)
	f.mux.HandleFunc("/token", func(w http.ResponseWriter, _ *http.Request) {
		for range 1024 {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	})
	r := connect(t, setup{yaml: f.plain()})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := refreshOnce(t, r)
	runtime.ReadMemStats(&after)
	class(t, err, broker.ClassInDoubt)
	if used := after.TotalAlloc - before.TotalAlloc; used > 32<<20 {
		t.Errorf("%d bytes were allocated for one answer", used)
	}
}

func TestEndlessHeader(t *testing.T) {
	f := newFake(t)
	f.mux.HandleFunc("/token", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Long", strings.Repeat("a", 10<<20))
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"access_token":"a","token_type":"Bearer","expires_in":3600}`) // it is the header that is refused
	})
	_, err := refreshOnce(t, connect(t, setup{yaml: f.plain()}))
	class(t, err, broker.ClassInDoubt)
}

// threats.md 55: a byte now and then does not keep a request alive: it ends by its deadline.
func TestDrippingBodyEndsByItsDeadline(t *testing.T) {
	f := newFake(t)
	f.mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-r.Context().Done():
				return
			case <-tick.C:
				_, _ = w.Write([]byte(" "))
				_ = http.NewResponseController(w).Flush()
			}
		}
	})
	const limit = 200 * time.Millisecond
	r := connect(t, setup{yaml: f.plain(), config: Config{Timeout: limit}})
	began := time.Now()
	_, err := refreshOnce(t, r)
	took := time.Since(began)
	if u := class(t, err, broker.ClassInDoubt); !errors.Is(u, context.DeadlineExceeded) {
		t.Errorf("cause is %v", u.Cause)
	}
	if took < limit || took > limit+1500*time.Millisecond {
		t.Errorf("took %v, the deadline is %v", took, limit)
	}
}

func TestSilenceEndsByItsDeadline(t *testing.T) {
	f := newFake(t)
	f.mux.HandleFunc("/token", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	_, err := refreshOnce(t, connect(t, setup{yaml: f.plain(), config: Config{Timeout: 100 * time.Millisecond}}))
	class(t, err, broker.ClassInDoubt)
	if f.count("/token") != 1 {
		t.Errorf("%d requests", f.count("/token"))
	}
}

// threats.md 56: what was written once is never written again by itself, not even on a connection that was in use before.
func TestResetAfterReadingIsOneRequest(t *testing.T) {
	f := newFake(t)
	answer := true
	f.mux.HandleFunc("/token", func(w http.ResponseWriter, _ *http.Request) {
		if answer {
			_, _ = io.WriteString(w, `{"access_token":"a","expires_in":60}`)
			return
		}
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_ = conn.(*net.TCPConn).SetLinger(0) // RST
		_ = conn.Close()
	})
	r := connect(t, setup{yaml: f.plain()})
	if _, err := refreshOnce(t, r); err != nil {
		t.Fatal(err)
	}
	answer = false
	_, err := refreshOnce(t, r)
	class(t, err, broker.ClassInDoubt)
	if n := f.count("/token"); n != 2 {
		t.Errorf("%d requests for two refreshes", n)
	}
}

func TestNothingSentIsUnsent(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	f := &fakeProvider{Server: &httptest.Server{URL: "http://" + closed.Addr().String()}}
	_, err = refreshOnce(t, connect(t, setup{yaml: f.plain()}))
	class(t, err, broker.ClassUnsent)
}

// threats.md 57: a certificate that nobody vouches for ends the connection before anything is sent.
func TestUnknownAuthorityIsUnsent(t *testing.T) {
	hits := 0
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits++ }))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	f := &fakeProvider{Server: srv}
	_, err := refreshOnce(t, connect(t, setup{yaml: f.plain()}))
	class(t, err, broker.ClassUnsent)
	if hits != 0 {
		t.Error("a request was sent")
	}
}

// threats.md 26: a provider that echoes everything leaves nothing of it in an error.
func TestEchoStaysOutOfErrors(t *testing.T) {
	echoes := map[string]http.HandlerFunc{
		"error codes": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(400)
			_, _ = fmt.Fprintf(w, `{"error":%q,"error_description":%q,"error_uri":%q}`, canaryText, r.PostFormValue("refresh_token"), canarySecret)
		},
		"page": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(500)
			_, _ = fmt.Fprintf(w, "<html>%s %v %s", r.Header.Get("Authorization"), r.PostForm, canaryText)
		},
		"location": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "http://x/"+canaryRefresh)
			w.WriteHeader(302)
		},
		"status line": func(w http.ResponseWriter, r *http.Request) {
			conn, _, _ := http.NewResponseController(w).Hijack()
			_, _ = fmt.Fprintf(conn, "HTTP/1.1 %s %s\r\n\r\n", canaryText, canaryRefresh)
			_ = conn.Close()
		},
		"header": func(w http.ResponseWriter, r *http.Request) {
			conn, _, _ := http.NewResponseController(w).Hijack()
			_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\n%s %s\r\n\r\n", canaryText, canaryRefresh)
			_ = conn.Close()
		},
	}
	for name, echo := range echoes {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.mux.HandleFunc("/token", echo)
			f.mux.HandleFunc("/revoke", echo)
			f.mux.HandleFunc("/me", echo)
			r := connect(t, setup{yaml: f.plain()})
			_, refreshErr := refreshOnce(t, r)
			_, identifyErr := r.Identify(t.Context(), "files", broker.Grant{AccessToken: broker.NewSecret(canaryRefresh)})
			revokeErr := r.Revoke(t.Context(), "files", broker.RevokeRequest{RefreshToken: broker.NewSecret(canaryRefresh)})
			for _, err := range []error{refreshErr, identifyErr, revokeErr} {
				for _, canary := range []string{canarySecret, canaryRefresh, canaryText} {
					if err == nil || strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), canary) {
						t.Errorf("error is %v", err)
					}
				}
			}
		})
	}
}

// Compression is not asked for; who compresses nevertheless is read, within the same bounds.
func TestGzip(t *testing.T) {
	zip := func(plain []byte) []byte {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write(plain)
		_ = z.Close()
		return b.Bytes()
	}
	f := newFake(t)
	body := zip([]byte(`{"access_token":"a","refresh_token":"r","expires_in":60}`))
	f.mux.HandleFunc("/token", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(body)
	})
	r := connect(t, setup{yaml: f.plain()})
	g, err := refreshOnce(t, r)
	if err != nil || g.RefreshToken.Reveal() != "r" {
		t.Fatalf("grant %v, error %v", g.RefreshToken.Reveal(), err)
	}
	if enc := f.request("/token").Header.Get("Accept-Encoding"); enc != "identity" {
		t.Errorf("Accept-Encoding is %q", enc)
	}
	body = zip(bytes.Repeat([]byte(" "), 64<<20)) // a few kilobytes that want to be 64 MiB
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err = refreshOnce(t, r)
	runtime.ReadMemStats(&after)
	class(t, err, broker.ClassInDoubt)
	if used := after.TotalAlloc - before.TotalAlloc; used > 32<<20 {
		t.Errorf("%d bytes were allocated for a bomb", used)
	}
}

// faults.md 9: what each failed answer means.
func TestClasses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		header string // Retry-After
		body   string
		want   broker.Class
		code   string
		after  time.Duration
	}{
		{"dead grant", 400, "", `{"error":"invalid_grant"}`, broker.ClassGrantDead, "invalid_grant", 0},
		{"wrong client", 401, "", `{"error":"invalid_client"}`, broker.ClassClientRefused, "invalid_client", 0},
		{"client may not", 400, "", `{"error":"unauthorized_client"}`, broker.ClassClientRefused, "unauthorized_client", 0},
		{"scope", 400, "", `{"error":"invalid_scope"}`, broker.ClassRefused, "invalid_scope", 0},
		{"unknown code", 400, "", `{"error":"hm"}`, broker.ClassRefused, "", 0},
		{"no code", 400, "", `bad`, broker.ClassRefused, "", 0},
		{"401 without a word", 401, "", ``, broker.ClassClientRefused, "", 0},
		{"404", 404, "", `<html>`, broker.ClassRefused, "", 0},
		{"403 page", 403, "", `<html>`, broker.ClassRefused, "", 0},
		{"429", 429, "7", ``, broker.ClassThrottled, "", 7 * time.Second},
		{"429 that says invalid_grant", 429, "", `{"error":"invalid_grant"}`, broker.ClassThrottled, "invalid_grant", 0},
		{"429 for a day", 429, "86400", ``, broker.ClassThrottled, "", 10 * time.Minute},
		{"429 for more than a number holds", 429, "3000000000", ``, broker.ClassThrottled, "", 10 * time.Minute},
		{"429 for more than any number holds", 429, strings.Repeat("9", 400), ``, broker.ClassThrottled, "", 10 * time.Minute},
		{"429 for a part of a second more", 429, "1.5", ``, broker.ClassThrottled, "", 1500 * time.Millisecond},
		{"429 for less than nothing", 429, "-7", ``, broker.ClassThrottled, "", 0},
		{"429 for no number", 429, "NaN", ``, broker.ClassThrottled, "", 0},
		{"429 until the end of time", 429, "Fri, 31 Dec 9999 23:59:59 GMT", ``, broker.ClassThrottled, "", 10 * time.Minute},
		{"429 until long ago", 429, "Thu, 01 Jan 1970 00:00:00 GMT", ``, broker.ClassThrottled, "", 0},
		{"429 until a date", 429, start.Add(90 * time.Second).Format(http.TimeFormat), ``, broker.ClassThrottled, "", 90 * time.Second},
		{"503 with time", 503, "3", ``, broker.ClassThrottled, "", 3 * time.Second},
		{"503 without", 503, "", ``, broker.ClassInDoubt, "", 0},
		{"503 with nonsense", 503, "soon", ``, broker.ClassInDoubt, "", 0},
		{"500", 500, "", `{"error":"server_error"}`, broker.ClassInDoubt, "server_error", 0},
		{"500 that says invalid_grant", 500, "", `{"error":"invalid_grant"}`, broker.ClassInDoubt, "invalid_grant", 0},
		{"502 page", 502, "", `<html>`, broker.ClassInDoubt, "", 0},
		{"200 page", 200, "", `<html>`, broker.ClassInDoubt, "", 0},
		{"200 empty", 200, "", ``, broker.ClassInDoubt, "", 0},
		{"200 without tokens", 200, "", `{}`, broker.ClassInDoubt, "", 0},
		{"200 cut short", 200, "", `{"access_tok`, broker.ClassInDoubt, "", 0},
		{"200 with an error", 200, "", `{"error":"invalid_grant"}`, broker.ClassGrantDead, "invalid_grant", 0},
		{"200 with an unknown error", 200, "", `{"error":"hm"}`, broker.ClassRefused, "", 0},
		{"404 that echoes the token", 404, "", `{"refresh_token":"` + canaryRefresh + `"}`, broker.ClassRefused, "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			f.mux.HandleFunc("/token", func(w http.ResponseWriter, _ *http.Request) {
				if tt.header != "" {
					w.Header().Set("Retry-After", tt.header)
				}
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, tt.body)
			})
			_, err := refreshOnce(t, connect(t, setup{yaml: f.plain()}))
			u := class(t, err, tt.want)
			if u.Code != tt.code || u.RetryAfter != tt.after || u.Status != tt.status {
				t.Errorf("code %q, retry after %v, status %d", u.Code, u.RetryAfter, u.Status)
			}
			if f.count("/token") != 1 {
				t.Errorf("%d requests", f.count("/token"))
			}
		})
	}
}
