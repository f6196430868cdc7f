package vault

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"tokenbroker/broker"
)

// Grants that end together at the provider (broker.Connector.RevokesAll) have a record as a shared one has, which counts who
// holds one of them and never has tokens.

// Hold implements broker.SharedGrants.
func (s *Store) Hold(ctx context.Context, name string, connection broker.Holder) error {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	return s.hold(ctx, name, connection)
}

// Mark implements broker.SharedGrants.
func (s *Store) Mark(ctx context.Context, name, consent string) error {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	key := s.sharedKey(name)
	for range sharedAgain {
		now, err := s.readShared(ctx, name)
		if err != nil && !errors.Is(err, broker.ErrIntegrity) {
			return fmt.Errorf("mark consent: %w", err) // a newer format is not touched
		}
		writes := s.markWrites(key, now, consent, mark{until: s.cfg.Now().Add(markLife).UnixMilli()})
		r, err := s.trails.direct(ctx, Step{Checks: []Check{sameHolders(key, now.changes)}, Writes: writes})
		if err != nil {
			return fmt.Errorf("mark consent: %w", err)
		}
		if r.Verdict != VerdictRefused {
			return nil
		}
	}
	return fmt.Errorf("mark consent: the record keeps changing: %w", broker.ErrConflict)
}

// markWrites make the consent count as a holder, beside the fields that more names; marks whose time is up go.
func (s *Store) markWrites(key string, now sharedGrant, consent string, m mark, more ...string) []Write {
	writes := []Write{
		{Kind: WriteHashSet, Key: key, Args: append([]string{fieldFormat, sharedFormat, fieldMark + consent, m.String()}, more...)},
		{Kind: WriteHashIncrement, Key: key, Args: []string{fieldHolders, "1"}}, // whoever leaves at this moment must count it
	}
	for id, m := range now.consents {
		if id != consent && m.until < s.cfg.Now().UnixMilli() {
			writes = append(writes, Write{Kind: WriteHashDelete, Key: key, Args: []string{fieldMark + id}})
		}
	}
	if len(now.holders) == 0 {
		writes = append(writes, Write{Kind: WriteExpireIn, Key: key, Args: []string{strconv.FormatInt(unheldLife.Milliseconds(), 10)}})
	}
	return writes
}

const (
	fieldEnlisted = "e" // of enlistedKey: every connection was made a holder
	enlistPage    = 500
)

// enlistedKey is where it is noted that the connections of that OAuth client are enlisted.
func (s *Store) enlistedKey(client string) string {
	return onceForAllKey(s.seals.hash(18, "enlisted", client))
}

// Enlist implements broker.SharedGrants. It walks through all connections, once for each client; a walk that is cut short
// begins anew.
func (s *Store) Enlist(ctx context.Context, client string, name func(broker.Connection) string) error {
	if _, done := s.enlisted.Load(client); done {
		return nil
	}
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	key := s.enlistedKey(client)
	found, err := s.hashes(ctx, key)
	if err != nil {
		return fmt.Errorf("enlist holders: %w", err)
	}
	if len(found[0][fieldEnlisted]) == 0 {
		if err := s.enlistAll(ctx, name); err != nil {
			return fmt.Errorf("enlist holders: %w", err)
		}
		if _, err := s.trails.direct(ctx, Step{Writes: []Write{{Kind: WriteHashSet, Key: key, Args: []string{fieldEnlisted, "1"}}}}); err != nil {
			return fmt.Errorf("enlist holders: %w", err)
		}
	}
	s.enlisted.Store(client, true)
	return nil
}

func (s *Store) enlistAll(ctx context.Context, name func(broker.Connection) string) error {
	indexes, err := s.cfg.Backend.Keys(ctx, tenantIndexes)
	if err != nil {
		return err
	}
	for _, index := range indexes {
		shard, tenant, ok := parseTenantKey(index)
		if !ok {
			continue
		}
		for after := ""; ; {
			query := IndexQuery{Index: index, Records: connectionPrefix(shard), After: after, Limit: enlistPage}
			found, err := readPatiently(ctx, func(ctx context.Context) ([][]Indexed, error) { return s.cfg.Backend.Indexed(ctx, []IndexQuery{query}) })
			if err != nil {
				return err
			}
			for _, item := range found[0] {
				conn, err := s.openConnection(tenant, item.Member, item.Record, nil)
				switch {
				case errors.Is(err, broker.ErrNotFound):
					continue
				case err != nil:
					// What does not open serves nobody, and what a newer version wrote has been counted by that.
					s.cfg.Log.WarnContext(ctx, "a connection that can't be read is not counted among those whose grants end together", "connection", item.Member, "error", err)
					continue
				}
				if err := s.enlist(ctx, conn, name(conn)); err != nil {
					return err
				}
			}
			if len(found[0]) < enlistPage {
				break
			}
			after = found[0][enlistPage-1].Member
		}
	}
	return nil
}

// enlist makes the connection a holder, unless it was revoked, also at this moment.
func (s *Store) enlist(ctx context.Context, conn broker.Connection, name string) error {
	if name == "" || conn.Status == broker.ConnectionRevoked {
		return nil
	}
	if err := s.hold(ctx, name, holderOf(conn)); err != nil {
		return err
	}
	now, err := s.Connection(ctx, conn.Tenant, conn.ID)
	if errors.Is(err, broker.ErrNotFound) || err == nil && now.Status == broker.ConnectionRevoked {
		_, err = s.Leave(ctx, name, holderOf(conn))
	}
	return err
}

// parseTenantKey is tenantKey backwards.
func parseTenantKey(key string) (shard byte, tenant string, ok bool) {
	for n := range shards {
		if tenant, ok = strings.CutPrefix(key, tenantKey(byte(n), "")); ok {
			return byte(n), tenant, true
		}
	}
	return 0, "", false
}

// HeldBy implements broker.SharedGrants.
func (s *Store) HeldBy(ctx context.Context, name string, limit int) ([]broker.Connection, error) {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	g, err := s.readShared(ctx, name)
	if err != nil && !errors.Is(err, broker.ErrIntegrity) {
		return nil, fmt.Errorf("read who holds a grant: %w", err)
	}
	var keys, ids []string
	for id := range g.holders {
		if shard, err := shardOf(id); err == nil && len(ids) < limit {
			ids, keys = append(ids, id), append(keys, connectionKey(shard, id), issuedKey(shard, id))
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	found, err := s.hashes(ctx, keys...)
	if err != nil {
		return nil, fmt.Errorf("read who holds a grant: %w", err)
	}
	var out []broker.Connection
	for i, id := range ids {
		conn, err := s.openConnection(string(found[2*i][fieldTenant]), id, found[2*i], found[2*i+1])
		switch {
		case err == nil:
			out = append(out, conn)
		case !errors.Is(err, broker.ErrNotFound):
			s.cfg.Log.WarnContext(ctx, "a connection that holds a grant can't be read", "connection", id, "error", err)
		}
	}
	return out, nil
}
