package vault

import (
	"context"
	"crypto/rand"
	"log/slog"
	"slices"
	"testing"
	"time"

	"tokenbroker/broker"
)

// streams is a backend with one stream, newest entry first.
type streams struct {
	Backend
	entries []StreamEntry
}

func (b streams) Streams(context.Context, []StreamQuery) ([][]StreamEntry, error) {
	return [][]StreamEntry{b.entries}, nil
}

// What an entry has in clear of its subject is short. Two subjects of one stream for whom it is the same still don't see each
// other's entries.
func TestRecentKeepsSubjectsWithTheSameTagApart(t *testing.T) {
	keyset, err := NewEphemeralKeyset()
	if err != nil {
		t.Fatal(err)
	}
	backend := &streams{}
	s, err := New(Config{Backend: backend, Keyset: keyset, Now: time.Now, Random: rand.Reader, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	name := trailName{shard: s.Shard("acme", "alice"), tenant: "acme"}
	for i, subject := range []string{"mallory", "alice", "mallory"} {
		drafts, err := s.drafts("acme", []broker.Entry{{Type: broker.EventTokenIssued, Time: time.Now(), Tenant: "acme", Subject: subject}})
		if err != nil {
			t.Fatal(err)
		}
		d := drafts[0]
		m := meta{writer: "w", seq: uint64(i + 1), time: d.time, kind: d.kind, tag: s.auditTag("acme", "alice")}
		e := StreamEntry{ID: streamID{ms: uint64(9 - i)}.String()}
		e.Meta = m.chain(link{}, d.payload)
		if e.Body, err = s.seals.sealBody(name, d.payload, e.Meta); err != nil {
			t.Fatal(err)
		}
		backend.entries = append(backend.entries, e)
	}
	got, next, err := s.Recent(t.Context(), "acme", "alice", []broker.EventType{broker.EventTokenIssued}, "", 10)
	if err != nil || next != "" || len(got) != 1 || slices.ContainsFunc(got, func(e broker.Entry) bool { return e.Subject != "alice" }) {
		t.Errorf("%d entries, goes on at %q, %v", len(got), next, err)
	}
}
