package vault

import (
	"context"
	"testing"
	"time"

	"tokenbroker/broker"
)

// clocks answers with the times of a cluster's nodes, one pair for each question.
type clocks struct {
	Backend
	pairs [][2]int64
	asked int
}

func (c *clocks) Clock(context.Context) (earliest, latest time.Time, err error) {
	pair := c.pairs[min(c.asked, len(c.pairs)-1)]
	c.asked++
	return time.UnixMilli(pair[0]), time.UnixMilli(pair[1]), nil
}

// TestPassedMoment: what a reader reads up to is over on every node, or a follower would miss what comes in it.
func TestPassedMoment(t *testing.T) {
	for _, c := range []struct {
		name  string
		pairs [][2]int64
		want  uint64
		asked int
	}{
		{"one node, the same millisecond at first", [][2]int64{{100, 100}, {100, 100}, {101, 101}}, 100, 3},
		{"clocks apart", [][2]int64{{100, 105}, {104, 109}, {105, 110}, {106, 111}}, 105, 4},
		{"clocks too far apart", [][2]int64{{100, 9000}}, 99, clockPatience},
	} {
		backend := &clocks{pairs: c.pairs}
		s := &Store{cfg: Config{Backend: backend}}
		got, err := s.passedMoment(t.Context())
		if err != nil || got != c.want || backend.asked != c.asked {
			t.Errorf("%s: %d after %d questions, %v; want %d after %d", c.name, got, backend.asked, err, c.want, c.asked)
		}
	}
}

func TestEventPosition(t *testing.T) {
	p := eventPosition{id: streamID{ms: 1800000000000, n: 7}, shard: 200, event: 3}
	back, err := parseEventPosition(p.encode())
	if err != nil || back != p {
		t.Errorf("%+v, %v", back, err)
	}
	if got := p.from(199); got != "(1800000000000-7" {
		t.Errorf("in a shard before: from %s", got)
	}
	for _, shard := range []byte{200, 201} {
		if got := p.from(shard); got != "1800000000000-7" {
			t.Errorf("in shard %d: from %s", shard, got)
		}
	}
	for _, bad := range []string{"x", "AAAA", p.encode() + "A"} {
		if _, err := parseEventPosition(bad); err == nil {
			t.Errorf("%q was taken for a position", bad)
		}
	}
}

func TestReadyTokensAreBounded(t *testing.T) {
	ready := newRecent[readyKey, string](3)
	for i := range 10 {
		ready.put(readyKey{id: "a", generation: int64(i)}, "x")
		ready.put(readyKey{id: "a", generation: int64(i)}, "y") // the same again takes no further place
	}
	if len(ready.all) != 3 {
		t.Errorf("%d remembered", len(ready.all))
	}
	if got, ok := ready.get(readyKey{id: "a", generation: 9}); !ok || got != "y" {
		t.Errorf("the newest: %q, %v", got, ok)
	}
	if _, ok := ready.get(readyKey{id: "a", generation: 6}); ok {
		t.Error("the oldest is still there")
	}
}

// A write id is the same for the same write, and for no other.
func TestWriteID(t *testing.T) {
	entry := func(id string) []broker.Entry { return []broker.Entry{{Scopes: []broker.EventScope{{ID: id}}}} }
	if a, b := writeID("op", "r", 1, entry("e")), writeID("op", "r", 1, entry("e")); a != b || a == "" {
		t.Errorf("%q and %q", a, b)
	}
	seen := map[string]bool{writeID("op", "r", 1, entry("e")): true}
	for _, other := range []string{
		writeID("op2", "r", 1, entry("e")), writeID("op", "r2", 1, entry("e")), writeID("op", "r", 2, entry("e")), writeID("op", "r", 1, entry("e2")),
		writeID("op", "r", 1, entry("e"), "owner"), writeID("op", "r", 1, nil, "owner"),
	} {
		if seen[other] || other == "" {
			t.Errorf("write id %q twice or empty", other)
		}
		seen[other] = true
	}
	if got := writeID("op", "r", 1, nil) + writeID("op", "r", 1, entry("")); got != "" {
		t.Errorf("nothing tells these writes apart, yet they have the id %q", got)
	}
}
