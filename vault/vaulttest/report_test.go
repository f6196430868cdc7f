package vaulttest_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault/redisstore"
	"tokenbroker/vault/vaulttest"
)

func reportOf(t *testing.T, url string) broker.StoreReport {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	store, err := redisstore.New(redisstore.Config{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	report, err := store.StoreReport(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// TestReports: what each topology tells of itself.
func TestReports(t *testing.T) {
	t.Parallel()
	r := vaulttest.StartRedis(t, "--maxmemory", "100mb")
	got := reportOf(t, r.URL())
	if got.Kind != "standalone" || len(got.Nodes) != 1 || len(got.Problems)+len(got.Volatile) != 0 || got.Withheld != "" {
		t.Fatalf("a server alone: %+v", got)
	}
	if n := got.Nodes[0]; n.Address != r.Addr || n.AppendOnly != "on" || n.AppendState != "ok" || n.Policy != "noeviction" || n.MaxBytes != 100<<20 || n.UsedBytes == 0 || n.Version == "" || n.Clients == 0 {
		t.Errorf("a server alone: %+v", n)
	}
	if _, err := vaulttest.Command(r.Addr, "CONFIG", "SET", "appendonly", "no"); err != nil {
		t.Fatal(err)
	}
	if got = reportOf(t, r.URL()); got.Nodes[0].AppendOnly != "off" || !strings.Contains(strings.Join(got.Volatile, " "), "append-only file is off") {
		t.Errorf("without an append-only file: %+v", got)
	}
	if _, err := vaulttest.Command(r.Addr, "ACL", "SETUSER", "default", "-info"); err != nil {
		t.Fatal(err)
	}
	if got = reportOf(t, r.URL()); !strings.Contains(got.Withheld, "ACL SETUSER default +info") || len(got.Nodes) != 1 || got.Nodes[0].AppendOnly != "" {
		t.Errorf("without INFO: %+v", got)
	}

	sentinel := vaulttest.StartSentinel(t)
	for deadline := time.Now().Add(20 * time.Second); ; {
		got = reportOf(t, sentinel.URL())
		if len(got.Nodes) == 1 && len(got.Nodes[0].Replicas) == 1 && got.Nodes[0].Replicas[0].State == "online" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("behind a sentinel: %+v", got)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if got.Kind != "sentinel" || got.Nodes[0].Address != sentinel.Master.Addr {
		t.Errorf("behind a sentinel: %+v, master %s", got, sentinel.Master.Addr)
	}

	cluster := vaulttest.StartCluster(t)
	got = reportOf(t, cluster.URL())
	if got.Kind != "cluster" || len(got.Nodes) != 3 || got.SlotsServed != 16384 || len(got.Problems)+len(got.Volatile) != 0 {
		t.Fatalf("a cluster: %+v", got)
	}
	for _, n := range got.Nodes {
		if n.Slots == "" || n.Address == "" || n.AppendOnly != "on" {
			t.Errorf("a master of a cluster: %+v", n)
		}
	}
}
