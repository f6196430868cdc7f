package vault

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"tokenbroker/broker"
)

// The stored form of a session: one hash with a TTL, v format, e end in ms, b the data, sealed.
const (
	sessionFormat = "1"
	fieldEnd      = "e"
)

func sessionPlace(digest, end string) []byte {
	return place("session", "", digest, fieldBody, sessionFormat, end)
}

// Session implements broker.Sessions.
func (s *Store) Session(ctx context.Context, token broker.Secret) ([]byte, error) {
	if token.IsZero() {
		return nil, broker.ErrNotFound
	}
	key, digest := sessionKey(token)
	found, err := s.hashes(ctx, key)
	if err != nil {
		return nil, err
	}
	record := found[0]
	if len(record) == 0 {
		return nil, broker.ErrNotFound
	}
	if err := checkFormat(string(record[fieldFormat]), sessionFormat); err != nil {
		return nil, fmt.Errorf("session: %w", err)
	}
	data, err := s.seals.open(record[fieldBody], sessionPlace(digest, string(record[fieldEnd])))
	if err != nil {
		return nil, fmt.Errorf("session: %w", err)
	}
	// The end is in the seal's place: a TTL that somebody prolonged does not help.
	if end, err := strconv.ParseInt(string(record[fieldEnd]), 10, 64); err != nil || s.cfg.Now().UnixMilli() >= end {
		return nil, broker.ErrNotFound
	}
	return data, nil
}

// SaveSession implements broker.Sessions.
func (s *Store) SaveSession(ctx context.Context, token broker.Secret, data []byte, expiry time.Time) error {
	key, digest := sessionKey(token)
	end := strconv.FormatInt(expiry.UnixMilli(), 10)
	sealed, err := s.seals.seal(data, sessionPlace(digest, end))
	if err != nil {
		return err
	}
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	// Setting the same again is the same: a lost reply needs no write id here.
	_, err = s.trails.direct(ctx, Step{Writes: []Write{
		{Kind: WriteHashSet, Key: key, Args: []string{fieldFormat, sessionFormat, fieldEnd, end, fieldBody, sealed}},
		{Kind: WriteExpireAt, Key: key, Args: []string{end}},
	}})
	if err != nil {
		return fmt.Errorf("save session: %w", err)
	}
	return nil
}

// DeleteSession implements broker.Sessions.
func (s *Store) DeleteSession(ctx context.Context, token broker.Secret) error {
	if token.IsZero() {
		return nil
	}
	key, _ := sessionKey(token)
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	if _, err := s.trails.direct(ctx, Step{Writes: []Write{{Kind: WriteDelete, Key: key}}}); err != nil {
		return fmt.Errorf("delete session: %w", err)
	}
	return nil
}
