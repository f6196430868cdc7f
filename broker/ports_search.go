package broker

import (
	"context"
	"time"
)

// AuditSearch looks through the whole trail of a tenant, for operators.
type AuditSearch interface {
	// SearchEvents reads the events of a tenant ("": those that concern no tenant) that the filter selects, in the order in which
	// they were written: the newest first, unless q.Oldest. Everything appended before the call is looked at. It works for a
	// bounded time, some 100 ms: a page may have fewer than q.Limit events, or none, and yet a Next. ErrNotFound: q.Position is
	// not one of ours.
	SearchEvents(ctx context.Context, tenant string, q EventSearch) (EventPage, error)
}

// EventSearch is a question to the trail.
type EventSearch struct {
	Filter   EventFilter
	Oldest   bool   // oldest first
	Position string // "": from the beginning
	Limit    int    // at least 1
}

// EventPage is a part of the answer.
type EventPage struct {
	Events []Event
	Next   string // the position to go on from; "": that was all
	// Reached is up to which time everything was looked at, where Next is not "".
	Reached time.Time
}

// TrailRetention tells how old the trail may be.
type TrailRetention interface {
	// KeptSince is from when on the events of a tenant are kept: what was written before is dropped, or being dropped. The zero time:
	// nothing ever was. ErrIntegrity: what says so is not ours.
	KeptSince(ctx context.Context, tenant string) (time.Time, error)
}

// TrailVerifier verifies the audit trail piece by piece.
type TrailVerifier interface {
	// VerifyTrail goes on behind the position ("": from the beginning), for about as long as budget, and at least one stream: those of
	// the tenant, or of all tenants where it is "". Position as in SearchEvents. It may be repeated.
	VerifyTrail(ctx context.Context, tenant, position string, budget time.Duration) (VerifiedTrail, error)
}

// VerifiedTrail is what a piece of the trail came to.
type VerifiedTrail struct {
	Streams, Entries, Events int
	Total                    int          // how many streams there are in all
	Faults                   []TrailFault // in the order of the streams
	Next                     string       // "": that was the last piece
}

// TrailFault is something that is wrong with a stream. Event names it; where that can't be read or is gone, After and Before
// name the nearest ones that can, and are empty where there is none.
type TrailFault struct {
	Stream string // which stream (no secret, no subject)
	Entry  string // the stream id of the bad entry, or of the last good one before a gap; empty if there is none
	Event  string // the id of the bad entry's first event
	After  string // the id of the last good event before what is bad or missing
	Before string // the id of the first readable event behind it
	What   string // changed, dropped, reordered or forged, in a sentence
	// Lost: the end of a chain is missing, with its head, of which a later entry says that it was there. A crash or a
	// failover of the store does that; so does somebody who sets it back.
	Lost bool
}

// Place names the bad event, or what is around it where that is all that is left.
func (f TrailFault) Place() string {
	event := f.Event
	switch {
	case event != "":
	case f.After != "" && f.Before != "":
		event = "after event " + f.After + " and before event " + f.Before
	case f.After != "":
		event = "after event " + f.After
	case f.Before != "":
		event = "before event " + f.Before
	default:
		event = "one that nothing around it names any more"
	}
	if f.Entry == "" {
		return event + " (stream " + f.Stream + ")"
	}
	return event + " (stream " + f.Stream + ", entry " + f.Entry + ")"
}
