package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"tokenbroker/providers/sandbox"
)

const (
	stormUsers = 240
	stormLimit = 10
)

// Hundreds of tokens of one provider that ended are asked for at once, at two replicas. The provider works on ten requests at a time and
// answers 429 beyond. It is told of few more than it takes, everybody gets a token, and callers of another provider get theirs meanwhile.
func TestStormOfRefreshes(t *testing.T) {
	t.Parallel()
	names := make([]string, stormUsers)
	for i := range names {
		names[i] = fmt.Sprintf("storm-%d", i)
	}
	r := newRig(t, shortLived(2*time.Second), users(names...), func(c *sandbox.Config) { c.Record = false })
	r.writeConfig(patient)
	calm := r.addCalm()
	replicas := []*brokerProcess{r.start(), r.start()}
	c := replicas[0].api(r.key)
	next := make(chan string)
	var group sync.WaitGroup
	for range 4 {
		b := newBrowser(t)
		group.Go(func() {
			for name := range next {
				b.hint = name
				c.connect(b, name)
			}
		})
	}
	for _, name := range names {
		next <- name
	}
	close(next)
	group.Wait()
	c.connect(newBrowser(t), "bob", object{"connector": "calm"})
	r.expired(c, names[len(names)-1])
	r.settings(time.Hour)
	r.inject(sandbox.Fault{On: sandbox.TargetRefresh, Kind: sandbox.KindLimit, Value: strconv.Itoa(stormLimit), RetryAfter: 1})
	r.inject(sandbox.Fault{On: sandbox.TargetRefresh, Kind: sandbox.KindLatency, Delay: 200 * time.Millisecond})
	before, others := r.provider.Stats(), calm.Stats()
	transport := &http.Transport{MaxIdleConnsPerHost: stormUsers}
	defer transport.CloseIdleConnections()
	stop := make(chan struct{})
	var beside []time.Duration
	neighbour := make(chan struct{})
	go func() {
		defer close(neighbour)
		bob := replicas[1].api(r.key)
		for !isClosed(stop) {
			began := time.Now()
			a, err := bob.try("POST", "/v1/tokens", object{"connector": "calm", "subject": "bob", "min_ttl": 3600})
			if err != nil || a.status != 200 && !a.comeAgain() {
				t.Errorf("at the other provider: %v, %d %s", err, a.status, a.raw)
			}
			if err == nil && a.str("error") == "provider_unavailable" {
				t.Errorf("the other provider is taken for busy: %s", a.raw)
			}
			beside = append(beside, time.Since(began))
			time.Sleep(50 * time.Millisecond)
		}
	}()
	began := time.Now()
	for i, name := range names {
		group.Go(func() {
			c := &api{base: replicas[i%2].url, key: r.key, http: &http.Client{Timeout: 60 * time.Second, Transport: transport}}
			for {
				a, err := c.try("POST", "/v1/tokens", object{"connector": "files", "subject": name})
				if err == nil && a.status == 200 {
					return
				}
				again, _ := strconv.Atoi(a.header.Get("Retry-After"))
				if err != nil || a.status != 503 || again < 1 || time.Since(began) > 2*time.Minute {
					t.Errorf("%s: %v, %d %s", name, err, a.status, a.raw)
					return
				}
				time.Sleep(time.Duration(again) * time.Second)
			}
		})
	}
	group.Wait()
	took := time.Since(began)
	close(stop)
	<-neighbour
	after := r.provider.Stats()
	requests, refused := after.TokenRequests["refresh_token"]-before.TokenRequests["refresh_token"], after.RefreshesFailed-before.RefreshesFailed
	slices.Sort(beside)
	t.Logf("%d users after %v: %d requests, %d of them beyond the limit; beside it %d refreshes, median %v, longest %v", stormUsers, took, requests, refused, len(beside), beside[len(beside)/2], beside[len(beside)-1])
	if refused > stormUsers/5 {
		t.Errorf("%d of %d requests went beyond the provider's limit", refused, requests)
	}
	if after.Reuses != 0 {
		t.Errorf("%d refresh tokens were sent twice", after.Reuses)
	}
	// Whoever waits for the storm waits for seconds.
	if median := beside[len(beside)/2]; median > 2*time.Second {
		t.Errorf("at the other provider a refresh takes %v", median)
	}
	if n := calm.Stats().TokenRequests["refresh_token"] - others.TokenRequests["refresh_token"]; n < len(beside)/2 {
		t.Errorf("%d refreshes at the other provider in %d requests", n, len(beside))
	}
}
