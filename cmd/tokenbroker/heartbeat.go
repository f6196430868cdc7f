package main

import (
	"context"
	"os"
	"runtime"
	"sync"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
)

// beatTimeout bounds one heartbeat: shorter than the pause between two.
const beatTimeout = 2 * time.Second

// lastReport is what watchReadiness found last, so that a heartbeat need not ask everything again.
type lastReport struct {
	mu     sync.Mutex
	ready  bool
	checks map[string]string
}

func (l *lastReport) set(ready bool, checks map[string]string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ready, l.checks = ready, checks
}

func (l *lastReport) get() (bool, map[string]string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ready, l.checks
}

// beat tells the other replicas, and whoever looks at the dashboard, how this one is, until ctx ends. At an end in order leave
// takes that back; one that is killed is shown as silent for a while.
func (a *app) beat(ctx context.Context) error {
	host := hostname()
	started := time.Now().UTC()
	before := succession{dir: a.cfg.Config.SpoolDir, id: a.id, end: a.store.EndReplica}
	failed := false
	once := func() {
		limited, cancel := context.WithTimeout(ctx, beatTimeout)
		defer cancel()
		counted := a.store.OldSealsCounted()
		err := a.store.Beat(limited, a.replica(limited, host, started))
		if err == nil {
			if err := before.enter(); err != nil {
				a.cfg.Log.DebugContext(ctx, "whoever has spool_dir next will not know of this one", "error", err)
			}
		}
		// Not before it is told what lies in spool_dir: what who had it before has told of that is kept until then.
		if err == nil && counted {
			if err := before.settle(limited); err != nil {
				a.cfg.Log.DebugContext(ctx, "who had spool_dir before may be taken for silent for a while", "error", err)
			}
		}
		if err != nil && !failed && ctx.Err() == nil {
			a.cfg.Log.WarnContext(ctx, "this replica can't tell the others that it runs", "error", err)
		}
		failed = err != nil
		if opened, err := a.forms.look(limited); err != nil {
			a.cfg.Log.DebugContext(ctx, "whether replicas of an older version run is not known now", "error", err)
		} else if opened {
			a.cfg.Log.InfoContext(ctx, "records are now written in a form that versions before this one can't read: no such replica was seen for a while", "stored_form", knownForms)
		}
	}
	once()
	every(ctx, broker.BeatEvery, once)
	return nil
}

// hostname names the machine.
func hostname() string {
	host, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return host
}

// leave takes the heartbeat back, at an end in order. While the store lacks something of what lies in spool_dir a word of that stays: who
// deletes a key must know of what it has sealed there.
func (a *app) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, beatTimeout)
	defer cancel()
	seals, waiting, err := a.store.SpoolSeals(ctx)
	if err == nil && waiting == 0 {
		err = a.store.EndReplica(ctx, a.id)
	} else {
		v, commit := buildVersion()
		err = a.store.LeaveReplica(ctx, broker.Replica{
			ID: a.id, Host: hostname(), Version: v, Commit: commit, Forms: knownForms, OldSeals: seals,
			Spool: broker.SpoolReport{Waiting: waiting, Writable: err == nil},
		})
	}
	if err != nil {
		a.cfg.Log.InfoContext(ctx, "the other replicas will take this one for silent for a while", "error", err)
	}
}

// replica is what this process says of itself.
func (a *app) replica(ctx context.Context, host string, started time.Time) broker.Replica {
	v, commit := buildVersion()
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	r := broker.Replica{
		ID: a.id, Host: host, Version: v, Commit: commit, Go: runtime.Version(), Started: started, Forms: knownForms,
		Circuits: a.service.OpenCircuits(), EarlyRunning: a.service.EarlyRunning(),
		MemoryBytes: memory.Sys - memory.HeapReleased, Goroutines: runtime.NumGoroutine(),
	}
	if r.Ready, r.Checks = a.report.get(); r.Checks == nil {
		r.Ready, r.Checks = a.ready.report(ctx) // it has only just begun
	}
	state, err := a.store.Spool(ctx, false)
	r.Spool = broker.SpoolReport{
		Waiting: state.Waiting, Oldest: state.Oldest.UTC(), Unreadable: len(state.Unreadable), Writable: err == nil && state.Failure == nil, Off: a.cfg.Config.SpoolDir == "",
	}
	r.Keys, r.AuditKeys = sealingKeys(a.cfg.Keyset.Keys()), sealingKeys(a.cfg.Keyset.AuditKeys())
	r.Keyset, r.OldSeals = a.cfg.Keyset.Digest(), a.store.OldSeals()
	r.KEK, r.KeysetForms = a.cfg.Keyset.KEK(), vault.KeysetForms
	return r
}

func sealingKeys(keys []vault.KeyInfo) []broker.SealingKey {
	var out []broker.SealingKey
	for _, k := range keys {
		out = append(out, broker.SealingKey{ID: k.ID, Status: k.Status, Primary: k.Primary, Created: k.Created})
	}
	return out
}

// storeHealth is what Redis says of itself, and whether its losing things is accepted.
type storeHealth struct {
	*redisstore.Store
	accepted bool
}

// StoreReport implements broker.StoreHealth.
func (s storeHealth) StoreReport(ctx context.Context) (broker.StoreReport, error) {
	report, err := s.Store.StoreReport(ctx)
	report.Accepted = s.accepted
	return report, err
}
