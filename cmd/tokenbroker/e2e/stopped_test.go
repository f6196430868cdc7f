package e2e

import (
	"fmt"
	"testing"
	"time"

	"tokenbroker/providers/sandbox"
)

// A replica stands still while the provider answers it, for longer than the provider's timeout and shorter than its lease (a
// stop signal, a paused machine). The answer waits in its socket, and holds the only refresh token that works.
func TestStoppedAcrossTheProvidersTimeout(t *testing.T) {
	t.Parallel()
	names := []string{"one", "two", "three"}
	r := newRig(t, users(names...))
	r.writeConfig(quick)
	c := r.start().api(r.key)
	var victims []*victim
	for _, name := range names {
		v := r.newVictim(name, true)
		v.connected(c)
		victims = append(victims, v)
	}
	r.inject(sandbox.Fault{On: sandbox.TargetRefresh, Kind: sandbox.KindHang, When: sandbox.After, Times: len(names)})
	for _, v := range victims {
		v.ask()
	}
	r.eventually(20*time.Second, "the provider holds its answers", func() error {
		if n := r.provider.Stats().Held; n != len(names) {
			return fmt.Errorf("%d held", n)
		}
		return nil
	})
	for _, v := range victims {
		v.pause()
	}
	r.provider.ClearFaults() // which lets the answers go
	time.Sleep(4 * time.Second)
	for _, v := range victims {
		v.resume()
	}
	for _, v := range victims {
		r.eventually(20*time.Second, "the new token of "+v.user, func() error {
			if a := c.token(v.user); a.str("access_token") == v.old {
				return fmt.Errorf("still the old one")
			}
			return nil
		})
		c.refreshed(v.user)
		if g := r.grant(v.user); g.Refreshes != 2 || g.Failures != 0 || g.Revoked != "" {
			t.Errorf("%s: the provider's view: %+v, want two refreshes", v.user, g)
		}
	}
	if n := r.provider.Stats().Reuses; n != 0 {
		t.Errorf("%d used refresh tokens came again", n)
	}
}
