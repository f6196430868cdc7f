package vault

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"tokenbroker/broker"
)

// The connection index (broker/decisions/0015-connection-index.md): for each class of connections a sorted set of them by age, in
// a slot of its own. A record's write can't reach that, so it marks the record as due in its shard, in the same step, if the
// index has it elsewhere than where it belongs now; indexmove.go moves it. Readers (indexread.go) read the record of what they
// find, and show nothing that the index alone says. indexcheck.go finds what is neither right nor marked.
//
// Beside a record, in the volatile hash that says when its token was issued last:
//
//	ix      the places that the index has it at, one behind the other
//	o:PLACE a place where it may lie besides: going there, or not yet removed from there
//	mk      how often it was marked as due by somebody who did not write the record

const (
	fieldPlaces = "ix"
	fieldLoose  = "o:" // and the place
	fieldMarks  = "mk"

	setIDBytes, setIDLen = 12, 16 // of a set's keyed hash, and in base64url
	stampLen             = 11     // hexadecimal digits of ms since 1970
	placeLen             = setIDLen + stampLen
)

// indexPlace is where the index has a connection: a set's id, and the time that is before the connection's id in its member.
type indexPlace string

func (p indexPlace) set() string             { return string(p[:setIDLen]) }
func (p indexPlace) member(id string) string { return string(p[setIDLen:]) + id }
func (p indexPlace) valid() bool             { return len(p) == placeLen }

// memberID is the connection's id in a member, or what can't be one.
func memberID(member string) string { return member[min(stampLen, len(member)):] }

// stamp writes a time so that texts are in the order of times, whatever the clock said.
func stamp(t time.Time) string {
	return fmt.Sprintf("%0*x", stampLen, min(max(0, t.UnixMilli()), 1<<44-1))
}

// looseField is the field that notes that the record may lie there.
func looseField(p indexPlace) string { return fieldLoose + string(p) }

// joinPlaces puts places one behind the other.
func joinPlaces(places []indexPlace) string {
	var out strings.Builder
	for _, p := range places {
		out.WriteString(string(p))
	}
	return out.String()
}

// setShard is the shard of a set: the first byte of its hash.
func setShard(set string) byte {
	raw, err := base64.RawURLEncoding.DecodeString(set)
	if err != nil || len(raw) == 0 {
		return 0
	}
	return raw[0]
}

// splitPlaces is joinPlaces backwards.
func splitPlaces(text string) []indexPlace {
	var out []indexPlace
	for ; len(text) >= placeLen; text = text[placeLen:] {
		out = append(out, indexPlace(text[:placeLen]))
	}
	return out
}

// loosePlaces are the places of the o: fields.
func loosePlaces(beside map[string][]byte) []indexPlace {
	var out []indexPlace
	for field := range beside {
		if p, ok := strings.CutPrefix(field, fieldLoose); ok && indexPlace(p).valid() {
			out = append(out, indexPlace(p))
		}
	}
	return out
}

// classRecord is what a set is of, as the registry has it, in clear as in the records' headers. Ending sets have the active
// connections of a tenant whose end is known, by that end.
type classRecord struct {
	Tenant    string   `json:"t"`
	Connector string   `json:"c,omitempty"`
	Status    string   `json:"s,omitempty"`
	Error     string   `json:"e,omitempty"`
	Scopes    []string `json:"sc,omitempty"`
	Ending    bool     `json:"end,omitempty"`
}

func (c classRecord) class() broker.ConnectionClass {
	return broker.ConnectionClass{
		Tenant: c.Tenant, Connector: c.Connector, Status: broker.ConnectionStatus(c.Status), Error: c.Error, Scopes: broker.NewScopeSet(c.Scopes...),
	}
}

// setID names the set of a class.
func (s *Store) setID(c classRecord) string {
	parts := append([]string{c.Tenant, c.Connector, c.Status, c.Error, strconv.FormatBool(c.Ending)}, c.Scopes...)
	return base64.RawURLEncoding.EncodeToString(s.seals.hash(setIDBytes, "class of connections", parts...))
}

// placedClass is a place with what its set is of.
type placedClass struct {
	place indexPlace
	class classRecord
}

// Ends are kept this coarsely, so that a grant whose end moves with every refresh does not move in the index as often.
const (
	endsOnce    = time.Hour
	endsRenewed = 24 * time.Hour
)

// placesOf are the places where the connection belongs now: with its class, and with what ends, if it does.
func (s *Store) placesOf(conn broker.Connection) []placedClass {
	c := broker.ConnectionClassOf(conn, s.cfg.Now())
	class := classRecord{Tenant: c.Tenant, Connector: c.Connector, Status: string(c.Status), Error: c.Error, Scopes: c.Scopes.All()}
	out := []placedClass{{place: indexPlace(s.setID(class) + stamp(conn.CreatedAt)), class: class}}
	if end := conn.ExpiresAt(); c.Status == broker.ConnectionActive && !end.IsZero() {
		coarse := endsOnce
		if conn.Renewable || conn.Direct {
			coarse = endsRenewed
		}
		ending := classRecord{Tenant: c.Tenant, Ending: true}
		out = append(out, placedClass{place: indexPlace(s.setID(ending) + stamp(end.Truncate(coarse))), class: ending})
	}
	return out
}

func justPlaces(placed []placedClass) []indexPlace {
	out := make([]indexPlace, len(placed))
	for i, p := range placed {
		out[i] = p.place
	}
	return out
}

// indexWrite marks the connection as due if the index has it elsewhere than where conn belongs.
func (s *Store) indexWrite(shard byte, conn broker.Connection) Write {
	s.index.hint(shard)
	return Write{Kind: WriteUnless, Key: indexDueKey(shard), Args: []string{
		joinPlaces(justPlaces(s.placesOf(conn))), s.nowText(), conn.ID, issuedKey(shard, conn.ID), fieldPlaces,
	}}
}

// indexMark marks it in any case.
func (s *Store) indexMark(shard byte, id string) Write {
	s.index.hint(shard)
	return Write{Kind: WriteSortedAdd, Key: indexDueKey(shard), Args: []string{s.nowText(), id}}
}

// indexRemark marks it although its record did not change, with places where it may lie. Who moves it at this moment sees that
// by the count, and does not take it for done.
func (s *Store) indexRemark(shard byte, id string, loose []indexPlace) []Write {
	key := issuedKey(shard, id)
	writes := []Write{{Kind: WriteHashIncrement, Key: key, Args: []string{fieldMarks, "1"}}}
	for _, p := range loose {
		writes = append(writes, Write{Kind: WriteHashSet, Key: key, Args: []string{looseField(p), "1"}})
	}
	return append(writes, s.indexMark(shard, id))
}

func (s *Store) nowText() string { return strconv.FormatInt(s.cfg.Now().UnixMilli(), 10) }

// index is what a process keeps about the index.
type index struct {
	claims claims
	// hints are shards in which this process has just marked something, or is about to.
	hints chan byte

	// counting holds a value while somebody counts; what it counted belongs to whoever has it.
	counting chan struct{}
	known    map[string]classRecord // what sets are of, which never changes
	counted  []countedSet
	at       time.Time

	mu      sync.Mutex
	suspect time.Time // something may be missing that was written before; zero: never
}

// hint never waits: a hint too few is found a second later.
func (x *index) hint(shard byte) {
	select {
	case x.hints <- shard:
	default:
	}
}

// doubt says that the index may lack what was written before that time, so that it is checked then.
func (x *index) doubt(at time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if at.After(x.suspect) { // one that is not due yet takes in what is doubted before
		x.suspect = at
	}
}

// mayLack tells whether the index was not checked since a doubt that is due.
func (x *index) mayLack(now, checked time.Time) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return !x.suspect.IsZero() && !now.Before(x.suspect) && !x.suspect.Before(checked)
}

// countedSet is a set that is not empty.
type countedSet struct {
	id    string
	class classRecord
	count int
}

// classesLife is how old the counts may be.
const classesLife = time.Second

// sets counts all sets. Whoever asks while they are counted waits for that.
func (s *Store) sets(ctx context.Context) ([]countedSet, error) {
	x := &s.index
	select {
	case x.counting <- struct{}{}:
		defer func() { <-x.counting }()
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the classes: %w", ctx.Err())
	}
	if now := s.cfg.Now(); !x.at.IsZero() && now.Sub(x.at).Abs() < classesLife {
		return x.counted, nil
	}
	began := s.cfg.Now()
	keys := make([]string, shards)
	for i := range keys {
		keys[i] = classesKey(byte(i))
	}
	registry, err := s.hashes(ctx, keys...)
	if err != nil {
		return nil, fmt.Errorf("read the classes: %w", err)
	}
	var sets []countedSet
	var queries []RangeQuery
	known := make(map[string]classRecord, len(x.known))
	for shard, fields := range registry {
		for id, text := range fields {
			if len(id) != setIDLen || setShard(id) != byte(shard) {
				continue
			}
			class, ok := x.known[id]
			if !ok && json.Unmarshal(text, &class) != nil {
				continue
			}
			known[id] = class
			sets = append(sets, countedSet{id: id, class: class})
			queries = append(queries, RangeQuery{Key: classKey(byte(shard), id)})
		}
	}
	if len(queries) > 0 {
		counts, err := readPatiently(ctx, func(ctx context.Context) ([]int, error) { return s.cfg.Backend.Counts(ctx, queries) })
		if err != nil {
			return nil, fmt.Errorf("count the classes: %w", err)
		}
		full := sets[:0]
		for i, set := range sets {
			if set.count = counts[i]; set.count > 0 {
				full = append(full, set)
			}
		}
		sets = full
	}
	x.known, x.counted, x.at = known, sets, began
	return sets, nil
}
