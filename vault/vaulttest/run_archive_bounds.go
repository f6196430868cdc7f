package vaulttest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
)

// files keeps archives in memory.
type files map[string][]byte

func (f files) make(_ context.Context, name string, write func(io.Writer) error) error {
	var b bytes.Buffer
	err := write(&b)
	if err == nil {
		f[name] = b.Bytes()
	}
	return err
}

// archiving is a replica that signs, and for which it is a year later, which archives what it drops.
func (s *signed) archiving(to files, change ...func(*later)) *vault.Store {
	s.Helper()
	b := &later{Store: s.backend(), ahead: ahead}
	for _, c := range change {
		c(b)
	}
	return s.store(s.signs, func(vc *vault.Config, _ *redisstore.Config) {
		vc.Backend, vc.Now = b, func() time.Time { return time.Now().Add(ahead) }
		vc.Retention = vault.Retention{Age: 90 * 24 * time.Hour, Archive: to.make}
	})
}

// testArchiveAmongMany: of the checkpoints in the store only those are read that may have something of what is due.
func testArchiveAmongMany(r *rig) {
	s, t := r.signed(), r.trail(1)
	const many = 400
	add := func(at time.Time) {
		for i := range many {
			r.raw("XADD", "tb:{00}:cp", fmt.Sprint(at.UnixMilli()+int64(i), "-0"), "m", "x", "b", "")
		}
	}
	add(time.Now().Add(-100 * 24 * time.Hour))
	one := r.store(s.signs)
	t.write(one, 4)
	one.Close()
	add(time.Now().Add(ahead))
	var read atomic.Int64
	archives := files{}
	trimmer := s.archiving(archives, func(l *later) {
		l.streams = func(q vault.StreamQuery, found []vault.StreamEntry) {
			if q.Key == "tb:{00}:cp" && !q.Newest {
				read.Add(int64(len(found)))
			}
		}
	})
	r.trimmed(trimmer)
	if n := r.raw("XLEN", t.stream); n != "0" || read.Load() == 0 || read.Load() > 20 {
		r.Errorf("%d checkpoints were read, %s entries are left", read.Load(), n)
	}
	for _, content := range archives {
		got := vault.VerifyArchive([]vault.ArchiveFile{{Name: "a", From: bytes.NewReader(content)}}, s.by())
		if len(got.Faults) > 0 || got.Entries != 4 || got.Signed != 4 {
			r.Errorf("%+v", got)
		}
	}
	if len(archives) != 1 {
		r.Errorf("%d files", len(archives))
	}
}

// testArchiveHeld: what is good of a stream that was tampered with is archived once, not in every round, and the rest when it is mended.
func testArchiveHeld(r *rig) {
	s, t := r.signed(), r.trail(1)
	one := r.store(s.signs)
	t.write(one, 6)
	one.Close()
	saved := r.raw("DUMP", t.stream)
	r.raw("XDEL", t.stream, streamIDs(r, t.stream)[3])
	archives := files{}
	trimmer := s.archiving(archives)
	held := func() (entries int) {
		for range 3 {
			r.trimmed(trimmer)
		}
		for _, content := range archives {
			for row := range bytes.Lines(content) {
				if bytes.HasPrefix(row, []byte(`{"entry"`)) && !bytes.Contains(row, []byte(broker.EventTrailTrimmed)) {
					entries++
				}
			}
		}
		return entries
	}
	if n := held(); n != 3 || r.raw("XLEN", t.stream) != "5" {
		r.Errorf("%d entries are in %d files, %s are left", n, len(archives), r.raw("XLEN", t.stream))
	}
	r.raw("RESTORE", t.stream, "0", saved, "REPLACE")
	if n := held(); n != 6 || r.raw("XLEN", t.stream) != "0" {
		r.Errorf("mended: %d entries are in %d files, %s are left", n, len(archives), r.raw("XLEN", t.stream))
	}
}
