package broker

import (
	"context"
	"fmt"
	"time"
)

// SwitchKind says what a kill switch stops.
type SwitchKind string

// The kinds.
const (
	SwitchTenant    SwitchKind = "tenant"
	SwitchClient    SwitchKind = "client"
	SwitchConnector SwitchKind = "connector"
	SwitchActor     SwitchKind = "actor"
)

// Switch is one thing that an operator has disabled.
type Switch struct {
	Kind SwitchKind
	// Tenant that it is disabled in; Everywhere: in all of them, which a connector and an actor can be.
	Tenant string
	// Name is the id of the client or the connector, or Actor.Agent; "" for a tenant.
	Name   string
	Since  time.Time
	By     string // the operator's id
	Reason string
	// Installation: an operator of the whole installation disabled it, so one of the tenant alone can't enable it.
	Installation bool
}

// Same tells whether both are about the same thing.
func (s Switch) Same(other Switch) bool {
	return s.Kind == other.Kind && s.Tenant == other.Tenant && s.Name == other.Name
}

// SwitchTable is all that is disabled, as one reader found it.
type SwitchTable struct {
	// Mark names the table as it stands in the part of the store that was asked; "" if nothing was ever disabled. It is what a
	// token's release demands: Connection.Switches.
	Mark string
	// Version grows by one with each change.
	Version int64
	Off     []Switch
}

// SwitchBoard keeps what operators disabled: one table, of which each part of the store has a copy beside the records of its
// subjects, so that the path of a token reads it, and makes sure that it still stands, without a round trip of its own.
type SwitchBoard interface {
	// OfSubjectSwitched is Connections.OfSubject together with the table, in the same round trip. Beside an error about
	// connections (*UnreadableError) the table is good; without a table nothing may be handed out.
	OfSubjectSwitched(ctx context.Context, tenant, subject, connector string) ([]Connection, SwitchTable, error)
	// SwitchesFor returns the table as that part of the store has it where the subject's records lie.
	SwitchesFor(ctx context.Context, tenant, subject string) (SwitchTable, error)
	// Switches returns the newest table, to be changed.
	Switches(ctx context.Context) (SwitchTable, error)
	// SetSwitches makes off the table, if the newest is still of table.Version: ErrConflict. On return without an error every part of
	// the store has it: no token leaves any more by an earlier one. *PartialError: it is the table, and will be brought to the
	// other parts in the background, until which they may go by the one before. Durable.
	SetSwitches(ctx context.Context, table SwitchTable, off []Switch) error
}

// PartialError says that a change is not everywhere yet.
type PartialError struct {
	Missing, Of int // parts of the store
	Cause       error
}

func (e *PartialError) Error() string {
	return fmt.Sprintf("%d of %d parts of the store do not have it yet: %v", e.Missing, e.Of, e.Cause)
}

func (e *PartialError) Unwrap() error { return e.Cause }
