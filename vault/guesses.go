package vault

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"hash/fnv"
	"hash/maphash"
	"io"
	"runtime"
	"sync"
	"time"

	"tokenbroker/broker"
)

// guesses remembers, for the connections that this process served last, what a token request needs to know before the store is
// asked: 33 bytes each, outside the garbage collector's sight, so that a million of them cost a million times that and no
// more. It keeps no secret, and no name of a tenant, subject or connector: only a hash of them. Where two have the same one, the
// guess is wrong, and the store says so.
type guesses struct {
	seed  maphash.Seed
	count uint64 // of buckets of guessWays slots
	table []byte
	locks [64]sync.Mutex

	mu      sync.RWMutex
	sets    []broker.ScopeSet
	numbers map[string]uint16 // where in sets
}

const (
	guessWays = 8
	// defaultGuesses is how many connections are remembered: 35 MiB if there are as many. Of a million one in a hundred finds no room.
	defaultGuesses = 1_100_000
	// maxGuessScopes bounds the different sets of scopes among them. Connections with others are not remembered.
	maxGuessScopes = 1 << 14

	stateBytes = 6 // of StateDigest
	slotBytes  = 2 + 2 + 4 + stateBytes + 2 + 17
)

// guessSlot is one connection; all zero: none.
//
//	0   tag: further bits of the hash
//	2   the number of the set of scopes
//	4   when the token ends: seconds since 1970, rounded down
//	8   the begin of StateDigest
//	14  a hash of the id of the record's last write
//	16  the id without its first byte, which tells the shard
type guessSlot [slotBytes]byte

// guessed is what a slot says.
type guessed struct {
	id      string
	state   string  // the begin of StateDigest
	write   [2]byte // writeHash
	scopes  broker.ScopeSet
	expires time.Time
}

func newGuesses(n int) *guesses {
	g := &guesses{seed: maphash.MakeSeed(), numbers: make(map[string]uint16), count: uint64((n + guessWays - 1) / guessWays)}
	var free func()
	g.table, free = guessMemory(int(g.count) * guessWays * slotBytes)
	// Whoever holds one of the locks keeps the table.
	runtime.AddCleanup(g, func(free func()) { free() }, free)
	return g
}

// guessPlace is where a connection may be: in either of two buckets, each with its lock. Who is new goes where there is more room,
// so that hardly any bucket is full before nearly all are.
type guessPlace struct {
	tag     [2]byte
	buckets [2][]byte
	locks   [2]*sync.Mutex
}

func (g *guesses) find(tenant, subject, connector string) (p guessPlace) {
	var h maphash.Hash
	h.SetSeed(g.seed)
	for _, part := range [...]string{tenant, subject, connector} {
		var n [4]byte
		binary.LittleEndian.PutUint32(n[:], uint32(len(part)))
		_, _ = h.Write(n[:])
		_, _ = h.WriteString(part)
	}
	sum := h.Sum64()
	p.tag = [2]byte{byte(sum), byte(sum >> 8)}
	for k, i := range [2]uint64{(sum >> 16) % g.count, (sum * 0x9e3779b97f4a7c15 >> 16) % g.count} {
		p.buckets[k], p.locks[k] = g.table[i*guessWays*slotBytes:][:guessWays*slotBytes], &g.locks[i%uint64(len(g.locks))]
	}
	return p
}

// each calls do with one bucket after the other, each under its lock, until it says that it is done.
func (p *guessPlace) each(do func(bucket []byte) (done bool)) {
	for k, bucket := range p.buckets {
		p.locks[k].Lock()
		done := do(bucket)
		p.locks[k].Unlock()
		if done {
			return
		}
	}
}

// get returns what is remembered of the subject's connection, whose id has the shard.
func (g *guesses) get(tenant, subject, connector string, shard byte) (guessed, bool) {
	if g.count == 0 {
		return guessed{}, false
	}
	p := g.find(tenant, subject, connector)
	var slot guessSlot
	there := false
	p.each(func(bucket []byte) bool {
		at := slotOf(bucket, p.tag)
		there = at != nil
		copy(slot[:], at)
		return there
	})
	if !there {
		return guessed{}, false
	}
	return g.read(slot, shard)
}

// slotOf returns the slot with the tag, nil if there is none.
func slotOf(bucket []byte, tag [2]byte) []byte {
	for i := 0; i < len(bucket); i += slotBytes {
		if slot := bucket[i : i+slotBytes]; slot[0] == tag[0] && slot[1] == tag[1] && !vacant(slot) {
			return slot
		}
	}
	return nil
}

// vacant: no token ends at 0.
func vacant(slot []byte) bool { return binary.LittleEndian.Uint32(slot[4:]) == 0 }

func (g *guesses) read(slot guessSlot, shard byte) (guessed, bool) {
	var id [18]byte
	copy(id[1:], slot[16:])
	id[0] = shard ^ id[17] // as broker.ShardOfID has it
	g.mu.RLock()
	defer g.mu.RUnlock()
	n := int(binary.LittleEndian.Uint16(slot[2:]))
	if n >= len(g.sets) {
		return guessed{}, false
	}
	return guessed{
		id: base64.RawURLEncoding.EncodeToString(id[:]), state: hex.EncodeToString(slot[8 : 8+stateBytes]),
		write: [2]byte(slot[14:16]), scopes: g.sets[n], expires: time.Unix(int64(binary.LittleEndian.Uint32(slot[4:])), 0).UTC(),
	}, true
}

// put remembers a connection. One that can't be said in a slot is not remembered.
func (g *guesses) put(tenant, subject, connector string, is guessed) {
	if g.count == 0 {
		return
	}
	slot, ok := g.slot(is)
	if !ok {
		return
	}
	p := g.find(tenant, subject, connector)
	copy(slot[:], p.tag[:])
	// Another call may come between the looks: then a bucket is a little fuller than it need be, or a guess is there twice, of which
	// the older one is wrong and costs what no guess costs.
	var vacancies [2]int
	k, known := 0, false
	p.each(func(bucket []byte) bool {
		if at := slotOf(bucket, p.tag); at != nil {
			copy(at, slot[:])
			known = true
			return true
		}
		for i := 0; i < len(bucket); i += slotBytes {
			if vacant(bucket[i : i+slotBytes]) {
				vacancies[k]++
			}
		}
		k++
		return false
	})
	if known {
		return
	}
	k = 0
	if vacancies[1] > vacancies[0] {
		k = 1
	}
	p.locks[k].Lock()
	defer p.locks[k].Unlock()
	copy(roomIn(p.buckets[k]), slot[:])
}

// roomIn is a slot for a new one: a vacant one, else that of the token that ends first, which will be another one soon anyway.
func roomIn(bucket []byte) []byte {
	at := bucket[:slotBytes]
	for i := 0; i < len(bucket); i += slotBytes {
		slot := bucket[i : i+slotBytes]
		if vacant(slot) {
			return slot
		}
		if binary.LittleEndian.Uint32(slot[4:]) < binary.LittleEndian.Uint32(at[4:]) {
			at = slot
		}
	}
	return at
}

// forget drops what is remembered.
func (g *guesses) forget(tenant, subject, connector string) {
	if g.count == 0 {
		return
	}
	p := g.find(tenant, subject, connector)
	p.each(func(bucket []byte) bool {
		if at := slotOf(bucket, p.tag); at != nil {
			clear(at)
		}
		return false // it may be in both
	})
}

func (g *guesses) slot(is guessed) (slot guessSlot, ok bool) {
	id, err := base64.RawURLEncoding.DecodeString(is.id)
	if err != nil || len(id) != 18 || len(is.state) < 2*stateBytes {
		return slot, false
	}
	if _, err := hex.Decode(slot[8:], []byte(is.state[:2*stateBytes])); err != nil {
		return slot, false
	}
	seconds := is.expires.Unix()
	if seconds <= 0 || seconds > int64(^uint32(0)) {
		return slot, false
	}
	set, ok := g.set(is.scopes)
	if !ok {
		return slot, false
	}
	copy(slot[14:], is.write[:])
	copy(slot[16:], id[1:])
	binary.LittleEndian.PutUint32(slot[4:], uint32(seconds))
	binary.LittleEndian.PutUint16(slot[2:], set)
	return slot, true
}

// writeHash tells most writes of a record from one another.
func writeHash(write string) [2]byte {
	h := fnv.New32a()
	_, _ = io.WriteString(h, write)
	return [2]byte(h.Sum(nil))
}

// set returns the number of a set of scopes.
func (g *guesses) set(scopes broker.ScopeSet) (uint16, bool) {
	key := scopes.String()
	g.mu.RLock()
	n, known := g.numbers[key]
	g.mu.RUnlock()
	if known {
		return n, true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if n, known = g.numbers[key]; known {
		return n, true
	}
	if len(g.sets) >= maxGuessScopes {
		return 0, false
	}
	n = uint16(len(g.sets))
	g.sets, g.numbers[key] = append(g.sets, scopes), n
	return n, true
}
