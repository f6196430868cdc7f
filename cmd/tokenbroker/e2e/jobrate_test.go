package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// A job that would take five minutes at its rate is made faster on the page of the replica that does not run it, and ends soon.
func TestJobRateOnTwoReplicas(t *testing.T) {
	t.Parallel()
	const n = 300
	r := newRig(t)
	r.fillConnections(n)
	p := r.start()
	op := p.boss()
	address := p.url + "/dashboard/revoke-all?tenant=acme&connector="
	started := op.post(address, with(with(op.get(address).form(), "reason", "they leaked"), "rate", "1"))
	if started.status != http.StatusSeeOther {
		t.Fatalf("start: %d\n%s", started.status, tail(started.body, 2000))
	}
	other := r.start()
	job := strings.Replace(strings.TrimSuffix(started.location, "?notice=job_started"), p.url, other.url, 1)
	var last page
	r.eventually(20*time.Second, "it is under way", func() error {
		if last = op.get(job); !strings.Contains(last.body, "state-running") {
			return fmt.Errorf("%d %s", last.status, tail(last.body, 300))
		}
		return nil
	})
	changed := op.post(job+"/rate", with(with(op.get(job+"/rate").form(), "reason", "too slow"), "rate", "100"))
	if !strings.HasSuffix(changed.location, "?notice=job_rate") {
		t.Fatalf("faster: %d %s", changed.status, tail(changed.body, 2000))
	}
	r.eventually(60*time.Second, "it ends", func() error { // at 1 a second it would take 300
		if last = op.get(job); !strings.Contains(last.body, "state-done") {
			return fmt.Errorf("%d %s", last.status, tail(last.body, 300))
		}
		return nil
	})
	if !strings.Contains(last.body, fmt.Sprintf("%d connections ended", n)) || !strings.Contains(last.body, "100 a second at most") {
		t.Errorf("its page\n%s", tail(last.body, 3000))
	}
	if events := p.api(r.key).want(200, "GET", "/v1/events?type=operator.job_rate", nil).list("events"); len(events) != 1 || !strings.Contains(fmt.Sprint(events), "1 to 100 a second: too slow") {
		t.Errorf("on record: %v", events)
	}
}
