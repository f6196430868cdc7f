package vaulttest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
)

// running has a replica run, and returns what ends it.
func (r *rig) running(s *vault.Store) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = s.Run(ctx) })
	return func() {
		cancel()
		running.Wait()
	}
}

// often has a checkpoint made every few ms.
func often(vc *vault.Config, _ *redisstore.Config) { vc.Signing.Interval = 10 * time.Millisecond }

func (p *paper) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.lines)
}

// testSignedSpoiled: whoever spoils the checkpoints in the store keeps nobody from signing, which is told, and when it is mended the logs of
// others are named after all. What is too long to be a checkpoint is not looked at.
func testSignedSpoiled(r *rig) {
	s, t := r.signed(), r.trail(1)
	first := r.store(s.signs)
	t.write(first, 1)
	first.Close()
	good := r.raw("DUMP", "tb:{00}:cp")
	r.raw("DEL", "tb:{00}:cp")
	r.raw("SET", "tb:{00}:cp", "x")
	one := r.store(s.signs, often)
	end := r.running(one)
	t.write(one, 3)
	r.within(10*time.Second, "a checkpoint is made", func() bool { return s.paper.count() == 2 })
	if err := one.SignFailure(); err == nil || !strings.Contains(err.Error(), "WRONGTYPE") {
		r.Errorf("nobody says so: %v", err)
	}
	if report, err := one.Verify(r.ctx()); err != nil || len(report.Faults) > 0 {
		r.Errorf("%+v, %v", report.Faults, err)
	}
	r.raw("RESTORE", "tb:{00}:cp", "0", good, "REPLACE")
	long := strings.Repeat("x", 9<<20)
	for range 3 {
		r.raw("XADD", "tb:{00}:cp", "*", "m", long, "b", "")
	}
	t.write(one, 1)
	r.within(10*time.Second, "another one is made", func() bool { return s.paper.count() == 3 })
	if err := one.SignFailure(); err != nil {
		r.Error(err)
	}
	end()
	one.Close()
	lines := s.paper.source()[0].Lines
	if strings.Contains(string(lines[1]), `"seen"`) || !strings.Contains(string(lines[2]), `"seen"`) {
		r.Errorf("the log of the first process is named at the wrong place:\n%s\n%s", lines[1], lines[2])
	}
	r.raw("DEL", "tb:{00}:cp")
	if report := s.verify(s.paper.source()...); len(report.Faults) > 0 || report.Signed.Entries != 5 {
		r.Errorf("%+v %+v", report.Faults, report.Signed)
	}
}

// testSayingAgain: what says that events will be dropped is one checkpoint, however often a place does not take it.
func testSayingAgain(r *rig) {
	s, t := r.signed(), r.trail(1)
	one := r.store(s.signs)
	t.write(one, 2)
	one.Close()
	trimmer := s.archiving(files{})
	s.paper.fail = errors.New("the paper is wet")
	for range 5 {
		if _, err := trimmer.TrimTrail(r.ctx()); err == nil {
			r.Error("events are dropped, and nobody was told before")
		}
	}
	if at := trimmer.Published()[1]; at.Waiting != 1 {
		r.Errorf("%d checkpoints wait", at.Waiting)
	}
	s.paper.mu.Lock()
	s.paper.fail = nil
	s.paper.mu.Unlock()
	r.trimmed(trimmer)
	if n := r.raw("XLEN", t.stream); n != "0" || s.paper.count() != 2 {
		r.Errorf("%s entries are left, %d checkpoints were published", n, s.paper.count())
	}
}

// testSignedMemory: what checkpoints take in Redis, where they stay as long as the events that they are about (RUNBOOK, "How long events are kept").
func testSignedMemory(r *rig) {
	s := r.signed()
	used := func() int {
		n, err := strconv.Atoi(r.raw("MEMORY", "USAGE", "tb:{00}:cp", "SAMPLES", "0"))
		if err != nil {
			r.Fatal(err)
		}
		return n
	}
	signs := func(streams int) {
		one := r.store(s.signs)
		for shard := range streams {
			subject := ""
			for n := 0; subject == ""; n++ {
				if name := fmt.Sprint("user-", n); one.Shard(tenant(r), name) == byte(shard) {
					subject = name
				}
			}
			if err := one.Append(r.ctx(), entry(broker.EventTokenIssued, broker.Connection{Tenant: tenant(r), Subject: subject}, "a")); err != nil {
				r.Fatal(err)
			}
		}
		one.Close()
	}
	signs(1)
	first := used()
	const many = 20
	for range many {
		signs(1)
	}
	small := used()
	signs(256)
	each, span := (small-first)/many, (used()-small)/256
	r.Logf("a checkpoint takes %d bytes with one stream, and some %d more for each other one", each, span)
	// Each is the first of its log here, and names the ends of those before.
	if each > 3000 || span > 100 {
		r.Errorf("a checkpoint takes %d bytes with one stream, and some %d more for each other one", each, span)
	}
}
