package brokertest

import (
	"context"
	"maps"
	"slices"
	"time"

	"tokenbroker/broker"
)

// BeginOperatorSession is part of broker.OperatorSessions. Ends by time are not looked at.
func (o *Operators) BeginOperatorSession(_ context.Context, one broker.OperatorSession, _ time.Time) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.FailStore != nil {
		return o.FailStore
	}
	if o.list == nil {
		o.list = map[string]broker.OperatorSession{}
	}
	o.list[one.ID] = one
	return nil
}

// KeepOperatorSession is part of broker.OperatorSessions.
func (o *Operators) KeepOperatorSession(_ context.Context, one broker.OperatorSession, until time.Time) error {
	return o.writeIn(one.Turn, one, until)
}

// RenewOperatorSession is part of broker.OperatorSessions.
func (o *Operators) RenewOperatorSession(_ context.Context, one broker.OperatorSession, until time.Time) error {
	return o.writeIn(one.Turn-1, one, until)
}

func (o *Operators) writeIn(turn int64, one broker.OperatorSession, _ time.Time) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	before, ok := o.list[one.ID]
	switch {
	case o.FailStore != nil:
		return o.FailStore
	case !ok || before.Turn != turn:
		return broker.ErrNotFound
	}
	o.list[one.ID] = one
	return nil
}

// OperatorSession is part of broker.OperatorSessions.
func (o *Operators) OperatorSession(_ context.Context, id string) (broker.OperatorSession, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	one, ok := o.list[id]
	switch {
	case o.FailStore != nil:
		return broker.OperatorSession{}, o.FailStore
	case !ok:
		return broker.OperatorSession{}, broker.ErrNotFound
	}
	return one, nil
}

// OperatorSessions is part of broker.OperatorSessions.
func (o *Operators) OperatorSessions(_ context.Context, position string, limit int) ([]broker.OperatorSession, string, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.FailStore != nil {
		return nil, "", o.FailStore
	}
	var all []broker.OperatorSession
	for _, id := range slices.Sorted(maps.Keys(o.list)) {
		if len(all) == limit {
			return all, all[limit-1].ID, nil
		}
		if id > position {
			all = append(all, o.list[id])
		}
	}
	return all, "", nil
}

// EndOperatorSession is part of broker.OperatorSessions.
func (o *Operators) EndOperatorSession(_ context.Context, id string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.FailStore != nil {
		return o.FailStore
	}
	delete(o.list, id)
	return nil
}
