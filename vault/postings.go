package vault

import (
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"slices"

	"tokenbroker/broker"
)

// The posting index of the audit trail: for each day, and for each value that an operator may look for, the places of the
// entries that have it. It is made from the streams, behind them (indexer.go), and can be made again from them; searching
// (search.go) takes from it where to look, and believes only what it finds there.
//
// A value that occurs often in a day has a list of its own. The others share a thousand lists a day, in which each posting
// has a tag: a list of its own for each run of an agent would cost more than the entries. Whether a value is frequent is up
// to the process that writes, so readers look into both. A list may name a place twice, after a crash.

// facet is what a list is about.
type facet string

const (
	facetClient    facet = "client"
	facetAgent     facet = "agent"
	facetRun       facet = "run"
	facetConnector facet = "connector"
	facetType      facet = "type"
	facetScope     facet = "scope"
	facetOutcome   facet = "outcome"
	// facetLate has the entries that were written long after their own time: they waited in the spool.
	facetLate facet = "late"
)

const (
	msPerDay = 24 * 60 * 60 * 1000
	// ownSize and sharedSize are the bytes of a posting: shard; 27 bits of ms within the day and 5 bits of number within the ms;
	// and before them, in a shared list, the tag.
	ownSize    = 5
	tagSize    = 2
	sharedSize = tagSize + ownSize
	// crowded stands for this number within a ms and for all above it.
	crowded = 31
)

// listID is the keyed hash of a tenant, a facet and a value: it gives both lists' names and the tag.
type listID [12]byte

func (s *Store) listOf(tenant string, f facet, value string) (id listID) {
	copy(id[:], s.seals.hash(len(id), "audit-index", tenant, string(f), value))
	return id
}

// own is the key of the value's own list of the day, shared that of the one in which it is among others.
func (id listID) own(day int64) string {
	return postingsKey(id[0], day, ":"+base64.RawURLEncoding.EncodeToString(id[3:]))
}

func (id listID) shared(day int64) string {
	return postingsKey(id[0], day, "."+string("0123"[id[1]>>6]))
}

func (id listID) tag() string { return string(id[2 : 2+tagSize]) }

// dayOf is the day of a ms, since 1970.
func dayOf(ms uint64) int64 { return int64(ms / msPerDay) }

// posting is the place of an entry in a day.
type posting struct {
	ms    uint32 // within the day
	n     uint8  // within the ms, crowded at most
	shard byte
}

func postingOf(shard byte, id streamID) posting {
	return posting{ms: uint32(id.ms % msPerDay), n: uint8(min(id.n, crowded)), shard: shard}
}

func (p posting) compare(other posting) int {
	return cmp.Or(cmp.Compare(p.ms, other.ms), cmp.Compare(p.n, other.n), cmp.Compare(p.shard, other.shard))
}

func (p posting) append(b []byte) []byte {
	b = append(b, p.shard)
	return binary.BigEndian.AppendUint32(b, p.ms<<5|uint32(p.n))
}

// postingsIn reads a list: those behind the tag where it is a shared one (tag not empty). In order, each once. What is left
// at the end of a list whose length is none that we write is not read.
func postingsIn(list, tag string) []posting {
	size := len(tag) + ownSize
	var out []posting
	for ; len(list) >= size; list = list[size:] {
		if list[:len(tag)] != tag {
			continue
		}
		b := []byte(list[len(tag):size])
		at := binary.BigEndian.Uint32(b[1:])
		out = append(out, posting{shard: b[0], ms: at >> 5, n: uint8(at & crowded)})
	}
	slices.SortFunc(out, posting.compare)
	return slices.Compact(out)
}

// common are values that most entries have: looking for one of them, the streams are read anyway.
var common = map[facet]string{facetType: string(broker.EventTokenIssued), facetOutcome: "ok"}

// value is one that an entry can be found by.
type value struct {
	facet facet
	text  string
}

// valuesOf are those of an entry. late tells that it was written long after its own time.
func valuesOf(e storedEntry, late bool) []value {
	all := []value{
		{facetClient, e.Client}, {facetAgent, e.Actor.Agent}, {facetRun, e.Actor.Run}, {facetConnector, e.Connector}, {facetType, e.Type}, {facetOutcome, e.Outcome},
	}
	for _, event := range e.Events {
		all = append(all, value{facetScope, event.Scope})
	}
	all = slices.DeleteFunc(all, func(v value) bool { return v.text == "" || common[v.facet] == v.text })
	if late {
		all = append(all, value{facet: facetLate})
	}
	return all
}

// wanted are the values that the filter asks for, among those that have lists.
func wanted(f broker.EventFilter) []value {
	all := []value{
		{facetClient, f.Client}, {facetAgent, f.Agent}, {facetRun, f.Run}, {facetConnector, f.Connector}, {facetType, string(f.Type)}, {facetOutcome, f.Outcome}, {facetScope, f.Scope},
	}
	return slices.DeleteFunc(all, func(v value) bool { return v.text == "" || common[v.facet] == v.text })
}

// often is how many postings of a value in a day this process writes into the shared list before it gives it one of its own.
const often = 24

// maxTallies bounds how many values are counted, twice over.
const maxTallies = 1 << 15

// tallies count how often this process has met a value in a day; the oldest are forgotten. Not for concurrent use.
type tallies struct{ now, before map[tally]uint32 }

type tally struct {
	list listID
	day  int64
}

// add counts n more and tells whether the value is frequent.
func (t *tallies) add(list listID, day int64, n int) bool {
	if t.now == nil || len(t.now) >= maxTallies {
		t.now, t.before = make(map[tally]uint32), t.now
	}
	key := tally{list: list, day: day}
	count, known := t.now[key]
	if !known {
		count = t.before[key]
	}
	count += uint32(n)
	t.now[key] = count
	return count >= often
}
