package main

import (
	"context"
	"crypto/rand"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
	"tokenbroker/vault/vaulttest"
)

// pageLimit is how much a page of the tests has.
const pageLimit = 50

// cost is what a page asks of Redis.
type cost struct{ trips, commands, records, entries int }

func (c cost) over(most cost) bool {
	return c.trips > most.trips || c.commands > most.commands || c.records > most.records || c.entries > most.entries
}

// counted counts what a store reads.
type counted struct {
	*redisstore.Store
	cost
}

func (c *counted) Counts(ctx context.Context, queries []vault.RangeQuery) ([]int, error) {
	c.trips++
	return c.Store.Counts(ctx, queries)
}

func (c *counted) Indexed(ctx context.Context, queries []vault.IndexQuery) ([][]vault.Indexed, error) {
	c.trips++
	found, err := c.Store.Indexed(ctx, queries)
	for _, of := range found {
		c.records += len(of)
	}
	return found, err
}

func (c *counted) Streams(ctx context.Context, queries []vault.StreamQuery) ([][]vault.StreamEntry, error) {
	c.trips++
	found, err := c.Store.Streams(ctx, queries)
	for _, of := range found {
		c.entries += len(of)
	}
	return found, err
}

func (c *counted) Hashes(ctx context.Context, keys []string) ([]map[string][]byte, error) {
	c.trips++
	return c.Store.Hashes(ctx, keys)
}

func (c *counted) ListLengths(ctx context.Context, keys []string) ([]int64, error) {
	c.trips++
	return c.Store.ListLengths(ctx, keys)
}

func (c *counted) ListHeads(ctx context.Context, heads []vault.ListHead) ([]string, error) {
	c.trips++
	return c.Store.ListHeads(ctx, heads)
}

// TestPagesCostTheSame counts what a page asks of Redis in stores of three sizes: no page may cost more because there is more, nor
// because there is little.
func TestPagesCostTheSame(t *testing.T) {
	const records, streams = pageLimit + 1, 256
	pages := []struct {
		name  string
		most  cost // in any of the stores
		fetch fetchPage
	}{
		// Three trips where the store has few: 32 counts, the other 224, and the records with what is beside each.
		{"connections", cost{trips: 3, commands: streams + 64 + 2*records, records: records}, listPage(broker.ConnectionFilter{})},
		{"connections of a connector", cost{trips: 3, commands: streams + 64 + 2*records, records: records}, listPage(broker.ConnectionFilter{Connector: benchConnector})},
		{"events", cost{trips: 6, commands: streams + 64, entries: 4 * streams}, eventsPage(broker.EventFilter{})},
		{"events of a type, from a time on", cost{trips: 6, commands: 2 * streams, entries: 8 * streams}, eventsPage(broker.EventFilter{
			Type: broker.EventTokenIssued, Since: time.Now().Add(-20 * 24 * time.Hour),
		})},
		{"newest events", cost{trips: 6, commands: streams + 64, entries: 4 * streams}, searchPage(broker.EventFilter{})},
		{"newest events of an agent", cost{trips: 60, commands: 4000, entries: 4000}, searchPage(broker.EventFilter{Agent: "agent-7"})},
	}
	found := map[string][]cost{}
	for _, n := range []int{40, 800, 4000} {
		server := vaulttest.StartRedis(t, "--appendfsync", "no")
		spec := testSpec(t, server, n, 12*n)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		if _, err := seed(ctx, spec); err != nil {
			t.Fatal(err)
		}
		store, backend := countedStore(t, spec)
		for _, p := range pages {
			position := ""
			for page := range 3 { // the first, and two behind it
				backend.cost = cost{}
				before := commandCount(t, server)
				shown, next := p.fetch(ctx, t, store, position)
				c := backend.cost
				c.commands = commandCount(t, server) - before
				if c.over(p.most) {
					t.Errorf("%s, page %d, %d connections: %+v, at most %+v", p.name, page+1, n, c, p.most)
				}
				if page == 0 {
					found[p.name] = append(found[p.name], c)
				}
				if shown == 0 && n > 40 {
					t.Errorf("%s, page %d, %d connections: nothing is shown", p.name, page+1, n)
				}
				if position = next; next == "" {
					break
				}
			}
		}
	}
	for _, p := range pages {
		t.Logf("%s: %+v", p.name, found[p.name])
		if few, many := found[p.name][1], found[p.name][2]; many.commands*5 > few.commands*6 || many.trips > few.trips+2 {
			t.Errorf("%s: five times as many records cost %+v in place of %+v", p.name, many, few)
		}
	}
}

func countedStore(t *testing.T, spec seedSpec) (*vault.Store, *counted) {
	t.Helper()
	redis, err := redisstore.New(redisstore.Config{URL: spec.Redis})
	if err != nil {
		t.Fatal(err)
	}
	backend := &counted{Store: redis}
	store, err := vault.New(vault.Config{Backend: backend, Keyset: spec.Keyset, Now: time.Now, Random: rand.Reader, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close(); _ = redis.Close() })
	return store, backend
}

// commandCount is how many commands the server has carried out, those within scripts too, but not the scripts themselves, nor what
// asks this.
func commandCount(t *testing.T, server *vaulttest.Redis) (n int) {
	t.Helper()
	info, err := redisInfo(t.Context(), server.Addr, "commandstats")
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range info {
		switch strings.TrimPrefix(name, "cmdstat_") {
		case "info", "eval", "evalsha", "hello", "client|setinfo", "time":
			continue
		}
		calls, _, _ := strings.Cut(strings.TrimPrefix(value, "calls="), ",")
		k, err := strconv.Atoi(calls)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		n += k
	}
	return n
}

type fetchPage = func(ctx context.Context, t *testing.T, s *vault.Store, position string) (shown int, next string)

func listPage(filter broker.ConnectionFilter) fetchPage {
	return func(ctx context.Context, t *testing.T, s *vault.Store, position string) (int, string) {
		page, next, err := s.List(ctx, benchTenant, filter, position, pageLimit)
		if err != nil {
			t.Fatal(err)
		}
		return len(page), next
	}
}

func eventsPage(filter broker.EventFilter) fetchPage {
	return func(ctx context.Context, t *testing.T, s *vault.Store, position string) (int, string) {
		page, next, err := s.Events(ctx, benchTenant, filter, position, pageLimit)
		if err != nil {
			t.Fatal(err)
		}
		return len(page), next
	}
}

func searchPage(filter broker.EventFilter) fetchPage {
	return func(ctx context.Context, t *testing.T, s *vault.Store, position string) (int, string) {
		page, err := s.SearchEvents(ctx, benchTenant, broker.EventSearch{Filter: filter, Position: position, Limit: pageLimit})
		if err != nil {
			t.Fatal(err)
		}
		return len(page.Events), page.Next
	}
}
