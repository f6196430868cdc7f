package vault

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"tokenbroker/broker"
)

// A checkpoint says, signed, what a process has written to the audit trail since its last one (broker/decisions/0031-signed-trail.md). The
// entries of one chain that follow one another are a span; their links (link.go) are the leaves of a Merkle tree, and the roots of the
// spans, each with what it is of, are the leaves of the tree whose root the checkpoint has. The checkpoints of a process are a log: numbered
// from 1, each with the hash of the one before it. Who knows the public key alone can tell whether an entry was there; who has
// everything but the private key can't make another history of it.

// checkpointFormat names the installation; checkpointUnnamed is what was written before, and is where there is no name.
const (
	checkpointUnnamed = 1
	checkpointFormat  = 2
)

// Checkpoint is such a statement. Make it from its line with ParseCheckpoint; it holds nothing secret.
type Checkpoint struct {
	Log     string // names the run of the process
	Seq     uint64
	Time    time.Time
	Entries uint64 // how many of them there are in all spans
	Last    bool   // the process ended in order behind it
	// TrimBefore: entries older than that may be dropped from here on, as retention has it; zero: it says nothing of that.
	TrimBefore time.Time
	KeyID      string
	// Installation names whose it is, so that one of another installation that has the same key does not pass for it; "": it is of before there were names.
	Installation string

	root      treeHash
	spans     []signedSpan
	packed    []byte   // spans, as they are signed
	spansHash treeHash // of packed
	prev      treeHash // of the checkpoint before it; zero: it is the first
	seen      []seenLog
	signature []byte
}

// signedSpan are entries of a chain that follow one another.
type signedSpan struct {
	name   trailName
	writer string
	first  uint64
	count  uint64
	root   treeHash
}

// seenLog is how far another process's log was when this one began: so that a log can't vanish whole.
type seenLog struct {
	log  string
	seq  uint64
	time int64 // ms
	hash treeHash
}

// leaf is the span's place in the checkpoint's tree.
func (s signedSpan) leaf() treeHash {
	return hashLeaf(joined("tokenbroker/audit/span", s.name.tenant, string([]byte{s.name.shard}), s.writer,
		strconv.FormatUint(s.first, 10), strconv.FormatUint(s.count, 10), string(s.root[:])))
}

func (s signedSpan) last() uint64 { return s.first + s.count - 1 }

func leavesOf(spans []signedSpan) []treeHash {
	leaves := make([]treeHash, len(spans))
	for i, s := range spans {
		leaves[i] = s.leaf()
	}
	return leaves
}

// message is what is signed. The spans are in it as their hash, so that a proof of one entry need not tell of the others.
func (c *Checkpoint) message() []byte {
	var seen []byte
	for _, o := range c.seen {
		seen = appendText(seen, o.log)
		seen = binary.AppendUvarint(binary.AppendUvarint(seen, o.seq), uint64(o.time))
		seen = append(seen, o.hash[:]...)
	}
	form := []string{"tokenbroker/audit/checkpoint/1"}
	if c.Installation != "" {
		form = []string{"tokenbroker/audit/checkpoint/2", c.Installation}
	}
	return joined(append(form, c.Log, strconv.FormatUint(c.Seq, 10), strconv.FormatInt(c.Time.UnixMilli(), 10),
		strconv.FormatUint(c.Entries, 10), string(c.root[:]), string(c.spansHash[:]), string(c.prev[:]),
		strconv.FormatInt(millis(c.TrimBefore), 10), string(seen), strconv.FormatBool(c.Last), c.KeyID)...)
}

func (c *Checkpoint) hash() treeHash { return sha256.Sum256(c.message()) }

// Signers are those whose checkpoints count.
type Signers struct {
	Keys []PublicKey
	// Installations are the names of those that may have signed, as Signing.Installation; without any, whichever it is.
	Installations []string
}

// signed tells whether one of the keys signed it, whoever used that.
func (w Signers) signed(c *Checkpoint) bool {
	for _, k := range w.Keys {
		if k.ID == c.KeyID {
			return ed25519.Verify(k.key, c.message(), c.signature)
		}
	}
	return false
}

// fault is what is wrong with a checkpoint of somebody else; "": it counts.
func (w Signers) fault(c *Checkpoint) string {
	switch {
	case !w.signed(c):
		return fmt.Sprintf("forged: %s is not signed by a key that is known here (its key is %s)", c.name(), strconv.Quote(c.KeyID))
	case c.Installation != "" && len(w.Installations) > 0 && !slices.Contains(w.Installations, c.Installation):
		return fmt.Sprintf("forged: %s is of the installation %s, which has the same key, and not of %s", c.name(), strconv.Quote(c.Installation), quoted(w.Installations))
	}
	return ""
}

func quoted(names []string) string {
	out := make([]string, len(names))
	for i, name := range names {
		out[i] = strconv.Quote(name)
	}
	return strings.Join(out, " or ")
}

// SignedBy are the installations that checkpoints name.
type SignedBy struct {
	// Installations are in the order of their names.
	Installations []string
	// Unnamed is how many checkpoints name none, as they are of before there were names.
	Unnamed int
}

func (b *SignedBy) add(c *Checkpoint) {
	if c.Installation == "" {
		b.Unnamed++
		return
	}
	if at, known := slices.BinarySearch(b.Installations, c.Installation); !known {
		b.Installations = slices.Insert(b.Installations, at, c.Installation)
	}
}

// mixed is what is wrong where nobody said whose checkpoints they should be; "": they are of one.
func (b *SignedBy) mixed(w Signers) string {
	if len(w.Installations) > 0 || len(b.Installations) < 2 {
		return ""
	}
	return fmt.Sprintf("forged: the checkpoints are of several installations that have one key: %s; say which of them may be here", strings.Join(b.Installations, ", "))
}

func packSpans(spans []signedSpan) []byte {
	var tenants []string
	for _, s := range spans {
		if !slices.Contains(tenants, s.name.tenant) {
			tenants = append(tenants, s.name.tenant)
		}
	}
	b := binary.AppendUvarint(nil, uint64(len(tenants)))
	for _, t := range tenants {
		b = appendText(b, t)
	}
	for _, s := range spans {
		b = binary.AppendUvarint(b, uint64(slices.Index(tenants, s.name.tenant)))
		b = append(b, s.name.shard)
		b = appendText(b, s.writer)
		b = binary.AppendUvarint(binary.AppendUvarint(b, s.first), s.count)
		b = append(b, s.root[:]...)
	}
	return b
}

func unpackSpans(packed []byte) (spans []signedSpan, ok bool) {
	r := reader{rest: packed}
	var tenants []string
	for n := r.uvarint(); n > 0 && !r.bad; n-- {
		tenants = append(tenants, r.text())
	}
	for len(r.rest) > 0 && !r.bad {
		tenant := r.uvarint()
		s := signedSpan{name: trailName{shard: r.byte()}, writer: r.text(), first: r.uvarint(), count: r.uvarint()}
		copy(s.root[:], r.bytes(sha256.Size))
		if tenant >= uint64(len(tenants)) || s.first == 0 || s.count == 0 || s.last() < s.first {
			return nil, false
		}
		s.name.tenant = tenants[tenant]
		spans = append(spans, s)
	}
	return spans, !r.bad
}

// checkpointLine is a checkpoint as JSON. In a proof SpansHash stands in the place of Spans.
type checkpointLine struct {
	Format     int        `json:"checkpoint"`
	Of         string     `json:"installation,omitempty"`
	Log        string     `json:"log"`
	Seq        uint64     `json:"seq"`
	Time       time.Time  `json:"time"`
	Entries    uint64     `json:"entries"`
	Root       []byte     `json:"root"`
	Spans      []byte     `json:"spans,omitempty"`
	SpansHash  []byte     `json:"spans_sha256,omitempty"`
	Prev       []byte     `json:"prev,omitempty"`
	TrimBefore *time.Time `json:"trim_before,omitempty"`
	Seen       []seenLine `json:"seen,omitempty"`
	Last       bool       `json:"last,omitempty"`
	Key        string     `json:"key"`
	Signature  []byte     `json:"signature"`
}

type seenLine struct {
	Log  string    `json:"log"`
	Seq  uint64    `json:"seq"`
	Time time.Time `json:"time"`
	Hash []byte    `json:"hash"`
}

// line is the checkpoint as one line of JSON, without a line feed.
func (c *Checkpoint) line(withSpans bool) ([]byte, error) {
	l := checkpointLine{
		Format: checkpointUnnamed, Of: c.Installation, Log: c.Log, Seq: c.Seq, Time: c.Time, Entries: c.Entries, Root: c.root[:], Last: c.Last, Key: c.KeyID, Signature: c.signature,
	}
	if c.Installation != "" {
		l.Format = checkpointFormat
	}
	if withSpans {
		l.Spans = c.packed
	} else {
		l.SpansHash = c.spansHash[:]
	}
	if c.prev != (treeHash{}) {
		l.Prev = c.prev[:]
	}
	if !c.TrimBefore.IsZero() {
		l.TrimBefore = &c.TrimBefore
	}
	for _, o := range c.seen {
		l.Seen = append(l.Seen, seenLine{Log: o.log, Seq: o.seq, Time: fromMillis(o.time), Hash: o.hash[:]})
	}
	out, err := json.Marshal(l)
	if err != nil {
		return nil, fmt.Errorf("write checkpoint: %w", err)
	}
	return out, nil
}

var errCheckpoint = errors.New("this is no checkpoint of an audit trail")

// ParseCheckpoint reads a line. It does not verify the signature.
func ParseCheckpoint(text []byte) (*Checkpoint, error) { return parseCheckpoint(text, false) }

// parseCheckpoint reads a line, whole or, bare, as it is in a proof. Bare it has the same signature and says of nothing what was signed: it
// must never stand in the place of the whole one.
func parseCheckpoint(text []byte, bare bool) (*Checkpoint, error) {
	var l checkpointLine
	if err := json.Unmarshal(text, &l); err != nil || l.Format == 0 {
		return nil, errCheckpoint
	}
	if l.Format != checkpointFormat && l.Format != checkpointUnnamed {
		return nil, fmt.Errorf("read checkpoint: %w", broker.ErrNewerFormat)
	}
	c := &Checkpoint{
		Log: l.Log, Seq: l.Seq, Time: l.Time.UTC(), Entries: l.Entries, Last: l.Last, KeyID: l.Key, Installation: l.Of, packed: l.Spans, signature: l.Signature,
	}
	fixed := func(to *treeHash, from []byte, may bool) bool {
		copy(to[:], from)
		return len(from) == len(to) || may && len(from) == 0
	}
	good := (l.Of != "") == (l.Format == checkpointFormat) && fixed(&c.root, l.Root, false) && fixed(&c.prev, l.Prev, true)
	if l.TrimBefore != nil {
		c.TrimBefore = l.TrimBefore.UTC()
	}
	for _, o := range l.Seen {
		one := seenLog{log: o.Log, seq: o.Seq, time: o.Time.UnixMilli()}
		good = good && fixed(&one.hash, o.Hash, false)
		c.seen = append(c.seen, one)
	}
	if bare {
		good = good && len(l.Spans) == 0 && fixed(&c.spansHash, l.SpansHash, false)
	} else {
		good = good && len(l.SpansHash) == 0
		var unpacked bool
		c.spansHash = sha256.Sum256(c.packed)
		c.spans, unpacked = unpackSpans(c.packed)
		// Root and number follow from the spans: what does not is not what a broker signs, and not signed either.
		var entries uint64
		for _, s := range c.spans {
			entries += s.count
		}
		good = good && unpacked && entries == c.Entries && rootOf(leavesOf(c.spans)) == c.root
	}
	if !good || c.Seq == 0 || c.Log == "" {
		return nil, errCheckpoint
	}
	return c, nil
}

// name is how reports name it.
func (c *Checkpoint) name() string { return fmt.Sprintf("checkpoint %d of log %s", c.Seq, c.Log) }
