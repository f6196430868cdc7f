package vaulttest_test

import (
	"testing"

	"github.com/alicebob/miniredis/v2"

	"tokenbroker/vault/vaulttest"
)

func TestSearch(t *testing.T) {
	t.Parallel()
	r := vaulttest.StartRedis(t)
	vaulttest.RunSearch(t, vaulttest.Topology{URL: r.URL(), Addrs: []string{r.Addr}, Redis: r})
}

func TestSearchInProcess(t *testing.T) {
	t.Parallel()
	m := miniredis.RunT(t)
	vaulttest.RunSearch(t, vaulttest.Topology{URL: "redis://" + m.Addr(), Addrs: []string{m.Addr()}})
}

func TestSearchCluster(t *testing.T) {
	t.Parallel()
	c := vaulttest.StartCluster(t)
	vaulttest.RunSearch(t, vaulttest.Topology{URL: c.URL(), Addrs: c.Addrs()[:3]})
}

func TestVerifyPieces(t *testing.T) {
	t.Parallel()
	r := vaulttest.StartRedis(t)
	vaulttest.RunVerifyPieces(t, vaulttest.Topology{URL: r.URL(), Addrs: []string{r.Addr}, Redis: r})
}

// TestSearchWithoutLists: an index of the trail that the store's user may not write, or not read, as behind an upgrade with the users
// of the version before, makes searching slower, and nothing else.
func TestSearchWithoutLists(t *testing.T) {
	t.Parallel()
	r := vaulttest.StartRedis(t)
	vaulttest.RunSearchWithoutLists(t, vaulttest.Topology{URL: r.URL(), Addrs: []string{r.Addr}, Redis: r})
}
