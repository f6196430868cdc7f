package brokertest

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"tokenbroker/broker"
)

// Classes is part of broker.ConnectionIndex, which is never behind here.
func (s *Store) Classes(ctx context.Context) ([]broker.ClassCount, error) {
	done, err := s.enter(ctx, "Classes")
	if err != nil {
		return nil, err
	}
	defer done()
	var out []broker.ClassCount
	for _, c := range s.indexed(func(broker.ConnectionClass) bool { return true }) {
		class := broker.ConnectionClassOf(c, s.Now())
		at := slices.IndexFunc(out, func(o broker.ClassCount) bool {
			return o.Tenant == class.Tenant && o.Connector == class.Connector && o.Status == class.Status && o.Error == class.Error && o.Scopes.Equal(class.Scopes)
		})
		if at < 0 {
			at, out = len(out), append(out, broker.ClassCount{ConnectionClass: class})
		}
		out[at].Count++
	}
	return out, nil
}

// Tenants is part of broker.Connections.
func (s *Store) Tenants(ctx context.Context) ([]string, error) {
	done, err := s.enter(ctx, "Tenants")
	if err != nil {
		return nil, err
	}
	defer done()
	var all []string
	for _, r := range s.records {
		all = append(all, r.conn.Tenant)
	}
	for _, e := range s.Trail {
		all = append(all, e.Tenant)
	}
	slices.Sort(all)
	return slices.DeleteFunc(slices.Compact(all), func(tenant string) bool { return tenant == "" }), nil
}

func indexPosition(c broker.Connection) string {
	return fmt.Sprintf("%011x%s", c.CreatedAt.UnixMilli(), c.ID)
}

// indexed are the connections that match, oldest first.
func (s *Store) indexed(match func(broker.ConnectionClass) bool) []broker.Connection {
	var out []broker.Connection
	for _, r := range s.records {
		if match(broker.ConnectionClassOf(r.conn, s.Now())) && (s.NotIndexed == nil || !s.NotIndexed(r.conn)) {
			out = append(out, r.conn)
		}
	}
	slices.SortFunc(out, func(a, b broker.Connection) int { return cmp.Compare(indexPosition(a), indexPosition(b)) })
	return out
}

// NewestOf is part of broker.ConnectionIndex.
func (s *Store) NewestOf(ctx context.Context, match func(broker.ConnectionClass) bool, since, until time.Time, position string, limit int) ([]broker.Connection, string, error) {
	done, err := s.enter(ctx, "NewestOf")
	if err != nil {
		return nil, "", err
	}
	defer done()
	all := s.indexed(match)
	slices.Reverse(all)
	all = slices.DeleteFunc(all, func(c broker.Connection) bool {
		return position != "" && indexPosition(c) >= position || c.CreatedAt.Before(since) || !until.IsZero() && !c.CreatedAt.Before(until)
	})
	return indexPage(all, limit)
}

// OldestOf is part of broker.ConnectionIndex.
func (s *Store) OldestOf(ctx context.Context, match func(broker.ConnectionClass) bool, position string, limit int) ([]broker.Connection, string, error) {
	done, err := s.enter(ctx, "OldestOf")
	if err != nil {
		return nil, "", err
	}
	defer done()
	return indexPage(slices.DeleteFunc(s.indexed(match), func(c broker.Connection) bool { return indexPosition(c) <= position }), limit)
}

func indexPage(all []broker.Connection, limit int) ([]broker.Connection, string, error) {
	if len(all) <= limit {
		return all, "", nil
	}
	return all[:limit], indexPosition(all[limit-1]), nil
}

// Ending is part of broker.ConnectionIndex.
func (s *Store) Ending(ctx context.Context, tenant func(string) bool, before time.Time, limit int) ([]broker.Connection, int, error) {
	done, err := s.enter(ctx, "Ending")
	if err != nil {
		return nil, 0, err
	}
	defer done()
	all := s.indexed(func(c broker.ConnectionClass) bool { return tenant(c.Tenant) && c.Status == broker.ConnectionActive })
	all = slices.DeleteFunc(all, func(c broker.Connection) bool { return c.ExpiresAt().IsZero() || !c.ExpiresAt().Before(before) })
	slices.SortStableFunc(all, func(a, b broker.Connection) int { return a.ExpiresAt().Compare(b.ExpiresAt()) })
	return all[:min(limit, len(all))], len(all), nil
}

// SealedBy is part of broker.ConnectionIndex: nothing is sealed here.
func (s *Store) SealedBy(ctx context.Context) (broker.Seals, error) {
	done, err := s.enter(ctx, "SealedBy")
	if err != nil {
		return broker.Seals{}, err
	}
	defer done()
	return broker.Seals{Records: len(s.records), At: s.Now(), Primary: 1, ByKey: map[uint32]int{1: len(s.records)}}, nil
}
