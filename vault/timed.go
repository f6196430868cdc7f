package vault

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"tokenbroker/broker"
)

// The stored form of what lives for a while and is found by a digest, with nothing else about it: one hash with a TTL, v format,
// e end in ms, b the data, sealed.
const (
	timedFormat = "1"
	fieldEnd    = "e"
)

// timed is one such record.
type timed struct {
	domain string // of its seal's place: "session"
	key    string
	digest string // that the key ends with
}

func (t timed) place(end string) []byte {
	return place(t.domain, "", t.digest, fieldBody, timedFormat, end)
}

// there are checks that the record is still there.
func (t timed) there() []Check {
	return []Check{{Key: t.key, Field: fieldFormat, Kind: CheckEqual, Value: timedFormat}}
}

// readTimed returns the data of an unexpired record, or ErrNotFound.
func (s *Store) readTimed(ctx context.Context, t timed) ([]byte, error) {
	found, err := s.hashes(ctx, t.key)
	if err != nil {
		return nil, err
	}
	record := found[0]
	if len(record) == 0 {
		return nil, broker.ErrNotFound
	}
	if err := checkFormat(string(record[fieldFormat]), timedFormat); err != nil {
		return nil, fmt.Errorf("%s: %w", t.domain, err)
	}
	data, err := s.seals.open(record[fieldBody], t.place(string(record[fieldEnd])))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t.domain, err)
	}
	// The end is in the seal's place: a TTL that somebody prolonged does not help.
	if end, err := strconv.ParseInt(string(record[fieldEnd]), 10, 64); err != nil || s.cfg.Now().UnixMilli() >= end {
		return nil, broker.ErrNotFound
	}
	return data, nil
}

// writeTimed stores data until expiry, if the checks hold; else ErrNotFound.
func (s *Store) writeTimed(ctx context.Context, t timed, data []byte, expiry time.Time, checks []Check) error {
	end := strconv.FormatInt(expiry.UnixMilli(), 10)
	sealed, err := s.seals.seal(data, t.place(end))
	if err != nil {
		return err
	}
	// Setting the same again is the same: a lost reply needs no write id here.
	return s.stepTimed(ctx, "save", t, Step{Checks: checks, Writes: []Write{
		{Kind: WriteHashSet, Key: t.key, Args: []string{fieldFormat, timedFormat, fieldEnd, end, fieldBody, sealed}},
		{Kind: WriteExpireAt, Key: t.key, Args: []string{end}},
	}})
}

// endTimed removes it, if the checks hold; else ErrNotFound.
func (s *Store) endTimed(ctx context.Context, t timed, checks []Check) error {
	return s.stepTimed(ctx, "delete", t, Step{Checks: checks, Writes: []Write{{Kind: WriteDelete, Key: t.key}}})
}

func (s *Store) stepTimed(ctx context.Context, what string, t timed, step Step) error {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	r, err := s.trails.direct(ctx, step)
	switch {
	case err != nil:
		return fmt.Errorf("%s %s: %w", what, t.domain, err)
	case r.Verdict == VerdictRefused:
		return broker.ErrNotFound
	}
	return nil
}
