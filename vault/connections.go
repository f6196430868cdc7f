package vault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"tokenbroker/broker"
)

// OfSubject implements broker.Connections. Records of other connectors than the one that is asked for are not opened.
func (s *Store) OfSubject(ctx context.Context, tenant, subject, connector string) ([]broker.Connection, error) {
	items, _, err := s.indexed(ctx, tenant, s.ofSubject(s.Shard(tenant, subject), tenant, subject), nil)
	if err != nil {
		return nil, err
	}
	return s.openSubject(tenant, subject, connector, items)
}

// OfSubjectSwitched implements broker.SwitchBoard.
func (s *Store) OfSubjectSwitched(ctx context.Context, tenant, subject, connector string) ([]broker.Connection, broker.SwitchTable, error) {
	shard := s.Shard(tenant, subject)
	items, beside, err := s.indexed(ctx, tenant, s.switchedSubject(shard, tenant, subject), nil)
	if err != nil {
		return nil, broker.SwitchTable{}, err
	}
	table, err := s.switches.standing(ctx, s, shard, beside)
	if err != nil {
		return nil, broker.SwitchTable{}, err
	}
	conns, err := s.openSubject(tenant, subject, connector, items)
	return conns, table, err
}

// switchedSubject asks for the subject's connections and for the mark of the switches.
func (s *Store) switchedSubject(shard byte, tenant, subject string) IndexQuery {
	query := s.ofSubject(shard, tenant, subject)
	query.Beside = switchesKey(shard)
	return query
}

// ofSubject asks for the subject's connections.
func (s *Store) ofSubject(shard byte, tenant, subject string) IndexQuery {
	return IndexQuery{Index: subjectKey(shard, s.subjectTag(tenant, subject)), Records: connectionPrefix(shard), Extra: issuedPrefix(shard)}
}

// openSubject opens the subject's connections to the connector.
func (s *Store) openSubject(tenant, subject, connector string, items []Indexed) ([]broker.Connection, error) {
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
		s.guesses.forget(tenant, subject, connector)
		return conns, &broker.UnreadableError{IDs: unreadable, Cause: bad}
	}
	s.note(tenant, subject, connector, items, conns)
	return conns, nil
}

// indexed reads a subject's connections, and again those of which the store lost a write; and what lies beside them. first, if not
// nil, was read already.
func (s *Store) indexed(ctx context.Context, tenant string, query IndexQuery, first []Indexed) (items []Indexed, beside map[string][]byte, err error) {
	for attempt := 1; ; attempt++ {
		items, again := first, false
		if first = nil; items == nil {
			found, err := readPatiently(ctx, func(ctx context.Context) ([][]Indexed, error) {
				return s.cfg.Backend.Indexed(ctx, []IndexQuery{query})
			})
			if err != nil {
				return nil, nil, err
			}
			items = found[0]
		}
		if query.Beside != "" && len(items) > 0 {
			beside, items = items[0].Record, items[1:]
		}
		for _, item := range items {
			changed, err := s.healed(ctx, tenant, item.Member, item.Record)
			if err != nil {
				return nil, nil, err
			}
			again = again || changed
		}
		for _, id := range s.missing(query.Index, items) {
			_, record, err := s.load(ctx, tenant, id)
			if err != nil && !errors.Is(err, broker.ErrNotFound) && len(record) == 0 {
				return nil, nil, err
			}
			again = again || len(record) > 0
		}
		if !again || attempt == healAttempts {
			return items, beside, nil
		}
	}
}

// anotherConnectors tells by the clear header alone whose record it is not, so that one that does not open keeps nobody
// from the subject's connections to other connectors. Who changes a header can hide a connection by it, no more than by
// taking it out of the index. Of a record that a newer program wrote the header may say anything: that is nobody else's until
// somebody can read it, for else the user would be asked for a consent that he has given.
func anotherConnectors(record map[string][]byte, connector string) bool {
	if checkFormat(string(record[fieldFormat]), connectionFormat) != nil {
		return false
	}
	h, ok := readHeader(record)
	return ok && h.Connector != "" && h.Connector != connector
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
		token, err := s.openAccess(conn.Tenant, conn.ID, info, []byte(sealed))
		if err != nil && ok && attempt == 0 {
			continue // remembered from before a failover: the generation was made once more since, with another token
		}
		if err != nil {
			return broker.Secret{}, fmt.Errorf("release token: %w", err)
		}
		step := Step{
			Checks: []Check{
				{Key: key, Field: fieldTenant, Kind: CheckEqual, Value: conn.Tenant},
				{Key: key, Field: fieldFormat, Kind: CheckAtMost, Value: connectionFormat},
				{Key: key, Field: fieldGeneration, Kind: CheckEqual, Value: strconv.FormatInt(conn.Generation, 10)},
				{Key: key, Field: fieldStatus, Kind: CheckEqual, Value: string(broker.ConnectionActive)},
				{Key: key, Field: fieldAccess + tokenKey, Kind: CheckEqual, Value: sealed},
				switchCheck(shard, conn.Switches),
			},
			// In a key of its own: what changes with every use must never share a write with credentials.
			Writes: []Write{{Kind: WriteHashSet, Key: issuedKey(shard, conn.ID), Args: []string{fieldIssued, strconv.FormatInt(millis(s.cfg.Now()), 10)}}},
		}
		r, err := s.trails.do(ctx, trailName{shard: shard, tenant: conn.Tenant}, "", step, drafts)
		if err != nil {
			return broker.Secret{}, fmt.Errorf("release token: %w", err)
		}
		if r.Verdict != VerdictRefused {
			return token, nil
		}
		switch r.Refused {
		case 0:
			return broker.Secret{}, fmt.Errorf("release token: %w", broker.ErrNotFound)
		case 1:
			return broker.Secret{}, fmt.Errorf("release token: %w", broker.ErrNewerFormat)
		case 2, 3, 5: // 5: a switch was thrown
			return broker.Secret{}, fmt.Errorf("release token: %w", broker.ErrConflict)
		}
		if attempt > 1 {
			// The same generation with another value, three times: nobody of ours writes so. It is sealed anew once at the most.
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
	}, s.followWrites(shard, conn)...)
}
