package vaulttest_test

import (
	"testing"

	"tokenbroker/vault/vaulttest"
)

// TestThreat71SignedTrail: who can write to Redis, and has the keyset, can't make another history of what was signed (threats 34 and 71).
func TestThreat71SignedTrail(t *testing.T) {
	t.Parallel()
	vaulttest.RunSigned(t, func(t testing.TB) vaulttest.Topology {
		r := vaulttest.StartRedis(t)
		return vaulttest.Topology{URL: r.URL(), Addrs: []string{r.Addr}, Redis: r}
	})
}
