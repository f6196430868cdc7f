package e2e

import (
	"fmt"
	"net/url"
	"sync"
	"testing"
	"time"

	"tokenbroker/providers/sandbox"
)

// A token in use is renewed before its end though nobody asks for it meanwhile, once for all replicas, and whoever comes
// back then gets the new one without waiting for the provider.
func TestEarlyRefresh(t *testing.T) {
	t.Parallel()
	r := newRig(t, shortLived(40*time.Second))
	replicas := []*brokerProcess{r.start(), r.start()}
	c := replicas[0].api(r.key)
	c.connect(newBrowser(t), "alice")
	first := c.token("alice", object{"min_ttl": 1})
	r.settings(time.Hour)
	r.eventually(38*time.Second, "a refresh that nobody asked for", func() error {
		if n := r.provider.Stats().TokenRequests["refresh_token"]; n != 1 {
			return fmt.Errorf("%d refreshes", n)
		}
		return nil
	})
	// The provider answers no more: what comes now was there before.
	if err := r.provider.Inject(sandbox.Fault{On: sandbox.TargetRefresh, Kind: sandbox.KindLatency, Delay: 20 * time.Second, Times: 1000}); err != nil {
		t.Fatal(err)
	}
	r.eventually(10*time.Second, "the new token", func() error {
		second := replicas[1].api(r.key).token("alice", object{"min_ttl": 1})
		if second.str("access_token") == first.str("access_token") {
			return fmt.Errorf("still the old one")
		}
		return nil
	})
	events := c.events(url.Values{"subject": {"alice"}, "type": {"token.refreshed"}})
	if len(events) == 0 || events[0]["reason"] == "" {
		t.Errorf("no event says why it was refreshed: %v", events)
	}
	if n := r.provider.Stats().TokenRequests["refresh_token"]; n != 1 {
		t.Errorf("%d refreshes by two replicas, want 1", n)
	}
}

// Several users of one workspace, whose bot has one chain of refresh tokens with the provider: it is used once each time,
// nobody loses the connection when somebody else consents or leaves, and the last one to leave ends it at the provider.
func TestSharedGrant(t *testing.T) {
	t.Parallel()
	r := newRig(t, shortLived(2*time.Second), func(c *sandbox.Config) { c.SharedGrants = true })
	r.writeConfig("    shared_grants: true\n")
	replicas := []*brokerProcess{r.start(), r.start()}
	c := replicas[0].api(r.key)
	subjects := []string{"a{b}c", "}{", "👩‍🚀"}
	connections := map[string]string{}
	for _, s := range subjects {
		connections[s] = c.connect(newBrowser(t), s)
	}
	first := r.provider.Stats().TokenRequests["refresh_token"]
	for round := range 3 {
		r.expired(c, subjects[round])
		before := r.provider.Stats().TokenRequests["refresh_token"]
		var wg sync.WaitGroup
		for i := range 12 {
			wg.Go(func() {
				a, err := replicas[i%2].api(r.key).try("POST", "/v1/tokens", object{"connector": "files", "subject": subjects[i%3], "min_ttl": 0})
				if err != nil || a.status != 200 {
					t.Errorf("round %d: %v %d %s", round, err, a.status, a.raw)
				}
			})
		}
		wg.Wait()
		// A token that lives for two seconds may end while the last ones are on their way, or have been replaced in the background
		// since it was seen to be over.
		if n := r.provider.Stats().TokenRequests["refresh_token"] - before; n > 3 {
			t.Errorf("round %d: %d refreshes for three holders of one grant", round, n)
		}
	}
	if n := r.provider.Stats().TokenRequests["refresh_token"] - first; n < 3 {
		t.Errorf("%d refreshes in three rounds", n)
	}
	r.settings(time.Hour)
	for i, s := range subjects {
		for _, rest := range subjects[i:] {
			c.token(rest)
		}
		want := "unsupported"
		if i == len(subjects)-1 {
			want = "done"
		}
		if got := c.want(200, "DELETE", "/v1/connections/"+connections[s], nil).str("revoked_upstream"); got != want {
			t.Errorf("%d left before: revoked_upstream %q, want %q", i, got, want)
		}
	}
	if n := r.provider.Stats().Reuses; n != 0 {
		t.Errorf("%d refresh tokens were sent twice", n)
	}
}
