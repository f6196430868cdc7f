package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"tokenbroker/vault"
)

const (
	// leastDays is how many days events are kept at least: less is a slip, such as hours in the place of days.
	leastDays, mostDays = 7, 36500
	// leastEntries is how few entries the trail may be bound to.
	leastEntries, mostEntries = 100_000, 1_000_000_000_000
)

// retention reads audit.retention. What is left out is no reason to drop anything.
func (o object) retention() vault.Retention {
	var keep vault.Retention
	n := o.get("audit")
	if n == nil {
		return keep
	}
	audit, ok := o.s.object(n, "audit", "retention")
	if !ok {
		return keep
	}
	if n = audit.get("retention"); n == nil {
		return keep
	}
	r, ok := o.s.object(n, "audit.retention", "age", "entries")
	if !ok {
		return keep
	}
	keep.Age = r.days("age", leastDays, mostDays)
	keep.Entries = int64(r.number("entries", 0, leastEntries, mostEntries))
	switch {
	case keep.Age > 0 && keep.Entries > 0:
		o.s.notes = append(o.s.notes, fmt.Sprintf("%s:%d: audit events are dropped for good when they are older than %d days, or when the trail has more than %d entries",
			o.s.file, n.Line, keep.Age/(24*time.Hour), keep.Entries))
	case keep.Age > 0:
		o.s.notes = append(o.s.notes, fmt.Sprintf("%s:%d: audit events are dropped for good when they are older than %d days", o.s.file, n.Line, keep.Age/(24*time.Hour)))
	case keep.Entries > 0:
		o.s.notes = append(o.s.notes, fmt.Sprintf("%s:%d: the oldest audit events are dropped for good when the trail has more than %d entries", o.s.file, n.Line, keep.Entries))
	}
	return keep
}

// days reads a whole number of days, such as 90d.
func (o object) days(key string, least, most int) time.Duration {
	n, text, ok := o.scalar(key)
	if !ok {
		return 0
	}
	number, isDays := strings.CutSuffix(text, "d")
	v, err := strconv.Atoi(number)
	if !isDays || err != nil || v < least || v > most || number != strconv.Itoa(v) {
		o.fail(key, "", n, "must be a whole number of days from %dd to %dd, such as 90d; leave it out to keep all", least, most)
		return 0
	}
	return time.Duration(v) * 24 * time.Hour
}
