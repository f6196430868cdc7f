package vault

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"tokenbroker/broker"
)

// OfSubject implements broker.Connections. Records of other connectors than the one that is asked for are not opened.
func (s *Store) OfSubject(ctx context.Context, tenant, subject, connector string) ([]broker.Connection, error) {
	shard := s.Shard(tenant, subject)
	query := IndexQuery{Index: subjectKey(shard, s.subjectTag(tenant, subject)), Records: connectionPrefix(shard), Extra: issuedPrefix(shard)}
	items, err := s.indexed(ctx, tenant, query)
	if err != nil {
		return nil, err
	}
	var conns []broker.Connection
	var bad error
	var unreadable []string
	for _, item := range items {
		if connector != "" && anotherConnectors(item.Record, connector) {
			continue
		}
		conn, err := s.openConnection(tenant, item.Member, item.Record, item.Extra)
		switch {
		case errors.Is(err, broker.ErrNotFound): // erased between two reads
		case err != nil:
			bad, unreadable = errors.Join(bad, err), append(unreadable, item.Member)
		case conn.Subject != subject:
			bad = errors.Join(bad, fmt.Errorf("connection: another subject's record: %w", broker.ErrIntegrity))
			unreadable = append(unreadable, item.Member)
		case connector == "" || conn.Connector == connector:
			conns = append(conns, conn)
		}
	}
	slices.SortFunc(conns, func(a, b broker.Connection) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	if bad != nil {
		return conns, &broker.UnreadableError{IDs: unreadable, Cause: bad}
	}
	return conns, nil
}

// indexed reads a subject's connections, and again those of which the store lost a write.
func (s *Store) indexed(ctx context.Context, tenant string, query IndexQuery) ([]Indexed, error) {
	for attempt := 1; ; attempt++ {
		found, err := readPatiently(ctx, func(ctx context.Context) ([][]Indexed, error) {
			return s.cfg.Backend.Indexed(ctx, []IndexQuery{query})
		})
		if err != nil {
			return nil, err
		}
		items, again := found[0], false
		for _, item := range items {
			changed, err := s.healed(ctx, tenant, item.Member, item.Record)
			if err != nil {
				return nil, err
			}
			again = again || changed
		}
		for _, id := range s.missing(query.Index, items) {
			_, record, err := s.load(ctx, tenant, id)
			if err != nil && !errors.Is(err, broker.ErrNotFound) && len(record) == 0 {
				return nil, err
			}
			again = again || len(record) > 0
		}
		if !again || attempt == healAttempts {
			return items, nil
		}
	}
}

// anotherConnectors tells by the clear header alone whose record it is not, so that one that does not open keeps nobody
// from the subject's connections to other connectors. Who changes a header can hide a connection by it, no more than by
// taking it out of the index.
func anotherConnectors(record map[string][]byte, connector string) bool {
	var h header
	return json.Unmarshal(record[fieldHeader], &h) == nil && h.Connector != "" && h.Connector != connector
}

// Connection implements broker.Connections.
func (s *Store) Connection(ctx context.Context, tenant, id string) (broker.Connection, error) {
	conn, _, err := s.load(ctx, tenant, id)
	return conn, err
}

// load reads a connection and its fields; what the store lost of it is written back first.
func (s *Store) load(ctx context.Context, tenant, id string) (broker.Connection, map[string][]byte, error) {
	shard, err := shardOf(id)
	if err != nil {
		return broker.Connection{}, nil, err
	}
	for attempt := 1; ; attempt++ {
		found, err := s.hashes(ctx, connectionKey(shard, id), issuedKey(shard, id))
		if err != nil {
			return broker.Connection{}, nil, err
		}
		changed, err := s.healed(ctx, tenant, id, found[0])
		if err != nil {
			return broker.Connection{}, nil, err
		}
		if !changed || attempt == healAttempts {
			conn, err := s.openConnection(tenant, id, found[0], found[1])
			return conn, found[0], err
		}
	}
}

// shardsPerTrip is how many shards a listing asks at once.
const shardsPerTrip = 32

// List implements broker.Connections: shard after shard, in each by id. A record that can't be read is left out and
// logged, so that one bad record does not hide the others.
func (s *Store) List(ctx context.Context, tenant string, filter broker.ConnectionFilter, position string, limit int) ([]broker.Connection, string, error) {
	shard, after, err := parseListPosition(position)
	if err != nil {
		return nil, "", err
	}
	limit = max(1, limit)
	var out []broker.Connection
	for shard < shards {
		first := shard
		var queries []IndexQuery
		for n := first; n < min(shards, first+shardsPerTrip); n++ {
			queries = append(queries, IndexQuery{
				Index: tenantKey(byte(n), tenant), Records: connectionPrefix(byte(n)), Extra: issuedPrefix(byte(n)), After: after, Limit: limit + 1,
			})
			after = ""
		}
		found, err := readPatiently(ctx, func(ctx context.Context) ([][]Indexed, error) { return s.cfg.Backend.Indexed(ctx, queries) })
		if err != nil {
			return nil, "", err
		}
		for i, items := range found {
			for _, item := range items {
				conn, ok := s.listed(ctx, tenant, filter, item)
				if !ok {
					continue
				}
				if len(out) == limit {
					return out, out[limit-1].ID, nil
				}
				out = append(out, conn)
			}
			if len(items) > limit { // this shard has more, and the page has room
				shard, after = first+i, items[limit].Member
				break
			}
			shard, after = first+i+1, ""
		}
	}
	return out, "", nil
}

func (s *Store) listed(ctx context.Context, tenant string, filter broker.ConnectionFilter, item Indexed) (broker.Connection, bool) {
	conn, err := s.openConnection(tenant, item.Member, item.Record, item.Extra)
	if err != nil {
		if !errors.Is(err, broker.ErrNotFound) {
			s.cfg.Log.WarnContext(ctx, "connection left out of a listing", "connection", item.Member, "error", err)
		}
		return broker.Connection{}, false
	}
	return conn, (filter.Connector == "" || conn.Connector == filter.Connector) && (filter.Status == "" || conn.Status == filter.Status)
}

// parseListPosition: a position is the id of the last connection of the page before, which says the shard too.
func parseListPosition(position string) (shard int, after string, err error) {
	if position == "" {
		return 0, "", nil
	}
	b, err := shardOf(position)
	if err != nil {
		return 0, "", fmt.Errorf("position is not one of ours: %w", broker.ErrNotFound)
	}
	return int(b), position, nil
}

// Release implements broker.Connections. One round trip if this process read the record before (it did, to get conn).
func (s *Store) Release(ctx context.Context, conn broker.Connection, tokenKey string, entry broker.Entry) (broker.Secret, error) {
	info, ok := conn.Token(tokenKey)
	if !ok || conn.Status != broker.ConnectionActive {
		return broker.Secret{}, fmt.Errorf("release token: %w", broker.ErrConflict)
	}
	shard, err := shardOf(conn.ID)
	if err != nil {
		return broker.Secret{}, err
	}
	drafts, err := s.drafts(conn.Tenant, []broker.Entry{entry})
	if err != nil {
		return broker.Secret{}, err
	}
	key := connectionKey(shard, conn.ID)
	sealed, ok := s.ready.get(readyKey{id: conn.ID, generation: conn.Generation, token: tokenKey})
	for attempt := 0; ; attempt++ {
		if !ok || attempt > 0 {
			if sealed, err = s.sealedToken(ctx, conn, tokenKey); err != nil {
				return broker.Secret{}, err
			}
		}
		// Opened before anything is recorded: what does not open leaves no token.issued behind.
		token, err := s.seals.open([]byte(sealed), accessPlace(conn.Tenant, conn.ID, info))
		if err != nil && ok && attempt == 0 {
			continue // remembered from before a failover: the generation was made once more since, with another token
		}
		if err != nil {
			return broker.Secret{}, fmt.Errorf("release token: %w", err)
		}
		step := Step{
			Checks: []Check{
				{Key: key, Field: fieldTenant, Kind: CheckEqual, Value: conn.Tenant},
				{Key: key, Field: fieldFormat, Kind: CheckEqual, Value: connectionFormat},
				{Key: key, Field: fieldGeneration, Kind: CheckEqual, Value: strconv.FormatInt(conn.Generation, 10)},
				{Key: key, Field: fieldStatus, Kind: CheckEqual, Value: string(broker.ConnectionActive)},
				{Key: key, Field: fieldAccess + tokenKey, Kind: CheckEqual, Value: sealed},
			},
			// In a key of its own: what changes with every use must never share a write with credentials.
			Writes: []Write{{Kind: WriteHashSet, Key: issuedKey(shard, conn.ID), Args: []string{fieldIssued, strconv.FormatInt(millis(s.cfg.Now()), 10)}}},
		}
		r, err := s.trails.do(ctx, trailName{shard: shard, tenant: conn.Tenant}, "", step, drafts)
		if err != nil {
			return broker.Secret{}, fmt.Errorf("release token: %w", err)
		}
		if r.Verdict != VerdictRefused {
			return broker.NewSecret(string(token)), nil
		}
		switch r.Refused {
		case 0:
			return broker.Secret{}, fmt.Errorf("release token: %w", broker.ErrNotFound)
		case 1:
			return broker.Secret{}, fmt.Errorf("release token: %w", broker.ErrNewerFormat)
		case 2, 3:
			return broker.Secret{}, fmt.Errorf("release token: %w", broker.ErrConflict)
		}
		if attempt > 0 {
			// The same generation with another value, twice: nobody of ours writes so.
			return broker.Secret{}, fmt.Errorf("release token: %w", broker.ErrIntegrity)
		}
	}
}

// sealedToken reads the sealed token from the store.
func (s *Store) sealedToken(ctx context.Context, conn broker.Connection, tokenKey string) (string, error) {
	now, record, err := s.load(ctx, conn.Tenant, conn.ID)
	if err != nil {
		return "", fmt.Errorf("release token: %w", err)
	}
	if now.Generation != conn.Generation || now.Status != broker.ConnectionActive {
		return "", fmt.Errorf("release token: %w", broker.ErrConflict)
	}
	// After a failover another write may have made the same generation: then it is another token, and nobody changed anything.
	had, _ := conn.Token(tokenKey)
	if is, there := now.Token(tokenKey); !there || !is.ExpiresAt.Equal(had.ExpiresAt) || !is.Scopes.Equal(had.Scopes) {
		return "", fmt.Errorf("release token: %w", broker.ErrConflict)
	}
	return string(record[fieldAccess+tokenKey]), nil
}

// connectionIndexes are the index entries of a connection beside its record.
func (s *Store) connectionIndexes(shard byte, conn broker.Connection) []Write {
	return append([]Write{
		{Kind: WriteSortedAdd, Key: subjectKey(shard, s.subjectTag(conn.Tenant, conn.Subject)), Args: []string{"0", conn.ID}},
		{Kind: WriteSortedAdd, Key: tenantKey(shard, conn.Tenant), Args: []string{"0", conn.ID}},
	}, scheduleWrites(shard, conn)...)
}
