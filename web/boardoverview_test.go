package web_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
	"tokenbroker/web/webtest"
)

// stream asks for the live overview for so long, and returns what came.
func (s *site) stream(path string, lasts time.Duration) *http.Response {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), lasts)
	defer cancel()
	r := httptest.NewRequest(http.MethodGet, path, nil).WithContext(ctx)
	r.Header.Set("Accept", "text/event-stream")
	return s.send(r)
}

func TestOverviewPage(t *testing.T) {
	s := newSite(t, public, nil)
	now := time.Now()
	s.service.Overviews.Look = func(_ broker.Operator, tenant string, span broker.Span) (broker.Overview, error) {
		o := webtest.OverviewSample(now)
		o.Tenant, o.Span = tenant, span
		return o, nil
	}
	lacks(t, s.get("/dashboard").Header.Get("Content-Security-Policy"), "connect-src")
	s.signIn()
	res := s.get("/dashboard?tenant=acme&span=24h")
	page := body(t, res)
	contains(t, page, "does not answer; 2 replicas pause there", `/dashboard/accounts?connector=google-drive&amp;tenant=acme`, `/dashboard/health`, "user-4711", "81,204", "2.4 s", "over 60 s",
		`data-stream="/dashboard/live?span=24h&amp;tenant=acme"`, `role="img"`, "65,490 handed out", "The audit trail is the truth")
	contains(t, res.Header.Get("Content-Security-Policy"), "connect-src 'self'", "script-src 'self'; ", "default-src 'none'")
	lacks(t, page, "style=", "<script>")
	status(t, s.get("/dashboard?tenant=nobody"), http.StatusNotFound)
	status(t, s.get("/dashboard?span=2y"), http.StatusBadRequest)
	if n := s.service.Count("Overview"); n != 1 {
		t.Errorf("looked %d times", n)
	}
	s.service.Overviews.Vitals = func(broker.Operator) (broker.Vitals, error) { return webtest.VitalsSample(now), nil }
	contains(t, body(t, s.get("/dashboard/health")), "broker-2", "silent", "Redis: sentinel", "10.0.0.8:6379", "69 %", "primary", "revoke_all", "allkeys-lru", "the jobs can&#39;t be read")
}

// Threat 63: whoever may see one tenant sees that alone, by any address.
func TestOverviewOfATenant(t *testing.T) {
	s := withLogin(t, nil)
	var asked []string
	var mu sync.Mutex
	s.service.Overviews.Look = func(_ broker.Operator, tenant string, _ broker.Span) (broker.Overview, error) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, tenant)
		return broker.Overview{}, nil
	}
	s.signInAs("operator of acme", "")
	page := body(t, s.get("/dashboard"))
	lacks(t, page, "globex", "/dashboard/health", ">All<")
	for _, path := range []string{"/dashboard?tenant=globex", "/dashboard/live?tenant=globex"} {
		status(t, s.get(path), http.StatusNotFound)
	}
	status(t, s.get("/dashboard/health"), http.StatusForbidden)
	if len(asked) != 1 || asked[0] != "acme" {
		t.Errorf("asked for %q", asked)
	}
}

func TestLiveOverview(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, public, nil)
		var completed atomic.Int64
		s.service.Overviews.Look = func(broker.Operator, string, broker.Span) (broker.Overview, error) {
			return broker.Overview{At: time.Now(), Consents: broker.ConsentFunnel{Completed: completed.Add(1) / 3 * 1000}}, nil
		}
		res := s.get("/dashboard/live")
		status(t, res, http.StatusUnauthorized)
		s.signIn()
		res = s.stream("/dashboard/live?tenant=acme&span=7d", 10*time.Second)
		status(t, res, http.StatusOK)
		text := body(t, res)
		if parts, times := strings.Count(text, "event: part\n"), strings.Count(text, "event: at\n"); parts != 2 || times != 4 {
			t.Errorf("%d parts and %d times in ten seconds\n%s", parts, times, text)
		}
		contains(t, text, "retry: 3000", "1,000")
		lacks(t, text, "event: over")
		if kind := res.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/event-stream") || len(res.Cookies()) != 0 || res.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("headers %v", res.Header)
		}
		if text := body(t, s.get("/dashboard/live")); strings.Count(text, "event: part\n") != 1 {
			t.Errorf("without asking for a stream: %s", text)
		}
		status(t, s.send(httptest.NewRequest(http.MethodHead, "/dashboard/live", nil)), http.StatusMethodNotAllowed)
		// A page that stays open keeps nobody signed in.
		for range 4 {
			if res = s.stream("/dashboard/live", 10*time.Minute); res.StatusCode != http.StatusOK {
				break
			}
			text = body(t, res)
		}
		contains(t, text, "event: over")
		status(t, s.get("/dashboard/live"), http.StatusUnauthorized)
		// Signed out elsewhere, it ends with the next turn.
		s.signIn()
		var group sync.WaitGroup
		began := time.Now()
		group.Go(func() {
			text = body(t, s.stream("/dashboard/live", time.Hour))
		})
		time.Sleep(4 * time.Second)
		s.sessions.DeleteSession(t.Context(), broker.NewSecret(s.jar[sessionCookie])) //nolint:errcheck // it is in memory
		group.Wait()
		if lasted := time.Since(began); !strings.Contains(text, "event: over") || lasted > 10*time.Second {
			t.Errorf("after %v: %s", lasted, text)
		}
	})
}

// TestLiveOverviewIsBounded: so many streams and no more, and none at a shutdown.
func TestLiveOverviewIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, public, nil)
		s.signIn()
		cookie := &http.Cookie{Name: sessionCookie, Value: s.jar[sessionCookie]}
		open := func(ctx context.Context) *http.Response {
			r := httptest.NewRequest(http.MethodGet, "/dashboard/live", nil).WithContext(ctx)
			r.Header.Set("Test-Address", "192.0.2.1")
			r.Header.Set("Accept", "text/event-stream")
			r.AddCookie(cookie)
			rec := httptest.NewRecorder()
			s.echo.ServeHTTP(rec, r)
			return rec.Result()
		}
		var group sync.WaitGroup
		var over atomic.Int32
		ctx, cancel := context.WithCancel(t.Context())
		for range 12 {
			group.Go(func() {
				if open(ctx).StatusCode == http.StatusOK {
					over.Add(1)
				}
			})
		}
		synctest.Wait()
		if got := open(ctx).StatusCode; got != http.StatusTooManyRequests {
			t.Errorf("one more: %d", got)
		}
		cancel()
		group.Wait()
		if over.Load() != 12 {
			t.Errorf("%d streams", over.Load())
		}
		began := time.Now()
		group.Go(func() { open(t.Context()) })
		synctest.Wait()
		s.pages.EndLive()
		s.pages.EndLive()
		group.Wait()
		if lasted := time.Since(began); lasted > time.Second {
			t.Errorf("a stream went on for %v", lasted)
		}
		if got := open(t.Context()).StatusCode; got != http.StatusTooManyRequests {
			t.Errorf("after the end: %d", got)
		}
	})
}
