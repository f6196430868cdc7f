package e2e

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tokenbroker/providers/sandbox"
)

// A replica is asked to end with fifty refreshes and ten consents in flight, at a provider that takes two seconds: it says so
// first, answers everybody, loses nothing, and does not mind being asked again.
func TestShutdownWithFlowsInFlight(t *testing.T) {
	t.Parallel()
	const refreshing, consenting = 50, 10
	r := newRig(t, crowdUsers(refreshing+consenting))
	r.edit("shutdown_delay: 100ms", "shutdown_delay: 1s")
	p, other := r.start("SPOOL=spool-a"), r.start("SPOOL=spool-b")
	crowd := newCrowd(r, refreshing, p, other)
	c := p.api(r.key)
	type flow struct {
		id, subject, code string
	}
	var flows []flow
	for i := range consenting {
		f := flow{subject: fmt.Sprintf("user-%d", refreshing+i)}
		b := newBrowser(t)
		b.hint = f.subject
		consent := c.consent(f.subject, object{"return_to": "http://127.0.0.1:3000/done"})
		back := b.consent(consent.str("url"))
		f.id, f.code = query(t, back.location, "consent"), query(t, back.location, "code")
		flows = append(flows, f)
	}
	r.inject(sandbox.Fault{On: sandbox.TargetToken, Kind: sandbox.KindLatency, Delay: 2 * time.Second})
	requests := r.provider.Stats().TokenRequests
	before := requests["refresh_token"] + requests["authorization_code"]
	var wait sync.WaitGroup
	var good atomic.Int64
	for _, name := range crowd.names {
		wait.Go(func() {
			got := crowd.ask(name, p)
			for began := time.Now(); got.status == 503 && strings.Contains(got.text, "temporarily_unavailable") && time.Since(began) < callAgain; {
				// A busy machine held the store up; nothing is lost by that. The contract says: call again, which reaches another replica.
				t.Logf("%s: called again after %s", name, got.text)
				time.Sleep(time.Second) // Retry-After
				got = crowd.ask(name, other)
			}
			if got.status == 200 {
				good.Add(1)
			} else {
				t.Errorf("%s: %d %s", name, got.status, got.text)
			}
		})
	}
	for _, f := range flows {
		wait.Go(func() {
			a, err := c.try("POST", "/v1/consents/"+f.id+"/complete", object{"subject": f.subject, "code": f.code})
			if err != nil || a.status != 200 {
				t.Errorf("a consent: %v, %d %s", err, a.status, a.raw)
				return
			}
			good.Add(1)
		})
	}
	r.eventually(20*time.Second, "all are at the provider", func() error {
		now := r.provider.Stats().TokenRequests
		if n := now["refresh_token"] + now["authorization_code"] - before; n < refreshing+consenting {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	p.signal(syscall.SIGTERM)
	r.eventually(10*time.Second, "/readyz says no", func() error {
		if status, checks := p.ready(); status != 503 || checks["draining"] == "ok" {
			return fmt.Errorf("%d %v", status, checks)
		}
		return nil
	})
	c.want(200, "GET", "/v1/connectors", nil) // not ready, and still at work
	p.signal(syscall.SIGTERM)
	p.signal(syscall.SIGTERM)
	wait.Wait()
	if good.Load() != refreshing+consenting {
		t.Errorf("%d of %d were answered well", good.Load(), refreshing+consenting)
	}
	select {
	case <-p.done:
	case <-time.After(30 * time.Second):
		t.Fatal("it does not end")
	}
	if code := p.state.ExitCode(); code != 0 {
		t.Errorf("exit status %d\n%s", code, tail(p.log.String(), 3000))
	}
	r.provider.ClearFaults()
	crowd.replicas = []*brokerProcess{other}
	crowd.good(crowd.names...) // with the refresh tokens that came last
	for _, f := range flows {
		other.api(r.key).refreshed(f.subject)
	}
	crowd.nobodyAsked()
}
