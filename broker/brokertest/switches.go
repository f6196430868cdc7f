package brokertest

import (
	"context"
	"slices"
	"strconv"

	"tokenbroker/broker"
)

// OfSubjectSwitched is part of broker.SwitchBoard.
func (s *Store) OfSubjectSwitched(ctx context.Context, tenant, subject, connector string) ([]broker.Connection, broker.SwitchTable, error) {
	s.mu.Lock()
	table := s.switches
	s.mu.Unlock()
	conns, err := s.OfSubject(ctx, tenant, subject, connector)
	return conns, table, err
}

// SwitchesFor is part of broker.SwitchBoard.
func (s *Store) SwitchesFor(ctx context.Context, _, _ string) (broker.SwitchTable, error) {
	return s.Switches(ctx)
}

// Switches is part of broker.SwitchBoard.
func (s *Store) Switches(ctx context.Context) (broker.SwitchTable, error) {
	done, err := s.enter(ctx, "Switches")
	if err != nil {
		return broker.SwitchTable{}, err
	}
	defer done()
	return s.switches, nil
}

// SetSwitches is part of broker.SwitchBoard.
func (s *Store) SetSwitches(ctx context.Context, table broker.SwitchTable, off []broker.Switch) error {
	done, err := s.enter(ctx, "SetSwitches")
	if err != nil {
		return err
	}
	defer done()
	if s.switches.Mark != table.Mark {
		return broker.ErrConflict
	}
	version := s.switches.Version + 1
	s.switches = broker.SwitchTable{Mark: "m" + strconv.FormatInt(version, 10), Version: version, Off: slices.Clone(off)}
	return nil
}
