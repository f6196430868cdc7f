package vaulttest

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"tokenbroker/broker"
)

// testCounts: what several writers count adds up, a batch counts once however often it is sent, and buckets end.
func testCounts(r *rig) {
	s := r.store()
	start := broker.GrainMinute.Bucket(time.Now())
	issued, refused := broker.Tally{Measure: broker.MeasureIssued, Connector: "files"}, broker.Tally{Measure: broker.MeasureRefused, Code: "consent_required", Connector: broker.TalliedUnknown}
	counts := func(grain broker.Grain, at time.Time, what broker.Tally, n int64) broker.BucketCounts {
		return broker.BucketCounts{Grain: grain, Start: grain.Bucket(at), Counts: map[broker.Tally]int64{what: n}}
	}
	var group sync.WaitGroup
	for _, writer := range []string{"a", "b"} {
		group.Go(func() {
			for _, batch := range []string{"1", "1", "2", "2", "2"} {
				if err := s.AddCounts(r.ctx(), tenant(r), writer, batch, []broker.BucketCounts{
					counts(broker.GrainMinute, start, issued, 2), counts(broker.GrainMinute, start.Add(-time.Minute), refused, 1), counts(broker.GrainHour, start, issued, 3),
				}); err != nil {
					r.Errorf("add: %v", err)
				}
			}
		})
	}
	group.Wait()
	got, err := s.Counts(r.ctx(), tenant(r), broker.GrainMinute, start.Add(-2*time.Minute), start.Add(time.Minute))
	if err != nil || len(got) != 3 {
		r.Fatalf("counts: %v, %v", got, err)
	}
	for i, want := range []map[broker.Tally]int64{{}, {refused: 4}, {issued: 8}} {
		if !maps.Equal(got[i].Counts, want) || !got[i].Start.Equal(start.Add(time.Duration(i-2)*time.Minute)) {
			r.Errorf("bucket %d: %+v, want %v", i, got[i], want)
		}
	}
	got, err = s.Counts(r.ctx(), tenant(r), broker.GrainHour, broker.GrainHour.Bucket(start), start.Add(time.Hour))
	if err != nil || len(got) == 0 || got[0].Counts[issued] != 12 {
		r.Errorf("by hours: %v, %v", got, err)
	}
	if got, err = s.Counts(r.ctx(), tenant(r)+"x", broker.GrainMinute, start, start.Add(time.Minute)); err != nil || len(got) != 1 || len(got[0].Counts) != 0 {
		r.Errorf("of another tenant: %v, %v", got, err)
	}
	if got, err = s.Counts(r.ctx(), tenant(r), broker.GrainMinute, start.Add(-240*time.Hour), start); err != nil || len(got) != broker.MaxBuckets {
		r.Errorf("a long range: %d, %v", len(got), err)
	}
	keys := r.keys("tb:{*}:st:*" + strings.ReplaceAll(tenant(r), "{", "?"))
	if len(keys) < 5 { // three buckets and two marks
		r.Fatalf("keys: %v", keys)
	}
	for _, key := range keys {
		if ttl := r.raw("PTTL", key); strings.HasPrefix(ttl, "-") {
			r.Errorf("%s never ends: %s", key, ttl)
		}
	}
}

// testReplicas: each replica's last word, with the store's time; who ended is gone, and what nobody of us wrote shows.
func testReplicas(r *rig) {
	s, other := r.store(), r.store()
	one := broker.Replica{
		ID: tenant(r) + "1", Host: "host-a", Version: "1.2", Started: time.Now().UTC().Truncate(time.Second), Ready: true, Checks: map[string]string{"redis": "ok"},
		Spool: broker.SpoolReport{Waiting: 2, Writable: true}, Circuits: []broker.OpenCircuit{{Connector: "files", Trouble: "down"}}, Keys: []broker.SealingKey{{ID: 7, Primary: true}},
	}
	two := broker.Replica{ID: tenant(r) + "2", Host: "host-b"}
	mine := func() (found []broker.Replica) {
		r.Helper()
		all, now, err := other.AllReplicas(r.ctx())
		if err != nil {
			r.Fatal(err)
		}
		for _, replica := range all {
			if strings.HasPrefix(replica.ID, tenant(r)) {
				if age := now.Sub(replica.Beat); age < 0 || age > time.Minute {
					r.Errorf("beat %v before the store's now", age)
				}
				found = append(found, replica)
			}
		}
		return found
	}
	for _, replica := range []broker.Replica{one, two, one} {
		if err := s.Beat(r.ctx(), replica); err != nil {
			r.Fatal(err)
		}
	}
	got := mine()
	if len(got) != 2 || got[0].Host != "host-a" || got[0].Checks["redis"] != "ok" || got[0].Spool != one.Spool || !slices.Equal(got[0].Circuits, one.Circuits) || !slices.Equal(got[0].Keys, one.Keys) || got[1].Host != "host-b" {
		r.Fatalf("replicas: %+v", got)
	}
	if ttl := r.raw("PTTL", "tb:{00}:rp:"+one.ID); strings.HasPrefix(ttl, "-") {
		r.Errorf("a heartbeat never ends: %s", ttl)
	}
	if err := s.EndReplica(r.ctx(), one.ID); err != nil {
		r.Fatal(err)
	}
	r.raw("HSET", "tb:{00}:rp:"+two.ID, "b", `{"ID":"`+two.ID+`","Host":"forged"}`)
	if got = mine(); len(got) != 1 || got[0].ID != two.ID || !got[0].Unreadable || got[0].Host != "" {
		r.Errorf("after an end and a forgery: %+v", got)
	}
	if err := s.EndReplica(r.ctx(), two.ID); err != nil || len(mine()) != 0 {
		r.Errorf("left behind: %v, %v", mine(), err)
	}

	// One that leaves something in its spool is no replica any more, and stays known for that.
	left := func() (found []broker.Replica) {
		r.Helper()
		all, err := other.LeftReplicas(r.ctx())
		if err != nil {
			r.Fatal(err)
		}
		return slices.DeleteFunc(all, func(replica broker.Replica) bool { return !strings.HasPrefix(replica.ID, tenant(r)) })
	}
	if err := s.Beat(r.ctx(), one); err != nil {
		r.Fatal(err)
	}
	one.OldSeals = map[uint32]int{7: 2}
	if err := s.LeaveReplica(r.ctx(), one); err != nil || len(mine()) != 0 {
		r.Errorf("replicas after one left: %v, %v", mine(), err)
	}
	if all := left(); len(all) != 1 || all[0].ID != one.ID || all[0].Host != "host-a" || all[0].OldSeals[7] != 2 || time.Since(all[0].Beat).Abs() > time.Minute {
		r.Errorf("those who left something: %+v", all)
	}
	if ttl := r.raw("PTTL", "tb:{00}:rl:"+one.ID); ttl != "-1" {
		r.Errorf("what was left is forgotten in %s", ttl)
	}
	if err := s.EndReplica(r.ctx(), one.ID); err != nil || len(left()) != 0 || r.raw("EXISTS", "tb:{00}:rl:"+one.ID) != "0" {
		r.Errorf("after somebody took it over: %+v, %v", left(), err)
	}
}

// testBacklog: what is unfinished and what is due is counted, beside what other tests left.
func testBacklog(r *rig) {
	s := r.store()
	// Beyond the times of everybody else's.
	far := time.Now().Add(2000 * time.Hour)
	count := func() broker.Backlog {
		r.Helper()
		b, err := s.Backlog(r.ctx(), far)
		if err != nil {
			r.Fatal(err)
		}
		return b
	}
	before := count()
	conn := r.connect(s, tenant(r), "alice", "files", "1")
	consent, err := s.CreateConsent(r.ctx(), renewal(s, conn), "", nil)
	if err != nil {
		r.Fatal(err)
	}
	conn.RefreshAt = far.Add(-time.Hour)
	if err := s.Reschedule(r.ctx(), conn, conn.RefreshAt); err != nil {
		r.Fatal(err)
	}
	with := count()
	if with.Consents != before.Consents+1 || with.ConsentsOverdue != before.ConsentsOverdue+1 || with.RefreshesDue != before.RefreshesDue+1 || with.Refreshes != before.Refreshes+1 {
		r.Errorf("before %+v, with a consent and a refresh %+v", before, with)
	}
	consent.Status = broker.ConsentDenied
	if _, err := s.UpdateConsent(r.ctx(), consent, nil); err != nil {
		r.Fatal(err)
	}
	if _, err := s.BeginRevoke(r.ctx(), tenant(r), conn.ID, nil); err != nil {
		r.Fatal(err)
	}
	if got := count(); got.RevocationsDue != before.RevocationsDue+1 || got.Consents != before.Consents || got.RefreshesDue != before.RefreshesDue {
		r.Errorf("before %+v, after a revocation has begun %+v", before, got)
	}
	if err := s.EndRevoke(r.ctx(), tenant(r), conn.ID, broker.RevokedDone, true); err != nil {
		r.Fatal(err)
	}
	if got := count(); got != before {
		r.Errorf("before %+v, after %+v", before, got)
	}
}
