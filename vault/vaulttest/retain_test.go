package vaulttest_test

import (
	"testing"

	"github.com/alicebob/miniredis/v2"

	"tokenbroker/vault/vaulttest"
)

func TestRetention(t *testing.T) {
	t.Parallel()
	vaulttest.RunRetention(t, func(t testing.TB) vaulttest.Topology {
		r := vaulttest.StartRedis(t)
		return vaulttest.Topology{URL: r.URL(), Addrs: []string{r.Addr}, Redis: r}
	})
}

func TestRetentionInProcess(t *testing.T) {
	t.Parallel()
	vaulttest.RunRetention(t, func(t testing.TB) vaulttest.Topology {
		m := miniredis.RunT(t)
		return vaulttest.Topology{URL: "redis://" + m.Addr(), Addrs: []string{m.Addr()}, Variant: true} // dev drops nothing
	})
}

func TestRetentionCluster(t *testing.T) {
	t.Parallel()
	vaulttest.RunRetention(t, func(t testing.TB) vaulttest.Topology {
		c := vaulttest.StartCluster(t)
		return vaulttest.Topology{URL: c.URL(), Addrs: c.Addrs()[:3]}
	})
}

func TestRetentionMemory(t *testing.T) {
	r := vaulttest.StartRedis(t)
	vaulttest.RunRetentionMemory(t, vaulttest.Topology{URL: r.URL(), Addrs: []string{r.Addr}, Redis: r})
}

func TestRetentionStep(t *testing.T) {
	t.Parallel()
	r := vaulttest.StartRedis(t)
	vaulttest.RunRetentionStep(t, vaulttest.Topology{URL: r.URL(), Addrs: []string{r.Addr}, Redis: r})
}
