package e2e

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"tokenbroker/providers/sandbox"
)

// A replica stands still while the provider answers it, for longer than the provider's timeout and shorter than its lease (a
// stop signal, a paused machine). The answer waits in its socket, and holds the only refresh token that works.
func TestStoppedAcrossTheProvidersTimeout(t *testing.T) {
	t.Parallel()
	var names []string
	for i := range 16 { // which of two things that are due is seen first is a matter of chance
		names = append(names, fmt.Sprintf("user-%d", i))
	}
	r := newRig(t, users(names...))
	r.writeConfig(quick)
	stopped := r.start("SPOOL=spool-stopped")
	c := r.start().api(r.key)
	old := map[string]string{}
	for _, name := range names {
		b := newBrowser(t)
		b.hint = name
		c.connect(b, name)
		old[name] = c.token(name).str("access_token")
	}
	r.inject(sandbox.Fault{On: sandbox.TargetRefresh, Kind: sandbox.KindHang, When: sandbox.After, Times: len(names)})
	var asked sync.WaitGroup
	defer asked.Wait()
	for _, name := range names {
		asked.Go(func() {
			_, _ = stopped.api(r.key).try("POST", "/v1/tokens", object{"connector": "files", "subject": name, "min_ttl": 3600})
		})
	}
	r.eventually(20*time.Second, "the provider holds its answers", func() error {
		if n := r.provider.Stats().Held; n != len(names) {
			return fmt.Errorf("%d held", n)
		}
		return nil
	})
	stopped.pause()
	r.provider.ClearFaults() // which lets the answers go
	time.Sleep(4 * time.Second)
	stopped.resume()
	for _, name := range names {
		r.eventually(20*time.Second, "the new token of "+name, func() error {
			if a := c.token(name); a.str("access_token") == old[name] {
				return fmt.Errorf("still the old one")
			}
			return nil
		})
		c.refreshed(name)
		if g := r.grant(name); g.Refreshes != 2 || g.Failures != 0 || g.Revoked != "" {
			t.Errorf("%s: the provider's view: %+v, want two refreshes", name, g)
		}
	}
	if n := r.provider.Stats().Reuses; n != 0 {
		t.Errorf("%d used refresh tokens came again", n)
	}
}
