package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Threat 69: a tenant at twenty times what it may is told to come again, and another one gets its tokens as before.
func TestThreat69NoisyNeighbour(t *testing.T) {
	t.Log("\n" + noisyNeighbour(t, floodSize{samples: 100, floor: 400 * time.Millisecond}, 8000))
}

func noisyNeighbour(t *testing.T, size floodSize, requests int) string {
	const may = 200
	r := newRig(t)
	r.writeConfig(fmt.Sprintf("limits: {tenants: [{id: acme, rate: %d}]}\n", may))
	f := r.flooded(size)
	f.p.api(r.key).connect(newBrowser(t), "u")
	began := time.Now()
	answered := f.inTurns(requests, 20*may, floodOrder{
		Method: "POST", URL: f.p.url + "/v1/tokens", Body: `{"connector":"files","subject":"u"}`,
		Header: map[string]string{"Authorization": "Bearer " + r.key, "Content-Type": "application/json"},
	})
	if most := 2*may + int(time.Since(began).Seconds()*may) + 1; answered[200] > most || answered[200] < may || answered[200]+answered[429] != requests {
		t.Errorf("answers %v; %d tokens at most", answered, most)
	}
	quiet, loud := percentile(f.quiet, 99), percentile(f.loud, 99)
	if loud > max(quiet*12/10, size.floor) {
		t.Errorf("the other tenant's p99 is %v beside a noisy one, and %v without", loud, quiet)
	}
	return fmt.Sprintf("%s. The other tenant's tokens, one at a time:\n\n| | p50 | p99 |\n| --- | --- | --- |\n| alone | %v | %v |\n| beside a tenant at %d requests a second, which may make %d | %v | %v |\n",
		statuses(answered), percentile(f.quiet, 50), quiet, 20*may, may, percentile(f.loud, 50), loud)
}

// Threats 39 and 52: guesses of keys are stopped however X-Forwarded-For changes, and the right key is not held up by them. Behind a trusted
// proxy the address that it wrote counts, and nothing that stands before it.
func TestThreat52RotatedForwardedFor(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const limits = "limits: {address: {wrong_keys: 1, burst: 60}}\n"
	r.writeConfig(limits)
	guess := func(c *api, n int, forwarded func(i int) string) (wrong, slow int) {
		t.Helper()
		for i := range n {
			req, err := http.NewRequest("GET", c.base+"/v1/connectors", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", fmt.Sprintf("Bearer guess-%d", i))
			req.Header.Set("X-Forwarded-For", forwarded(i))
			res, err := c.http.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
			switch res.StatusCode {
			case http.StatusUnauthorized:
				wrong++
			case http.StatusTooManyRequests:
				slow++
				if wait, err := strconv.Atoi(res.Header.Get("Retry-After")); err != nil || wait < 1 {
					t.Errorf("Retry-After %q", res.Header.Get("Retry-After"))
				}
			default:
				t.Fatalf("status %d", res.StatusCode)
			}
		}
		return wrong, slow
	}
	began := time.Now()
	stopped := func(wrong, slow int) {
		t.Helper()
		if most := 61 + int(time.Since(began).Seconds()); wrong < 60 || wrong > most || slow == 0 {
			t.Errorf("%d keys were said to be wrong, of 60 to %d; %d were told to wait", wrong, most, slow)
		}
	}
	rotated := func(i int) string { return fmt.Sprintf("203.0.%d.%d", i/200, 1+i%200) }
	p := r.start()
	c := p.api(r.key)
	stopped(guess(c, 200, rotated))
	c.want(200, "GET", "/v1/connectors", nil) // from the same address
	r.eventually(10*time.Second, "the refusals on record", func() error {
		if n := p.metric(`tokenbroker_limit_refused_total{limit="address"}`); n == 0 {
			return fmt.Errorf("nothing is counted")
		}
		return nil
	})

	r.writeConfig("trusted_proxies: [127.0.0.1]\n" + limits)
	p.stop()
	p = r.start()
	c = p.api(r.key)
	if wrong, slow := guess(c, 200, rotated); slow != 0 {
		t.Errorf("%d addresses that a trusted proxy wrote, and %d were told to wait", wrong, slow)
	}
	began = time.Now()
	stopped(guess(c, 200, func(i int) string { return rotated(i+1000) + ", 203.0.113.99" }))

	// Links are guessed at as well: the browser's half counts by the same address.
	slow := 0
	for i := range 200 {
		req, err := http.NewRequest("GET", p.url+"/connect/"+strings.Repeat("B", 50)+fmt.Sprintf("%06d", i), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Forwarded-For", rotated(i+2000)+", 203.0.113.77")
		res, err := c.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode == http.StatusTooManyRequests {
			slow++
		}
	}
	if slow < 100 {
		t.Errorf("%d of 200 guessed links were told to wait", slow)
	}
	if events := c.events(url.Values{"type": {"token.refused"}}); len(events) != 0 {
		t.Errorf("a tenant reads of other people's guesses: %v", events)
	}
}
