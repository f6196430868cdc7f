package e2e

import (
	"fmt"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tokenbroker/providers/sandbox"
)

// An answer that is lost after the provider did its work: where the old refresh token passes for a while, nobody notices;
// where it does not, the user consents once more, and the provider is not asked again and again.
func TestProviderResetsAfterwards(t *testing.T) {
	t.Parallel()
	for _, rotation := range []sandbox.Rotation{sandbox.RotationGrace, sandbox.RotationStrict} {
		t.Run(string(rotation), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, func(c *sandbox.Config) { c.Rotation = rotation })
			r.rotation = string(rotation)
			r.writeConfig(quick)
			c := r.start().api(r.key)
			conn := c.connect(newBrowser(t), "alice")
			r.inject(sandbox.Fault{On: sandbox.TargetRefresh, Kind: sandbox.KindReset, Times: 1})
			c.want(503, "POST", "/v1/tokens", object{"connector": "files", "subject": "alice", "min_ttl": 3600})
			if a := c.token("alice"); a.body["degraded"] != true {
				t.Errorf("degraded: %v", a.body["degraded"])
			}
			if rotation == sandbox.RotationStrict {
				r.eventually(30*time.Second, "the loss shows", func() error {
					a, err := c.try("POST", "/v1/tokens", object{"connector": "files", "subject": "alice", "min_ttl": 3600})
					if err != nil || a.status != 409 {
						return fmt.Errorf("%v %d", err, a.status)
					}
					return nil
				})
				r.lostOnce(c, "alice", "alice", conn)
				return
			}
			r.eventually(30*time.Second, "a new token", func() error {
				a, err := c.try("POST", "/v1/tokens", object{"connector": "files", "subject": "alice", "min_ttl": 3600})
				if err != nil || a.status != 200 {
					return fmt.Errorf("%v %d", err, a.status)
				}
				return nil
			})
			c.refreshed("alice")
			if g := r.grant("alice"); g.Refreshes != 3 || g.Failures != 0 || g.Revoked != "" || r.provider.Stats().GraceReuses != 1 {
				t.Errorf("the provider's view: %+v", g)
			}
			if events := c.events(url.Values{"type": {"connection.needs_consent"}}); len(events) != 0 {
				t.Errorf("the user was asked: %v", events)
			}
		})
	}
}

// A provider that hangs for everybody gets few requests, and costs the users of another provider nothing.
func TestProviderHangsOthersDoNotNotice(t *testing.T) {
	t.Parallel()
	names := []string{"u1", "u2", "u3", "u4", "u5", "u6"}
	r := newRig(t, users(names...))
	r.writeConfig(quick)
	calm := r.addCalm()
	c := r.start().api(r.key)
	for _, name := range names {
		b := newBrowser(t)
		b.hint = name
		c.connect(b, name)
	}
	c.connect(newBrowser(t), "bob", object{"connector": "calm"})
	measure := func(n int) (took []time.Duration) {
		for range n {
			began := time.Now()
			a, err := c.try("POST", "/v1/tokens", object{"connector": "calm", "subject": "bob", "min_ttl": 3600})
			if err != nil || a.status != 200 {
				t.Errorf("the other provider's user: %v, %d %s", err, a.status, a.raw)
			}
			took = append(took, time.Since(began))
		}
		slices.Sort(took)
		return took
	}
	before := measure(60)
	r.inject(sandbox.Fault{On: sandbox.TargetRefresh, Kind: sandbox.KindHang})
	requests := r.provider.Stats().TokenRequests["refresh_token"]
	began := time.Now()
	stop := make(chan struct{})
	var wait sync.WaitGroup
	var asked, odd atomic.Int64
	for i := range 30 {
		wait.Go(func() {
			for !isClosed(stop) {
				a, err := c.try("POST", "/v1/tokens", object{"connector": "files", "subject": names[i%len(names)], "min_ttl": 3600})
				asked.Add(1)
				if err != nil || a.status != 503 || a.header.Get("Retry-After") == "" {
					odd.Add(1)
				}
				select {
				case <-stop:
				case <-time.After(20 * time.Millisecond): // much sooner than Retry-After asks for
				}
			}
		})
	}
	r.eventually(20*time.Second, "requests hang", func() error {
		if r.provider.Stats().Held == 0 {
			return fmt.Errorf("none")
		}
		return nil
	})
	var during []time.Duration
	for time.Since(began) < 6*time.Second {
		during = append(during, measure(20)...)
	}
	close(stop)
	lasted := time.Since(began)
	wait.Wait()
	slices.Sort(during)
	n := r.provider.Stats().TokenRequests["refresh_token"] - requests
	t.Logf("another provider's refreshes: median %v and slowest of 60 %v before; median %v, slowest of %d %v while this one hung for %v and got %d requests for %d asked",
		before[len(before)/2], before[len(before)-1], during[len(during)/2], len(during), during[len(during)-1], lasted, n, asked.Load())
	// One request for each grant, then one probe now and then for all of them.
	if most := len(names) + 2*int(lasted.Seconds()); n > most {
		t.Errorf("%d requests in %v to a provider that hangs, for %d grants; at most %d", n, lasted, len(names), most)
	}
	if odd.Load() > 0 {
		t.Errorf("%d of %d answers were not a 503 with Retry-After", odd.Load(), asked.Load())
	}
	if a, b := before[len(before)/2], during[len(during)/2]; b > 3*a+200*time.Millisecond {
		t.Errorf("the other provider's users wait %v, before %v", b, a)
	}
	if calm.Stats().Reuses != 0 {
		t.Error("the other provider saw a refresh token twice")
	}
}
