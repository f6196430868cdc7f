package vault

import (
	"context"
	"encoding/binary"
	"fmt"
	"strconv"

	"tokenbroker/broker"
)

// fieldSuccessor, among the alternates, says which of them the provider gave for the very refresh token that the record
// had when the alternate came: the name of that token, and the field of the alternate. A provider that knows the record's
// token as used may end the grant when it meets it again (RFC 9700 section 4.14.2), so what was given for it goes first.
const fieldSuccessor = "next"

// tokenName names a sealed refresh token as it lies in a record: a keyed hash, of 16 bytes.
func (s *Store) tokenName(sealed []byte) string {
	return string(s.seals.hash(16, "refresh token of a record", string(sealed)))
}

// successorOf marks the alternate of that field as what the record's refresh token was exchanged for.
func (s *Store) successorOf(record map[string][]byte, field string) []string {
	return []string{fieldSuccessor, s.tokenName(record[fieldRefresh]) + field}
}

// promote puts the alternate in the record's place that was given for the record's own refresh token, and keeps that one
// beside it. It needs the lease and ends it. true: the record is another one now, so the caller has to look again. What
// lies beside it and does not open stays there for whoever looks for alternates.
func (s *Store) promote(ctx context.Context, lease broker.Lease, conn broker.Connection, token broker.Secret, record, beside map[string][]byte) (bool, error) {
	const hashed = 16
	mark := string(beside[fieldSuccessor])
	if len(mark) <= hashed || mark[:hashed] != s.tokenName(record[fieldRefresh]) {
		return false, nil
	}
	field := mark[hashed:]
	late, err := s.openAlternate(conn, beside[field])
	if err != nil {
		s.cfg.Log.ErrorContext(ctx, "the successor of a refresh token does not open for this account", "connection", conn.ID, "error", err)
		return false, nil
	}
	shard, err := shardOf(conn.ID)
	if err != nil {
		return false, err
	}
	next := stored(conn)
	next.Generation = lease.Generation + 1
	writes, err := s.tokenWrites(next, "", broker.Grant{RefreshToken: late})
	if err != nil {
		return false, err
	}
	id := writeID("promote", conn.ID, lease.Generation, nil, field, lease.Owner)
	value, err := s.sealAlternate(conn, token)
	if err != nil {
		return false, err
	}
	key := alternatesKey(shard, conn.ID)
	writes = append(writes,
		Write{Kind: WriteHashDelete, Key: key, Args: []string{field, fieldSuccessor}},
		Write{Kind: WriteHashSet, Key: key, Args: []string{id, value}},
		Write{Kind: WriteHashIncrement, Key: key, Args: []string{fieldKept, "1"}},
		Write{Kind: WriteExpireIn, Key: key, Args: []string{strconv.FormatInt(alternateLife.Milliseconds(), 10)}},
	)
	r, err := s.leased(ctx, lease, next, next.Generation, id, writes, nil, ownerCheck(shard, lease))
	if err != nil {
		return false, fmt.Errorf("promote a late refresh token: %w", err)
	}
	if r.Verdict != VerdictRefused {
		s.cfg.Log.InfoContext(ctx, "a refresh token that came late takes the place of the one that it was given for", "connection", conn.ID)
	}
	return true, nil
}

// sealAlternate is a refresh token as it lies beside the record: its end, then the seal, which names the end and the account.
func (s *Store) sealAlternate(conn broker.Connection, token broker.Secret) (string, error) {
	until := binary.BigEndian.AppendUint64(nil, uint64(s.cfg.Now().Add(alternateLife).UnixMilli()))
	sealed, err := s.seals.sealFor(conn.Tenant, []byte(token.Reveal()), alternatePlace(conn.Tenant, conn.ID, conn.Account.ID, string(until)))
	return string(until) + sealed, err
}

// openAlternate opens what sealAlternate made, for the account that conn has.
func (s *Store) openAlternate(conn broker.Connection, value []byte) (broker.Secret, error) {
	if len(value) <= 8 {
		return broker.Secret{}, fmt.Errorf("alternate of %d bytes: %w", len(value), broker.ErrIntegrity)
	}
	token, err := s.seals.openFor(conn.Tenant, value[8:], alternatePlace(conn.Tenant, conn.ID, conn.Account.ID, string(value[:8])))
	return broker.NewSecret(string(token)), err
}
