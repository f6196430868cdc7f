package webtest

import (
	"context"

	"tokenbroker/broker"
)

// Switches answers each call about kill switches and jobs with the function of its field; a nil one answers with nothing, or not_found.
type Switches struct {
	List       func(op broker.Operator) ([]broker.Switch, error)
	May        func(op broker.Operator, off broker.Switch) bool
	Connectors []broker.Connector
	Turn       func(op broker.Operator, what broker.Switch, on bool, reason string) error
	Jobs       func(op broker.Operator) ([]broker.Job, error)
	Job        func(op broker.Operator, id string) (broker.Job, error)
	Change     func(op broker.Operator, id string, action broker.JobAction, reason string) (broker.Job, error)
	Rate       func(op broker.Operator, id string, rate int, reason string) (broker.Job, error)
	Revoke     func(op broker.Operator, req broker.RevokeAllRequest, once string) (broker.Job, error)
	Count      func(op broker.Operator, req broker.RevokeAllRequest) (int, error)
}

// ListSwitches as web.Service.
func (s *Service) ListSwitches(_ context.Context, op broker.Operator) ([]broker.Switch, error) {
	s.note("ListSwitches")
	if s.Switches.List == nil {
		return nil, nil
	}
	return s.Switches.List(op)
}

// MayEnable as web.Service.
func (s *Service) MayEnable(op broker.Operator, off broker.Switch) bool {
	return s.Switches.May == nil || s.Switches.May(op, off)
}

// SwitchableConnectors as web.Service.
func (s *Service) SwitchableConnectors(broker.Operator) []broker.Connector {
	return s.Switches.Connectors
}

// Disable as web.Service.
func (s *Service) Disable(_ context.Context, op broker.Operator, what broker.Switch, reason string) error {
	s.note("Disable")
	if s.Switches.Turn == nil {
		return nothing()
	}
	return s.Switches.Turn(op, what, false, reason)
}

// Enable as web.Service.
func (s *Service) Enable(_ context.Context, op broker.Operator, what broker.Switch, reason string) error {
	s.note("Enable")
	if s.Switches.Turn == nil {
		return nothing()
	}
	return s.Switches.Turn(op, what, true, reason)
}

// ListJobs as web.Service.
func (s *Service) ListJobs(_ context.Context, op broker.Operator, _ int) ([]broker.Job, error) {
	s.note("ListJobs")
	if s.Switches.Jobs == nil {
		return nil, nil
	}
	return s.Switches.Jobs(op)
}

// MayJob as web.Service.
func (s *Service) MayJob(broker.Operator, broker.Job) bool { return true }

// GetJob as web.Service.
func (s *Service) GetJob(_ context.Context, op broker.Operator, id string) (broker.Job, error) {
	s.note("GetJob")
	if s.Switches.Job == nil {
		return broker.Job{}, nothing()
	}
	return s.Switches.Job(op, id)
}

// ChangeJob as web.Service.
func (s *Service) ChangeJob(_ context.Context, op broker.Operator, id string, action broker.JobAction, reason string) (broker.Job, error) {
	s.note("ChangeJob " + string(action))
	if s.Switches.Change == nil {
		return broker.Job{}, nothing()
	}
	return s.Switches.Change(op, id, action, reason)
}

// ChangeJobRate as web.Service.
func (s *Service) ChangeJobRate(_ context.Context, op broker.Operator, id string, rate int, reason string) (broker.Job, error) {
	s.note("ChangeJobRate")
	if s.Switches.Rate == nil {
		return broker.Job{}, nothing()
	}
	return s.Switches.Rate(op, id, rate, reason)
}

// RevokeAll as web.Service.
func (s *Service) RevokeAll(_ context.Context, op broker.Operator, req broker.RevokeAllRequest, once string) (broker.Job, error) {
	s.note("RevokeAll")
	if s.Switches.Revoke == nil {
		return broker.Job{}, nothing()
	}
	return s.Switches.Revoke(op, req, once)
}

// CountRevokeAll as web.Service.
func (s *Service) CountRevokeAll(_ context.Context, op broker.Operator, req broker.RevokeAllRequest) (int, error) {
	s.note("CountRevokeAll")
	if s.Switches.Count == nil {
		return 0, nil
	}
	return s.Switches.Count(op, req)
}
