package e2e

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tokenbroker/providers/sandbox"
)

// 300 callers on three replicas, one expired token, and a provider slower than any of them would like: the provider
// counts one refresh, and everybody gets the same token.
func TestStampede(t *testing.T) {
	for _, latency := range []time.Duration{time.Second, 3 * time.Second, 11 * time.Second} {
		t.Run(latency.String(), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, shortLived(2*time.Second))
			replicas := []*brokerProcess{r.start(), r.start(), r.start()}
			replicas[0].api(r.key).connect(newBrowser(t), "alice")
			r.expired(replicas[0].api(r.key), "alice")
			r.settings(time.Hour)
			if err := r.provider.Inject(sandbox.Fault{On: sandbox.TargetRefresh, Kind: sandbox.KindLatency, Delay: latency, Times: 1000}); err != nil {
				t.Fatal(err)
			}
			before := r.provider.Stats()
			transport := &http.Transport{MaxIdleConnsPerHost: 300}
			defer transport.CloseIdleConnections()
			tokens := make([]string, 300)
			took := make([]time.Duration, 300)
			var again atomic.Int64
			var wg sync.WaitGroup
			for i := range tokens {
				wg.Go(func() {
					began := time.Now()
					c := &api{base: replicas[i%3].url, key: r.key, http: &http.Client{Timeout: 60 * time.Second, Transport: transport}}
					a, err := c.try("POST", "/v1/tokens", object{"connector": "files", "subject": "alice"})
					for err == nil && a.comeAgain() && time.Since(began) < callAgain {
						// 300 at once on a busy machine: no event within 250 ms, no token. A client calls again.
						again.Add(1)
						time.Sleep(time.Second) // Retry-After
						a, err = c.try("POST", "/v1/tokens", object{"connector": "files", "subject": "alice"})
					}
					if err != nil || a.status != 200 {
						t.Errorf("caller %d: %v, status %d: %s", i, err, a.status, a.raw)
						return
					}
					tokens[i], took[i] = a.str("access_token"), time.Since(began)
				})
			}
			wg.Wait()
			after := r.provider.Stats()
			if n := after.TokenRequests["refresh_token"] - before.TokenRequests["refresh_token"]; n != 1 {
				t.Errorf("the provider counts %d refreshes, want 1", n)
			}
			var slowest time.Duration
			for i, token := range tokens {
				if token != tokens[0] || token == "" {
					t.Errorf("caller %d got another token than caller 0", i)
				}
				slowest = max(slowest, took[i])
			}
			t.Logf("provider %v, slowest caller %v, %d calls repeated", latency, slowest, again.Load())
		})
	}
}

// expired waits until the provider itself says that the subject's token has ended.
func (r *rig) expired(c *api, subject string) {
	r.t.Helper()
	token := c.token(subject, object{"min_ttl": 0}).str("access_token")
	r.eventually(10*time.Second, "the token's end", func() error {
		if status := r.files(token); status != http.StatusUnauthorized {
			return fmt.Errorf("the files API answers %d", status)
		}
		return nil
	})
}

// settings changes how long new tokens live.
func (r *rig) settings(lifetime time.Duration) {
	r.t.Helper()
	if err := r.provider.SetAccessTokenLifetime(lifetime); err != nil {
		r.t.Fatal(err)
	}
}

// A provider that ends the grant when a refresh token is used twice survives a thousand refreshes of one connection.
func TestThousandRefreshes(t *testing.T) {
	t.Parallel()
	r := newRig(t, shortLived(30*time.Second))
	replicas := []*brokerProcess{r.start(), r.start()}
	replicas[0].api(r.key).connect(newBrowser(t), "alice")
	tokens, retries := 0, 0
	for i := 0; tokens < 1000; i++ {
		// min_ttl of the whole lifetime: no stored token will do, each request refreshes.
		a, err := replicas[i%2].api(r.key).try("POST", "/v1/tokens", object{"connector": "files", "subject": "alice", "min_ttl": 30})
		switch {
		case err == nil && a.status == 200:
			tokens++
		case err == nil && a.str("error") == "temporarily_unavailable" && retries < 20:
			retries++ // a disk that is busy with other tests: no event within 250 ms, no token; a client calls again
		default:
			t.Fatalf("after %d tokens: %v, %d %s", tokens, err, a.status, a.raw)
		}
	}
	stats := r.provider.Stats()
	if stats.Reuses != 0 || stats.Refreshes < 1000 || stats.Refreshes > 1000+retries {
		t.Errorf("refreshes %d with %d retries, want 1000; reuses %d, want 0", stats.Refreshes, retries, stats.Reuses)
	}
}

// The provider fails, and the replica that met the failure is killed: the other one goes on when the provider does.
func TestProviderDownAndReplicaKilled(t *testing.T) {
	t.Parallel()
	r := newRig(t, shortLived(2*time.Second))
	first, second := r.start(), r.start()
	c := second.api(r.key)
	c.connect(newBrowser(t), "alice")
	r.expired(c, "alice")
	if err := r.provider.Inject(sandbox.Fault{On: sandbox.TargetRefresh, Kind: sandbox.KindStatus, Status: 503, Times: 1}); err != nil {
		t.Fatal(err)
	}
	a, err := first.api(r.key).try("POST", "/v1/tokens", object{"connector": "files", "subject": "alice"})
	if err != nil || a.status != 503 || a.str("error") != "provider_unavailable" || a.header.Get("Retry-After") == "" {
		t.Fatalf("provider down: %v, %d %s", err, a.status, a.raw)
	}
	first.kill()
	r.settings(time.Hour)
	r.eventually(15*time.Second, "a token from the other replica", func() error {
		a, err := c.try("POST", "/v1/tokens", object{"connector": "files", "subject": "alice"})
		if err != nil || a.status != 200 {
			return fmt.Errorf("%v, status %d", err, a.status)
		}
		return nil
	})
	if stats := r.provider.Stats(); stats.Reuses != 0 {
		t.Errorf("reuses: %d", stats.Reuses)
	}
}

// Somebody who asks and goes away before the provider answers changes nothing: the refresh goes on, and its result is kept.
func TestClientLeavesInARefresh(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := r.start().api(r.key)
	c.connect(newBrowser(t), "alice")
	old := c.token("alice").str("access_token")
	r.inject(sandbox.Fault{On: sandbox.TargetRefresh, Kind: sandbox.KindLatency, Delay: time.Second, Times: 1})
	hasty := c.within(t)
	hasty.http = &http.Client{Timeout: 200 * time.Millisecond}
	if a, err := hasty.try("POST", "/v1/tokens", object{"connector": "files", "subject": "alice", "min_ttl": 3600}); err == nil {
		t.Errorf("whoever did not wait was answered %d", a.status)
	}
	r.eventually(20*time.Second, "the new token", func() error {
		if c.token("alice").str("access_token") == old {
			return fmt.Errorf("still the old one")
		}
		return nil
	})
	if g := r.grant("alice"); g.Refreshes != 1 || g.Failures != 0 {
		t.Errorf("the provider's view: %+v, want one refresh", g)
	}
	c.refreshed("alice")
}
