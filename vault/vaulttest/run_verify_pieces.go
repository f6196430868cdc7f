package vaulttest

import (
	"fmt"
	"strings"
	"testing"

	"tokenbroker/broker"
)

// RunVerifyPieces verifies the trail piece by piece: it comes to the same as all at once, for one tenant or for all, and names a stream
// that the index of streams does not.
func RunVerifyPieces(t *testing.T, topology Topology) {
	r := newRig(t, topology)
	s := r.store()
	for i := range 12 {
		r.appendFor(s, fmt.Sprintf("user-%d", i), "a", "b")
		e := entry(broker.EventTokenIssued, broker.Connection{Tenant: tenant(r) + "-other", Subject: fmt.Sprint(i)}, "a")
		if err := s.Append(r.ctx(), e); err != nil {
			r.Fatal(err)
		}
	}
	pieces := func(tenant string) (all broker.VerifiedTrail, n int) {
		r.Helper()
		for position := ""; ; n++ {
			found, err := s.VerifyTrail(r.ctx(), tenant, position, 0)
			if err != nil || n > 100 {
				r.Fatalf("piece %d: %v", n, err)
			}
			all.Streams, all.Entries, all.Events, all.Total = all.Streams+found.Streams, all.Entries+found.Entries, all.Events+found.Events, found.Total
			all.Faults = append(all.Faults, found.Faults...)
			if position = found.Next; position == "" {
				return all, n
			}
		}
	}
	whole := r.verified(s)
	if all, n := pieces(""); all.Streams != whole.Streams || all.Entries != 24 || all.Events != 36 || all.Total != whole.Streams || len(all.Faults) != 0 || n < whole.Streams {
		r.Fatalf("in %d pieces %+v, at once %+v", n, all, whole)
	}
	if all, _ := pieces(tenant(r)); all.Entries != 12 || all.Events != 24 || len(all.Faults) != 0 {
		r.Fatalf("of one tenant: %+v", all)
	}
	// A tenant's name can make any text of a shard and a name.
	for shard, subject := byte(0), 0; shard != 0xbe; subject++ {
		if shard = s.Shard("gun", fmt.Sprint(subject)); shard == 0xbe {
			if err := s.Append(r.ctx(), entry(broker.EventTokenIssued, broker.Connection{Tenant: "gun", Subject: fmt.Sprint(subject)}, "a")); err != nil {
				r.Fatal(err)
			}
		}
	}
	if all, _ := pieces("gun"); all.Streams != 1 || all.Entries != 1 {
		r.Fatalf("of a tenant with an odd name: %+v", all)
	}
	if found, err := s.VerifyTrail(r.ctx(), "gun", "begun", 0); err != nil || found.Streams != 0 {
		r.Fatalf("behind the stream of that tenant: %+v, %v", found, err)
	}
	if _, err := s.VerifyTrail(r.ctx(), "", "no position", 0); err == nil {
		r.Fatal("a position that is none was taken")
	}
	// An entry goes, and a stream goes out of the index: two of that tenant, in whatever order the store names its keys.
	streams := r.keys("tb:*:a:" + tenant(r))
	reply := strings.Split(r.raw("XRANGE", streams[0], "-", "+", "COUNT", "1"), "\n")
	r.raw("XDEL", streams[0], reply[0])
	r.raw("SREM", streams[1][:len("tb:{00}:")]+"t", tenant(r))
	all, _ := pieces(tenant(r))
	if len(all.Faults) != 2 || !strings.Contains(all.Faults[0].What, "index of streams") || !strings.Contains(all.Faults[1].What, "missing") {
		r.Fatalf("tampered with: %+v", all.Faults)
	}
	if all, _ := pieces(tenant(r) + "-other"); len(all.Faults) != 0 {
		r.Fatalf("the other tenant: %+v", all.Faults)
	}
}
