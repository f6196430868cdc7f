package broker

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// This file holds the kill switches: what operators disable is refused everywhere with the next request. Every path that could
// hand something out asks here: a token's (choose), whatever else a client calls (AdmitClient), and consents (mayConsent).
// What ends access is never refused, and refreshes go on in the background, so that enabling costs nobody a consent.

// maxSwitches bounds the table: each replica has it in memory, and each part of the store a copy.
const maxSwitches = 500

// maxSwitchName bounds the id of what is disabled, in bytes.
const maxSwitchName = 256

// subject of a decision: who asks for what. Empty fields are of no concern.
type switched struct {
	tenant, client, connector, agent string
}

// off returns the switch that stops it; false: none does.
func (t SwitchTable) off(about switched) (Switch, bool) {
	for _, s := range t.Off {
		if s.Tenant != Everywhere && s.Tenant != about.tenant {
			continue
		}
		var name string
		switch s.Kind {
		case SwitchTenant:
			if s.Tenant != Everywhere {
				return s, true
			}
			continue
		case SwitchClient:
			name = about.client
		case SwitchConnector:
			name = about.connector
		case SwitchActor:
			name = about.agent
		}
		if name != "" && name == s.Name {
			return s, true
		}
	}
	return Switch{}, false
}

// refuse is the error for what an operator disabled, nil if nothing of it is.
func (t SwitchTable) refuse(about switched) error {
	s, off := t.off(about)
	if !off {
		return nil
	}
	what := "this " + string(s.Kind)
	switch s.Kind {
	case SwitchTenant:
		what = "this tenant" // not its id: a user may read this
	case SwitchActor:
		what = "this agent"
	}
	e := Errorf(CodeAccessDenied, "%s was disabled by the operator", what)
	e.Disabled = s.Kind
	return e
}

// DisabledBy tells what an operator disabled, if that is why the error came.
func DisabledBy(err error) (SwitchKind, bool) {
	var public *Error
	if errors.As(err, &public) && public.Disabled != "" {
		return public.Disabled, true
	}
	return "", false
}

// AdmitClient is the error for a client that may do nothing because it, or its tenant, is disabled. Edges ask it before each use
// case but those that end access, and IssueToken, which asks by itself without another round trip.
func (s *Service) AdmitClient(ctx context.Context, caller Caller) error {
	return s.mayGoOn(ctx, "", switched{tenant: caller.Client.Tenant, client: caller.Client.ID})
}

// mayConsent is the error for a consent that must not go on because something that it needs is disabled. One that was begun may go
// on once it is enabled again, while it lives.
func (s *Service) mayConsent(ctx context.Context, c Consent) error {
	return s.mayGoOn(ctx, c.Subject, switched{tenant: c.Tenant, client: c.Client, connector: c.Connector, agent: c.Actor.Agent})
}

// disabled records that a consent was refused because of what is disabled, a few times for each, and returns the error to answer with.
func (s *Service) disabled(ctx context.Context, c Consent, what string, cause error) error {
	if kind, off := DisabledBy(cause); off {
		return s.strangeBrowser(ctx, c, what+" while the "+string(kind)+" is disabled", cause)
	}
	return cause
}

// mayVisit is the error for a visit to "My connections" that must not be opened. One that is open goes on: its user is known, and
// can disconnect there.
func (s *Service) mayVisit(ctx context.Context, p Portal) error {
	return s.mayGoOn(ctx, p.Subject, switched{tenant: p.Tenant, client: p.Client})
}

// disabledVisit is disabled for a visit.
func (s *Service) disabledVisit(ctx context.Context, p Portal, cause error) error {
	if kind, off := DisabledBy(cause); off {
		return s.strangeVisitor(ctx, p, "while the "+string(kind)+" is disabled", cause)
	}
	return cause
}

// mayGoOn reads the table, where the subject's records lie, and asks it.
func (s *Service) mayGoOn(ctx context.Context, subject string, about switched) error {
	if s.cfg.Switches == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
	defer cancel()
	table, err := s.cfg.Switches.SwitchesFor(ctx, about.tenant, subject)
	if err != nil {
		return storeError("read what is disabled", err)
	}
	return table.refuse(about)
}

// ofSubjectSwitched reads the subject's connections to the connector, and refuses the request if something of it is disabled. The
// connections carry the mark of what was decided by. Beside an error come those connections that can be read.
// seen, if not nil, is what was read already.
func (s *Service) ofSubjectSwitched(ctx context.Context, caller Caller, req TokenRequest, seen *WrongGuess) ([]Connection, error) {
	if s.cfg.Switches == nil {
		return s.ofSubject(ctx, caller, req.Subject, req.Connector)
	}
	var table SwitchTable
	all, err := s.readSubject(ctx, caller, req.Subject, req.Connector, func(ctx context.Context) (all []Connection, err error) {
		if seen != nil && seen.Read {
			table = seen.Table
			return seen.All, seen.Err
		}
		all, table, err = s.cfg.Switches.OfSubjectSwitched(ctx, caller.Client.Tenant, req.Subject, req.Connector)
		return all, err
	})
	if off := table.refuse(switched{tenant: caller.Client.Tenant, client: caller.Client.ID, connector: req.Connector, agent: req.Actor.Agent}); off != nil {
		return nil, off
	}
	for i := range all {
		all[i].Switches = table.Mark
	}
	return all, err
}

// maySwitch is the error for an operator who may not turn the switch. A whole tenant is stopped by operators of the installation.
func maySwitch(op Operator, s Switch) error {
	if s.Kind == SwitchTenant {
		if err := op.Check(PermitSwitch, s.Tenant); CodeOf(err) == CodeNotFound {
			return err
		}
		return op.Check(PermitStopAll, Everywhere)
	}
	return op.Check(PermitSwitch, s.Tenant)
}

// checkSwitch refuses what can be no switch.
func checkSwitch(s Switch) error {
	usable := func(id string) bool {
		return id != "" && len(id) <= maxSwitchName && utf8.ValidString(id) && !strings.ContainsFunc(id, unicode.IsControl)
	}
	switch s.Kind {
	case SwitchTenant, SwitchClient:
		if !usable(s.Tenant) {
			return Errorf(CodeInvalidRequest, "name the tenant")
		}
	case SwitchConnector, SwitchActor:
		if s.Tenant != Everywhere && !usable(s.Tenant) {
			return Errorf(CodeInvalidRequest, "there can be no tenant of that name")
		}
	default:
		return Errorf(CodeInvalidRequest, "a tenant, a client, a connector or an actor can be disabled")
	}
	if s.Kind == SwitchTenant && s.Name != "" || s.Kind != SwitchTenant && !usable(s.Name) {
		return Errorf(CodeInvalidRequest, "name the %s, in at most %d bytes", s.Kind, maxSwitchName)
	}
	return nil
}

// ListSwitches returns what is disabled and concerns the operator, the newest first: of an operator of some tenants, what is
// disabled in them, or in all.
func (s *Service) ListSwitches(ctx context.Context, op Operator) ([]Switch, error) {
	if !op.MaySomewhere(PermitSwitch) {
		return nil, op.Check(PermitSwitch, Everywhere)
	}
	table, err := s.switches(ctx)
	if err != nil {
		return nil, err
	}
	mine := slices.DeleteFunc(slices.Clone(table.Off), func(off Switch) bool {
		return off.Tenant != Everywhere && !op.May(PermitSwitch, off.Tenant)
	})
	slices.SortStableFunc(mine, func(a, b Switch) int { return b.Since.Compare(a.Since) })
	return mine, nil
}

// MayEnable tells whether the operator may enable what is disabled so.
func (s *Service) MayEnable(op Operator, off Switch) bool {
	return maySwitch(op, off) == nil && (!off.Installation || op.May(PermitSwitch, Everywhere))
}

func (s *Service) switches(ctx context.Context) (SwitchTable, error) {
	if s.cfg.Switches == nil {
		return SwitchTable{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*s.cfg.StoreTimeout)
	defer cancel()
	table, err := s.cfg.Switches.Switches(ctx)
	if err != nil {
		return SwitchTable{}, storeError("read what is disabled", err)
	}
	return table, nil
}

// Disable stops what the switch names: kind, tenant and name of it count. On return without an error every replica refuses it with the
// next request. CodeTemporarilyUnavailable with a *PartialError: it is disabled, but not everywhere yet, which this process goes on
// with. The same again changes nothing, and completes what is not everywhere.
func (s *Service) Disable(ctx context.Context, op Operator, what Switch, reason string) error {
	if err := maySwitch(op, what); err != nil {
		return err
	}
	var err error
	if what.Reason, err = operatorReason(reason); err != nil {
		return err
	}
	what.Since, what.By, what.Installation = s.cfg.Now().UTC(), op.ID, op.May(PermitSwitch, Everywhere)
	return s.turn(ctx, op, EventOperatorDisabled, what, func(off []Switch) ([]Switch, error) {
		i := slices.IndexFunc(off, what.Same)
		switch {
		case i < 0 && len(off) >= maxSwitches:
			return nil, Errorf(CodeInvalidRequest, "%d things are disabled already; enable one that need not be", len(off))
		case i < 0:
			return append(slices.Clone(off), what), nil
		case what.Installation && !off[i].Installation:
			off = slices.Clone(off)
			off[i] = what
		}
		return off, nil
	})
}

// Enable ends what Disable did. CodeAccessDenied where an operator of the installation disabled it and this one is of a tenant.
func (s *Service) Enable(ctx context.Context, op Operator, what Switch, reason string) error {
	if err := maySwitch(op, what); err != nil {
		return err
	}
	var err error
	if what.Reason, err = operatorReason(reason); err != nil {
		return err
	}
	return s.turn(ctx, op, EventOperatorEnabled, what, func(off []Switch) ([]Switch, error) {
		if i := slices.IndexFunc(off, what.Same); i >= 0 && !s.MayEnable(op, off[i]) {
			return nil, Errorf(CodeAccessDenied, "an operator of the whole installation disabled this; one of them can enable it")
		}
		return slices.DeleteFunc(slices.Clone(off), what.Same), nil
	})
}

// turn changes the table. What is refused changes nothing and leaves no event; the event comes before the change.
func (s *Service) turn(ctx context.Context, op Operator, event EventType, what Switch, change func(off []Switch) ([]Switch, error)) error {
	if s.cfg.Switches == nil {
		return serverError(errors.New("this program has no switches"))
	}
	if err := checkSwitch(what); err != nil {
		return err
	}
	_, err := detach(s, ctx, func(ctx context.Context) (struct{}, error) {
		ctx, cancel := context.WithTimeout(ctx, switchTime)
		defer cancel()
		return struct{}{}, s.turnNow(ctx, op, event, what, change)
	})
	return err
}

// switchTime bounds one change of the table in all parts of the store.
const switchTime = 10 * time.Second

func (s *Service) turnNow(ctx context.Context, op Operator, event EventType, what Switch, change func(off []Switch) ([]Switch, error)) error {
	recorded := false
	for range releaseAttempts {
		table, err := s.switches(ctx)
		if err != nil {
			return err
		}
		off, err := change(table.Off)
		if err != nil {
			return err
		}
		if !recorded {
			entry := Entry{Type: event, Tenant: what.Tenant, Outcome: string(what.Kind), Reason: what.Reason}
			switch what.Kind {
			case SwitchConnector:
				entry.Connector = what.Name
			case SwitchClient:
				entry.Client = what.Name
			case SwitchActor:
				entry.Outcome += " " + what.Name
			}
			if err := s.recordOperator(ctx, op, entry); err != nil {
				return err
			}
			recorded = true
		}
		err = s.cfg.Switches.SetSwitches(ctx, table, off)
		var partial *PartialError
		switch {
		case err == nil:
			return nil
		case errors.As(err, &partial):
			e := Errorf(CodeTemporarilyUnavailable, "the change is stored, but %d of %d parts of the store do not have it yet: until they do, their users are served as before; the broker goes on trying, and so can you", partial.Missing, partial.Of)
			return e.Because(err)
		case !errors.Is(err, ErrConflict):
			return storeError("store what is disabled", err)
		}
	}
	return storeError("store what is disabled", ErrConflict)
}

// SwitchableConnectors are the connectors that the operator may disable somewhere: those of the configuration, and those that tenants
// of theirs made.
func (s *Service) SwitchableConnectors(op Operator) []Connector {
	return slices.DeleteFunc(slices.Clone(s.cfg.Connectors.All()), func(c Connector) bool {
		if c.Tenants == nil {
			return !op.MaySomewhere(PermitSwitch)
		}
		return !slices.ContainsFunc(c.Tenants, func(tenant string) bool { return op.May(PermitSwitch, tenant) })
	})
}
