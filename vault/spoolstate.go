package vault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"
)

// CountSpoolFailed counts refreshed grants that could not be written into the spool.
const CountSpoolFailed Counted = "spool_failed"

// SpoolState is how the spool is.
type SpoolState struct {
	// Waiting is how many refreshed grants the store does not have yet, as far as the spool knows, and Oldest when the first
	// of them was written; the zero time if that is not known.
	Waiting int
	Oldest  time.Time
	// Unreadable are files that could not be read when they were last tried: damaged, or sealed with a key that the keyset lacks.
	Unreadable []string
	// Failure is why nothing can be written, nil if it can.
	Failure error
}

// Spool tells how the spool is, and tries to write into it if probe says so; without a spool nothing is wrong. An error means
// that its directory can't be read.
func (s *Store) Spool(ctx context.Context, probe bool) (SpoolState, error) {
	if s.spool == nil {
		return SpoolState{}, nil
	}
	if prober, ok := s.spool.files.(interface{ Probe(context.Context) error }); ok && probe {
		s.spool.noteWrite(prober.Probe(ctx))
	}
	names, err := s.spool.files.List(ctx)
	if err != nil {
		return SpoolState{}, fmt.Errorf("read spool: %w", err)
	}
	p := s.spool
	p.mu.Lock()
	state := SpoolState{Failure: p.failure, Unreadable: append([]string(nil), p.unreadable...)}
	p.mu.Unlock()
	dated, _ := p.files.(interface {
		Written(ctx context.Context, name string) (time.Time, error)
	})
	for _, name := range names {
		if !strings.HasSuffix(name, spoolSuffix) {
			continue
		}
		if dated != nil {
			at, err := dated.Written(ctx, name)
			if errors.Is(err, fs.ErrNotExist) {
				continue // the store has it by now
			}
			if err == nil && (state.Oldest.IsZero() || at.Before(state.Oldest)) {
				state.Oldest = at
			}
		}
		state.Waiting++
	}
	return state, nil
}

// noteWrite keeps how the last write into the spool ended.
func (p *spool) noteWrite(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failure = err
}

// noteUnreadable keeps which files the last replay could not read.
func (p *spool) noteUnreadable(names []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unreadable = names
}
