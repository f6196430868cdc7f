package vault

import (
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
)

// instant is a store that has one record and answers at once that a step was carried out.
type instant struct {
	Backend
	record map[string][]byte
}

func (b *instant) Apply(_ context.Context, steps []Step) []Result {
	results := make([]Result, len(steps))
	for i := range steps {
		results[i] = Result{Verdict: VerdictDone, Head: steps[i].Trail.Next, HeadID: "1764460800000-0", IDs: []string{"1764460800000-0"}, Reads: []map[string][]byte{b.record}}
	}
	return results
}

func (b *instant) Hashes(_ context.Context, keys []string) ([]map[string][]byte, error) {
	return make([]map[string][]byte, len(keys)), nil
}

// releaseRig is a store over such a backend, and a guess that it serves.
func releaseRig(t testing.TB) (*Store, broker.Guess, broker.Entry) {
	t.Helper()
	keyset, err := NewEphemeralKeyset()
	if err != nil {
		t.Fatal(err)
	}
	b := &instant{}
	s, err := New(Config{Backend: b, Keyset: keyset, Now: time.Now, Random: rand.Reader, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Guesses: 4096})
	if err != nil {
		t.Fatal(err)
	}
	scopes := broker.ParseScopes("https://www.example.com/auth/files.read https://www.example.com/auth/files.write https://www.example.com/auth/calendar")
	info := broker.AccessTokenInfo{Scopes: scopes, ExpiresAt: time.Now().Add(time.Hour).UTC().Truncate(time.Second)}
	shard := s.Shard("acme", "user-4711")
	conn := broker.Connection{
		Tenant: "acme", Subject: "user-4711", Connector: "files", Client: "chat", Status: broker.ConnectionActive, Scopes: scopes, Renewable: true, Generation: 3,
		CreatedAt: time.Now(), LastRefreshed: time.Now(), Lifetime: time.Hour, Tokens: []broker.AccessTokenInfo{info},
		Account: broker.Account{ID: "1234567890", Name: "Alice Example", Email: "alice@example.com"},
	}
	made := madeUp(shard, "", time.Now())
	conn.ID = made.id
	fields, err := s.connectionFields(conn, 3, 3, "AAAAAAAAAAAAAAAA")
	if err != nil {
		t.Fatal(err)
	}
	record := map[string][]byte{}
	for i := 0; i < len(fields); i += 2 {
		record[fields[i]] = []byte(fields[i+1])
	}
	sealed, err := s.sealAccess("acme", conn.ID, info, broker.NewSecret(strings.Repeat("token.", 160)))
	if err != nil {
		t.Fatal(err)
	}
	record[fieldAccess] = []byte(sealed)
	b.record = record
	if _, err := s.openSubject("acme", "user-4711", "files", []Indexed{{Member: conn.ID, Record: record}}); err != nil {
		t.Fatal(err)
	}
	guess, ok := s.Guess("acme", "user-4711", "files")
	if !ok {
		t.Fatal("nothing is remembered")
	}
	entry := broker.Entry{
		Type: broker.EventTokenIssued, Time: time.Now(), Tenant: "acme", Client: "chat", Subject: "user-4711", Actor: broker.Actor{Agent: "assistant", Run: "run-1", Tool: "search"},
		Connector: "files", Connection: conn.ID, Outcome: "ok", Reason: "to find the report", RequestID: "AAAAAAAAAAAAAAAAAAAAAA",
	}
	for i, scope := range scopes.All() {
		entry.Scopes = append(entry.Scopes, broker.EventScope{ID: strings.Repeat("e", 23) + string(rune('0'+i)), Scope: scope, Requested: i < 2})
	}
	return s, guess, entry
}

// BenchmarkReleaseGuessed is what the vault does for one token, without the store: the guess, the sealed entry and its place in the
// chain, and what opens of the record.
func BenchmarkReleaseGuessed(b *testing.B) {
	s, _, entry := releaseRig(b)
	b.ReportAllocs()
	for b.Loop() {
		guess, ok := s.Guess("acme", "user-4711", "files")
		if !ok {
			b.Fatal("nothing is remembered")
		}
		if _, _, err := s.ReleaseGuessed(context.Background(), guess, entry); err != nil {
			b.Fatal(err)
		}
	}
}
