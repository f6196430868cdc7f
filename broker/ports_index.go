package broker

import (
	"context"
	"time"
)

// ConnectionClass is what connections are counted and listed by. Scopes are those of the connection, and Status and Error are as
// Connection.Effective gives them.
type ConnectionClass struct {
	Tenant    string
	Connector string
	Status    ConnectionStatus
	Error     string
	Scopes    ScopeSet
}

// ConnectionClassOf is the class of the connection at that time.
func ConnectionClassOf(c Connection, now time.Time) ConnectionClass {
	c = c.Effective(now)
	return ConnectionClass{Tenant: c.Tenant, Connector: c.Connector, Status: c.Status, Error: c.Error, Scopes: c.Scopes}
}

// ClassCount is how many connections are of a class.
type ClassCount struct {
	ConnectionClass
	Count int
}

// ConnectionIndex is a read model of all connections of all tenants, for operators. It follows the records within a second or so:
// what it lists it has read from the records themselves, so a row is never wrong, but one that has just changed may be missing
// from a list or counted where it was before. What a failover took back is mended by a slow check. Nothing of it walks through
// all connections, and no call's work grows with how many there are.
type ConnectionIndex interface {
	// Classes counts the connections of each class that there is; those without any are left out. It may be a second old.
	Classes(ctx context.Context) ([]ClassCount, error)
	// NewestOf returns connections of the classes that match, made within [since, until) (zero: no bound), the newest first, at most
	// limit. There may be fewer, or none, and more behind the position: it is opaque, the first page starts at "", and the last
	// one ends with "". What can't be read is left out and logged.
	NewestOf(ctx context.Context, match func(ConnectionClass) bool, since, until time.Time, position string, limit int) ([]Connection, string, error)
	// OldestOf is NewestOf the other way round: connections made while somebody pages are met at the end. One that changes its class
	// at the very moment may be missed: who must have all of them begins again until nothing matches any more.
	OldestOf(ctx context.Context, match func(ConnectionClass) bool, position string, limit int) ([]Connection, string, error)
	// Ending returns active connections whose end is known (Connection.ExpiresAt) and before that time, those that end first at the
	// front, at most limit, of the tenants that match; and how many there are. The count may be wrong by those that end within a
	// day behind that time.
	Ending(ctx context.Context, tenant func(string) bool, before time.Time, limit int) ([]Connection, int, error)
	// SealedBy tells which keys of the keyset the records were sealed with when the slow check last came by.
	SealedBy(ctx context.Context) (Seals, error)
}

// Seals are counted by the slow check of all records.
type Seals struct {
	// Records that it read, and At when it had read the last one; a zero time: it was not through yet even once.
	Records int
	At      time.Time
	// ByKey are the records that still have something sealed by the key of that id. One record may count for several keys.
	ByKey map[uint32]int
	// Unreadable are those whose form this version does not know.
	Unreadable int
	// Primary is the key that seals now.
	Primary uint32
	// Resealing is how far sealing anew is, what another key than the primary one has sealed.
	Resealing Resealing
}

// Resealing is how far sealing records anew is. It goes through all records, and begins again until nothing is left.
type Resealing struct {
	// Needed: another pass follows. Running: one is under way, and Current is how far.
	Needed  bool
	Running bool
	Current SealProgress
	// Last is the last pass that came to its end; zero: none yet, and nothing was ever rotated.
	Last SealProgress
	// Passes are how many in a row, Last being the newest, left nothing to be sealed anew with the keys that seal now; 0 where Last was
	// made for other keys.
	Passes int
}

// SealProgress is what one pass met.
type SealProgress struct {
	Began, Ended time.Time
	// Records of all kinds, and those of them that were sealed anew.
	Records, Resealed int
	// ByKey are the records that have something sealed by the key of that id, Left those where another one would seal it now.
	ByKey, Left map[uint32]int
	// Erased are, by key, the records of tenants whose keyset was destroyed: they are in none of the others, and hold up no key.
	Erased map[uint32]int
}

// Effective is the connection with its end applied: one that can't be renewed needs consent once its tokens ended, also
// if nobody has asked for one since.
func (c Connection) Effective(now time.Time) Connection { return effective(c, now) }

// TurnsAt is when Effective will say something else, if nothing is written before; zero: never.
func (c Connection) TurnsAt() time.Time {
	if c.Status != ConnectionActive || c.renews() {
		return time.Time{}
	}
	for _, t := range c.Tokens {
		if t.Never {
			return time.Time{}
		}
	}
	return c.ExpiresAt()
}
