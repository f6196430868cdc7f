package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"tokenbroker/broker"
)

const (
	// recentBudget bounds how many entries one page of Recent looks at: a subject shares its stream with one in 256 others, and
	// one that did little lately must not make a page read the stream of a year. Some 6 MB and 20 round trips at most.
	recentBudget = 10000
	// recentChunk is how many are read at once: less than a millisecond of the store's.
	recentChunk = 500
)

// Recent implements broker.Audit. What an entry has in clear tells whose it is and of which type, so only those that are wanted
// are opened.
func (s *Store) Recent(ctx context.Context, tenant, subject string, types []broker.EventType, position string, limit int) ([]broker.Entry, string, error) {
	name := trailName{shard: s.Shard(tenant, subject), tenant: tenant}
	tag := s.auditTag(tenant, subject)
	before := "+"
	if position != "" {
		p, err := parseEventPosition(position)
		if err != nil {
			return nil, "", err
		}
		before = "(" + p.id.String()
	}
	var out []broker.Entry
	var last streamID // of what is in out, or was passed over before there is more than limit
	for scanned := 0; scanned < recentBudget; scanned += recentChunk {
		query := StreamQuery{Key: streamKey(name.shard, tenant), From: "-", To: before, Limit: recentChunk, Newest: true}
		found, err := readPatiently(ctx, func(ctx context.Context) ([][]StreamEntry, error) {
			return s.cfg.Backend.Streams(ctx, []StreamQuery{query})
		})
		if err != nil {
			return nil, "", err
		}
		for _, e := range found[0] {
			id, err := parseStreamID(e.ID)
			if err != nil {
				return nil, "", fmt.Errorf("read audit trail: %w", err)
			}
			entry, wanted, err := s.recentEntry(name, e, tag, subject, types)
			if errors.Is(err, broker.ErrKeyNotYet) {
				return nil, "", err // another replica has the key, and an answer without the entry would be none
			}
			if err != nil {
				// One bad entry must not hide the others; verify names it.
				s.cfg.Log.ErrorContext(ctx, "audit entry can't be read", "stream", name.String(), "entry", e.ID, "error", err)
			}
			if wanted {
				if len(out) == max(1, limit) {
					return out, eventPosition{id: last, shard: name.shard}.encode(), nil
				}
				out = append(out, entry)
			}
			last = id
			before = "(" + e.ID
		}
		if len(found[0]) < recentChunk {
			return out, "", nil
		}
	}
	return out, eventPosition{id: last, shard: name.shard}.encode(), nil
}

func (s *Store) recentEntry(name trailName, e StreamEntry, tag, subject string, types []broker.EventType) (broker.Entry, bool, error) {
	clear, _, err := parseMeta(e.Meta)
	if err != nil {
		return broker.Entry{}, false, err
	}
	if clear.tag != tag || !slices.Contains(types, broker.EventType(clear.kind)) {
		return broker.Entry{}, false, nil
	}
	_, stored, err := s.openEntry(name, e.TrailEntry)
	if err != nil {
		return broker.Entry{}, false, err
	}
	// The tag is short: another subject may have the same one.
	return stored.entry(), stored.Subject == subject, nil
}
