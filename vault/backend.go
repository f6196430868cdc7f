package vault

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"io"
	"time"
)

// Backend is the store as the vault needs it: bytes under keys, and atomic steps. It knows neither what the bytes mean
// nor any secret. Every method is safe for concurrent use, honours the context's deadline and, but for Keys, takes one round
// trip (on a cluster: one for each node, at the same time). An error means that the store could not do it or that the
// outcome is unknown; what is read may then simply be read again.
type Backend interface {
	// Apply carries out the steps in their order, each atomically, all together in one round trip. All keys of all steps of
	// one call share a hash tag. There is one result for each step; a step does not depend on the success of those
	// before it, unless its conditions say so.
	Apply(ctx context.Context, steps []Step) []Result
	// Hashes returns the fields of each key, an empty map where there is none.
	Hashes(ctx context.Context, keys []string) ([]map[string][]byte, error)
	// Indexed returns, for each query, the members of a sorted set whose scores are all 0, in byte order, with their records.
	Indexed(ctx context.Context, queries []IndexQuery) ([][]Indexed, error)
	// Scored returns, for each query, members of a sorted set by score, lowest first.
	Scored(ctx context.Context, queries []ScoreQuery) ([][]Scored, error)
	// Ranges returns, for each query, members of a sorted set whose scores are all 0, by byte order.
	Ranges(ctx context.Context, queries []RangeQuery) ([][]string, error)
	// Counts counts the members in each range; Reverse and Limit say nothing.
	Counts(ctx context.Context, queries []RangeQuery) ([]int, error)
	// Dues returns, for each query, how many members of a sorted set there are by score, whatever its limit.
	Dues(ctx context.Context, queries []ScoreQuery) ([]int64, error)
	// Streams returns, for each query, entries of a stream, oldest first unless it asks for the newest.
	Streams(ctx context.Context, queries []StreamQuery) ([][]StreamEntry, error)
	// Members returns the members of each set.
	Members(ctx context.Context, keys []string) ([][]string, error)
	// Keys returns the keys that match the pattern (?, * and [ab], as in glob(7)), each once, those that were there all the
	// while for certain. It walks through the whole store, in many round trips: nothing for a request to wait for.
	Keys(ctx context.Context, pattern string) ([]string, error)
	// Clock returns the time of the store, the earliest and the latest of its nodes.
	Clock(ctx context.Context) (earliest, latest time.Time, err error)
	// Identity names the history that the store's writes belong to, of all its nodes together: it is another one after a
	// restart, and after a failover, when writes that were acknowledged may be missing. "": the store does not tell; then
	// every error is taken for such a change.
	Identity(ctx context.Context) (string, error)
}

// Step is one atomic change: if every check holds, all of it happens, else nothing.
type Step struct {
	// Settle, if set, comes before all else, and is the one thing that a refused step may have changed.
	Settle *Settle
	// Trail, if set, appends to an audit stream as part of the step. Its place in the chain is checked first of all.
	Trail *TrailStep
	// Release, if set, makes the step one that lets a token out; Settle, Checks, Writes, Reads and Confirm are then empty.
	Release *ReleaseStep
	// Checks in order; the first that fails decides the verdict.
	Checks []Check
	// Writes in order. Those that need memory come before those that free it, so that a full store refuses a step whole.
	Writes []Write
	// Reads are done after the writes, also when the step turns out to have been applied before.
	Reads []Read
	// Confirm asks for Result.Confirmed: that so many replicas as the backend was told have the step too. It waits for
	// them, a bounded time, and holds up all steps of the call meanwhile.
	Confirm bool
}

// Settle makes a step wait for a while after the store may have lost writes, so that those who remember them can write them
// back first. Key is a hash with the history that the store had when a step with this key was last carried out ("run": one
// node's part of Identity), and the end of the pause in ms by the store's clock ("until").
//
// Where run is absent it is set. Where it is another one, run and until := now + Pause are set, unless Pause is 0. Then,
// unless Pause is 0, the verdict is VerdictSettling while now < until; an until beyond now + Pause, which a clock that was
// put back leaves, is set to that. A store that can't tell its history does none of this.
type Settle struct {
	Key   string
	Pause time.Duration // 0: only note the history if there is none
}

// The fields of Settle.Key.
const (
	SettleRun   = "run"
	SettleUntil = "until"
)

// CheckKind is what a check demands of a field of a hash.
type CheckKind string

// The checks.
const (
	CheckEqual   CheckKind = "eq"     // it has the value
	CheckNot     CheckKind = "ne"     // it has not the value; an absent one has not
	CheckAbsent  CheckKind = "absent" // there is no such field
	CheckFree    CheckKind = "free"   // absent, or a time in ms by the store's clock that is over
	CheckAtMost  CheckKind = "most"   // a number, not greater than the value
	CheckFewer   CheckKind = "fewer"  // Key is a sorted set by times in ms, of which fewer than the value are not over by the store's clock; no Field
	CheckApplied CheckKind = "done"   // if it has the value, the step was applied before: no more checks, no writes
)

// Check is a condition on a field of a hash, or on a sorted set (CheckFewer).
type Check struct {
	Key   string
	Field string
	Kind  CheckKind
	Value string
}

// WriteKind is a kind of change, named as in Redis where there is a command for it.
type WriteKind string

// The changes. Args are as the command has them after the key.
const (
	WriteHashSet       WriteKind = "HSET"
	WriteHashDelete    WriteKind = "HDEL"
	WriteHashIncrement WriteKind = "HINCRBY"
	WriteSortedAdd     WriteKind = "ZADD"
	WriteSortedRemove  WriteKind = "ZREM"
	WriteSortedTrim    WriteKind = "ZREMRANGEBYRANK"
	WriteSortedExpire  WriteKind = "ZREMRANGEBYSCORE"
	WriteExpireAt      WriteKind = "PEXPIREAT"
	WriteExpireIn      WriteKind = "PEXPIRE"
	WritePersist       WriteKind = "PERSIST"
	WriteDelete        WriteKind = "DEL"
	WriteStreamTrim    WriteKind = "XTRIM"
	WriteStreamAdd     WriteKind = "XADD"

	// WriteDeadline sets a field (first argument) to the store's time plus so many ms (second).
	WriteDeadline WriteKind = "deadline"
	// WriteUnless adds a member (third argument) with a score (second) to a sorted set, unless the field of a hash that has the
	// key's hash tag (fourth and fifth) has the value that is the first.
	WriteUnless WriteKind = "unless"
	// WritePlace adds a member (second argument) to a sorted set, by the store's time plus so many ms (first), and removes those whose
	// time is over.
	WritePlace WriteKind = "place"
	// WriteOnly deletes all fields with the prefix (first argument) but those named by the others.
	WriteOnly WriteKind = "only"
)

// Write is one change of one key.
type Write struct {
	Kind WriteKind
	Key  string
	Args []string
}

// Read asks for fields of a hash; no fields: all of them.
type Read struct {
	Key    string
	Fields []string
}

// ReleaseStep says in one piece what every request for a token asks of the store, so that it costs one short run there: what is
// known of a subject's connections must still be so, then the use is noted and the record's fields are read. It comes with a
// Trail of one entry. Which fields it is about is the same for all of them (ReleaseShape), so that a store can have that ready.
type ReleaseStep struct {
	// Index is a sorted set whose scores are all 0. State is what StateDigest makes of it and of the field Version of Record, or the
	// beginning of that, 12 digits at least.
	Index string
	State string
	// Record is a hash whose Checks have the Values. They and the Fields are read: Result.Reads has one element.
	Record string
	Values []string
	// Switches is a hash whose SwitchesField must be Mark; "": it has no such field.
	Switches string
	Mark     string
	// Use is written: a field of a hash and its value.
	UseKey, UseField, UseValue string
	// Instead is read if something of that is not so (VerdictRefused); all its keys share the step's hash tag.
	Instead IndexQuery
}

// ReleaseShape has the names of fields that release steps are about.
type ReleaseShape struct {
	Version       string   // of a record: every write changes it
	Checks        []string // of a record
	Fields        []string // of a record
	SwitchesField string
}

// ReleaseFields returns them.
func ReleaseFields() ReleaseShape {
	return ReleaseShape{
		Version: fieldWrite, Checks: []string{fieldTenant, fieldStatus}, Fields: []string{fieldFormat, fieldGeneration, fieldHeader, fieldPrivate, fieldAccess},
		SwitchesField: fieldWrite,
	}
}

// StateDigest is the SHA-1, in hexadecimal digits, of the members of an index in byte order and of a record's version, a line feed
// behind each: to tell one state from another, where nobody gains by a collision more than by changing the state itself.
func StateDigest(members []string, version string) string {
	h := sha1.New()
	for _, member := range members {
		_, _ = io.WriteString(h, member+"\n")
	}
	_, _ = io.WriteString(h, version+"\n")
	return hex.EncodeToString(h.Sum(nil))
}

// TrailStep appends entries to a stream whose head, as far as the writer goes, is still Head.
type TrailStep struct {
	Stream string // key of the stream
	Heads  string // key of the hash of heads
	Index  string // key of the set of streams
	Member string // the stream's member in that set
	Writer string
	Head   string // the head that the entries follow; "" for a writer's first
	Next   string // the head that they leave
	// Entries have two fields each: what is in clear, and what is sealed.
	Entries []TrailEntry
}

// TrailEntry is one entry as it is stored.
type TrailEntry struct {
	Meta string // clear and authenticated
	Body string // sealed
}

// Verdict is what became of a step.
type Verdict string

// The verdicts.
const (
	VerdictDone     Verdict = "done"    // applied now
	VerdictRepeated Verdict = "again"   // applied before, as the head of the chain tells
	VerdictApplied  Verdict = "applied" // applied before, as CheckApplied tells; perhaps by another process
	VerdictRefused  Verdict = "refused" // a check failed; nothing was written
	VerdictChain    Verdict = "chain"   // the head is another one; nothing was written
	VerdictSettling Verdict = "settles" // the pause of Settle is not over; nothing else was written
)

// Result is the outcome of one step.
type Result struct {
	Err     error // the store could not do it, or the outcome is unknown
	Verdict Verdict
	Refused int       // VerdictRefused: the index of the check
	Now     time.Time // the store's clock
	Head    string    // the writer's head after the step
	HeadID  string    // the stream id of the entry at the head
	IDs     []string  // VerdictDone: the stream ids of the entries
	Reads   []map[string][]byte
	// Instead is what a refused release step read.
	Instead []Indexed
	// Confirmed, for a step with Confirm that was carried out, now or before: enough replicas have it.
	Confirmed bool

	// overtaken: since the step was sent this process has begun to look for what the store lost. What the answer says may be
	// among that, and was not looked for.
	overtaken bool
	// asked is when this process began to send the step, by its own clock: the store did what the answer says no sooner.
	asked time.Time
}

// IndexQuery asks for members of an index, with the hash at Records+member and the one at Extra+member.
type IndexQuery struct {
	Index   string
	Records string // prefix of the records' keys; same hash tag
	Extra   string // prefix of further keys; "": none
	Beside  string // a hash to be read too, first of all; same hash tag; "": none
	After   string // only members behind this one
	Limit   int    // 0: all
}

// Indexed is a member of an index and its record; an empty record if it is gone. The first one without a member is IndexQuery.Beside,
// if that was asked for.
type Indexed struct {
	Member string
	Record map[string][]byte
	Extra  map[string][]byte
}

// ScoreQuery asks for members with a score up to Max.
type ScoreQuery struct {
	Key   string
	Max   int64
	Limit int // 0: all
}

// RangeQuery asks for the members of a sorted set from From on and before To, in byte order; "": without that bound.
type RangeQuery struct {
	Key     string
	From    string
	To      string
	Reverse bool // the last first
	Limit   int  // 0: all
}

// Scored is a member of a sorted set.
type Scored struct {
	Member string
	Score  int64
}

// StreamQuery asks for entries from an id to another, both included; "-" and "+" are the ends, "(" before an id leaves it out.
type StreamQuery struct {
	Key   string
	From  string
	To    string
	Limit int
	// Newest: those at the end of the range, newest first.
	Newest bool
}

// StreamEntry is an entry with its id.
type StreamEntry struct {
	ID string
	TrailEntry
}
