package vault

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"strconv"
	"testing"
	"time"

	"tokenbroker/broker"
)

// madeUp is a connection of that shard and scopes.
func madeUp(shard byte, scopes string, expires time.Time) guessed {
	raw := make([]byte, 18)
	_, _ = rand.Read(raw)
	raw[0] = shard ^ raw[17]
	write := rand.Text()
	return guessed{
		id: base64.RawURLEncoding.EncodeToString(raw), state: StateDigest([]string{write}, write)[:2*stateBytes], write: writeHash(write),
		scopes: broker.ParseScopes(scopes), expires: expires.UTC().Truncate(time.Second),
	}
}

func (g guessed) equal(other guessed) bool {
	return g.id == other.id && g.state == other.state && g.write == other.write && g.scopes.Equal(other.scopes) && g.expires.Equal(other.expires)
}

// What is remembered comes back as it was, of nobody else, and not after it was forgotten.
func TestGuesses(t *testing.T) {
	g := newGuesses(4096)
	all := map[string]guessed{}
	for i := range 2000 {
		subject, shard := fmt.Sprint("u", i), byte(i)
		all[subject] = madeUp(shard, fmt.Sprint("a b s", i%40), time.Now().Add(time.Duration(i)*time.Second))
		g.put("acme", subject, "files", all[subject])
	}
	missing, i := 0, 0
	for i = range 2000 {
		subject, shard := fmt.Sprint("u", i), byte(i)
		got, ok := g.get("acme", subject, "files", shard)
		switch {
		case !ok:
			missing++ // its bucket was full
		case !got.equal(all[subject]):
			missing++ // another one with its tag; the store will say so
		}
		// Another name is found by chance only, once in thousands.
		if got, ok := g.get("acm", "e"+subject, "files", shard); ok && got.id == all[subject].id {
			t.Errorf("%s is found under another tenant's name", subject)
		}
	}
	// 2000 in 512 buckets of 8 leave 15 without a slot, with a standard deviation of 5.5: more than 80 once in 10^13 runs.
	if missing > 80 {
		t.Errorf("%d of 2000 are not remembered, in twice the room", missing)
	}
	next := madeUp(7, "a", time.Now().Add(time.Hour))
	g.put("acme", "u7", "files", next)
	if got, ok := g.get("acme", "u7", "files", 7); !ok || !got.equal(next) {
		t.Errorf("of u7 is remembered %+v, want %+v", got, next)
	}
	g.forget("acme", "u7", "files")
	if _, ok := g.get("acme", "u7", "files", 7); ok {
		t.Error("u7 was not forgotten")
	}
}

// However many come, the room stays what it is; and what can't be said in a slot is not remembered.
func TestGuessesAreBounded(t *testing.T) {
	g := newGuesses(64)
	for i := range 10_000 {
		g.put("acme", fmt.Sprint(i), "files", madeUp(1, "a", time.Now().Add(time.Duration(i)*time.Minute)))
	}
	if got := len(g.table); got != 64*slotBytes {
		t.Errorf("%d bytes", got)
	}
	for what, odd := range map[string]func(*guessed){
		"an id of another kind": func(g *guessed) { g.id = "conn-1" }, "an id that is longer": func(g *guessed) { g.id += "AAAA" },
		"no state": func(g *guessed) { g.state = "" }, "no end": func(g *guessed) { g.expires = time.Time{} }, "a far end": func(g *guessed) { g.expires = time.Unix(1<<40, 0) },
	} {
		one := madeUp(1, "a", time.Now().Add(time.Hour))
		odd(&one)
		g.put("acme", what, "files", one)
		if got, ok := g.get("acme", what, "files", 1); ok && got.id == one.id {
			t.Errorf("%s is remembered", what)
		}
	}
	none := newGuesses(0)
	none.put("acme", "u", "files", madeUp(1, "a", time.Now().Add(time.Hour)))
	none.forget("acme", "u", "files")
	if _, ok := none.get("acme", "u", "files", 1); ok {
		t.Error("something is remembered where there is no room")
	}
	many := newGuesses(64)
	for i := range maxGuessScopes + 10 {
		many.put("acme", "u", "files", madeUp(1, fmt.Sprint("s", i), time.Now().Add(time.Hour)))
	}
	if len(many.sets) > maxGuessScopes {
		t.Errorf("%d sets of scopes", len(many.sets))
	}
}

// A million fit into the default, as a tenth of them into a tenth of it: those that find no room, or whose tag is another one's too, are a few in a hundred at most. With
// one bucket for each it would be one in ten.
func TestFullGuesses(t *testing.T) {
	const n = 100_000
	g := newGuesses(defaultGuesses / 10)
	one := madeUp(1, "a", time.Now().Add(time.Hour))
	for i := range n {
		g.put("acme", strconv.Itoa(i), "files", one)
	}
	missing := 0
	for i := range n {
		if _, ok := g.get("acme", strconv.Itoa(i), "files", 1); !ok {
			missing++
		}
	}
	used := 0
	for i := 0; i < len(g.table); i += slotBytes {
		if !vacant(g.table[i : i+slotBytes]) {
			used++
		}
	}
	if missing > n*2/100 || used < n*98/100 {
		t.Errorf("of %d %d are not found, and %d lie there", n, missing, used)
	}
}

// Of two buckets that are full the token that ends first makes room.
func TestGuessesMakeRoom(t *testing.T) {
	g := newGuesses(guessWays)
	for i := range 10 * guessWays {
		g.put("acme", fmt.Sprint("u", i), "files", madeUp(1, "a", time.Now().Add(time.Duration(i+1)*time.Minute)))
	}
	gone := 0
	for i := 9 * guessWays; i < 10*guessWays; i++ {
		if _, ok := g.get("acme", fmt.Sprint("u", i), "files", 1); !ok {
			gone++
		}
	}
	if gone > 1 { // one may have the tag of another one
		t.Errorf("%d whose tokens are among those that end last have no room", gone)
	}
}

func BenchmarkGuess(b *testing.B) {
	g := newGuesses(defaultGuesses)
	for i := range 100_000 {
		g.put("acme", fmt.Sprint("user-", i), "files", madeUp(byte(i), "a b c", time.Now().Add(time.Hour)))
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			g.get("acme", "user-4711", "files", 4711%256)
		}
	})
}
