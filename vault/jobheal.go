package vault

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"
)

// A failover can take back an acknowledged write of a job, as of any other record (heal.go). Its steps may be repeated, so one that
// goes on from an earlier position does no harm; but a job that was begun must not be gone, and none that ended go on. So whoever
// wrote last compares whenever it looks for work.

// jobWrites are this process's writes of jobs, as long as a failover could still take them back.
type jobWrites struct {
	mu  sync.Mutex
	all map[string]jobWrite
}

// jobWrite is the last one of a job.
type jobWrite struct {
	id      string
	version int64 // that it left
	write   string
	writes  []Write
	at      time.Time
}

func (m *jobWrites) put(w jobWrite, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, had := range m.all {
		if now.Sub(had.at) > memoryLife {
			delete(m.all, id)
		}
	}
	if m.all == nil {
		m.all = make(map[string]jobWrite)
	}
	if w.at = now; m.all[w.id].version < w.version {
		m.all[w.id] = w
	}
}

func (m *jobWrites) recent(now time.Time) []jobWrite {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []jobWrite
	for _, w := range m.all {
		if now.Sub(w.at) <= memoryLife {
			all = append(all, w)
		}
	}
	return all
}

// healJobs writes back what the store lost of this process's writes of jobs.
func (s *Store) healJobs(ctx context.Context) error {
	writes := s.jobs.recent(s.cfg.Now())
	if len(writes) == 0 {
		return nil
	}
	shard := s.jobShard()
	keys := make([]string, len(writes))
	for i, w := range writes {
		keys[i] = jobKey(shard, w.id)
	}
	found, err := s.hashes(ctx, keys...)
	if err != nil {
		return err
	}
	for i, w := range writes {
		has := versionOf(found[i], fieldVersion)
		if has >= w.version {
			continue
		}
		checks := []Check{{Key: keys[i], Field: fieldWrite, Kind: CheckApplied, Value: w.write}, {Key: keys[i], Field: fieldVersion, Kind: CheckAbsent}}
		if has > 0 {
			checks[1] = Check{Key: keys[i], Field: fieldVersion, Kind: CheckEqual, Value: strconv.FormatInt(has, 10)}
		}
		r, err := s.trails.direct(ctx, Step{Checks: checks, Writes: w.writes})
		if err != nil {
			return fmt.Errorf("heal a job: %w", err)
		}
		if r.Verdict == VerdictDone {
			s.cfg.Log.WarnContext(ctx, "the store had lost an acknowledged write of a job; it was written back", "job", w.id, "version_found", has, "version", w.version)
			s.count(CountHealed)
		}
	}
	return nil
}
