package vault

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"tokenbroker/broker"
)

// The stored form of a cut: up to where the beginning of a stream was dropped because it was older than events are kept
// (retain.go). One hash beside the stream, replaced by each step that drops something, in that very step:
//
//	v format version   ver version of the cut   wid id of the last write   b the rest, sealed
//
// The seal names the stream and the version, so a cut of another stream does not open, and an older one of this stream leaves
// missing what was dropped since. Without the keyset nobody can make one: what is missing and not said here was taken away.
const cutFormat = "1"

// storedCut is the sealed part.
type storedCut struct {
	Upto    string         `json:"u"`            // the id of the last entry that was dropped
	Writers []storedWriter `json:"w,omitempty"`  // the chains that go on behind it, or may
	Gone    []byte         `json:"g,omitempty"`  // the chains that ended before it, see goneChain
	Entries uint64         `json:"n,omitempty"`  // how many entries were dropped in all
	Events  uint64         `json:"e,omitempty"`  // and events
	Losses  uint64         `json:"l,omitempty"`  // how many losses those entries told of
	Rule    string         `json:"r,omitempty"`  // by which rule the last ones were
	At      int64          `json:"at,omitempty"` // when, in ms by the store's clock
}

// storedWriter is where a chain was cut.
type storedWriter struct {
	Writer  string `json:"w"`
	Seq     uint64 `json:"s"` // of the last entry that was dropped
	Link    []byte `json:"l"`
	ID      string `json:"i"`           // its stream id
	Resumed bool   `json:"r,omitempty"` // another chain goes on in its place
	Lost    uint64 `json:"x,omitempty"` // up to this place its entries are known to be missing
}

// cut is how a stream begins.
type cut struct {
	storedCut
	version int64 // 0: nothing was ever dropped
	upto    streamID
	gone    map[goneName]goneChain
}

// goneName stands for a writer: some of them must be remembered for as long as events are kept, so it is short.
type goneName [8]byte

func goneNameOf(writer string) (name goneName) {
	sum := sha256.Sum256([]byte(writer))
	copy(name[:], sum[:])
	return name
}

// goneChain is a chain of which nothing is left, its head neither.
type goneChain struct {
	seq uint64 // how long it was
	at  uint64 // when its end was dropped, in ms by the store's clock
}

// goneKept is for how long behind the end of a chain a first entry may name it that was written by somebody who had seen its head
// before: two round trips and what a clock may be wrong by (chains.look). ms.
const goneKept = 10 * 60 * 1000

func packGone(gone map[goneName]goneChain) []byte {
	var b []byte
	for name, g := range gone {
		b = append(b, name[:]...)
		b = binary.AppendUvarint(binary.AppendUvarint(b, g.seq), g.at)
	}
	return b
}

func unpackGone(b []byte) (map[goneName]goneChain, bool) {
	gone := make(map[goneName]goneChain)
	r := reader{rest: b}
	for len(r.rest) > 0 && !r.bad {
		var name goneName
		copy(name[:], r.bytes(uint64(len(name))))
		gone[name] = goneChain{seq: r.uvarint(), at: r.uvarint()}
	}
	return gone, !r.bad
}

func cutPlace(name trailName, version int64) []byte {
	return place("audit-cut", name.tenant, hex.EncodeToString([]byte{name.shard}), fieldBody, cutFormat, strconv.FormatInt(version, 10))
}

// openCut reads the cut of a stream. ErrIntegrity: it is not one of ours for this stream; ErrNewerFormat.
func (s *Store) openCut(name trailName, record map[string][]byte) (*cut, error) {
	c := &cut{}
	body, version, err := openVersioned(s.seals, record, cutFormat, func(version int64) []byte { return cutPlace(name, version) },
		func(storedCut) (string, bool) { return "", true })
	if errors.Is(err, broker.ErrNotFound) {
		return c, nil
	}
	if err != nil {
		return nil, fmt.Errorf("where the audit trail was cut: %w", s.keyOfTrail(name, string(record[fieldBody]), err))
	}
	c.storedCut, c.version = body, version
	gone, good := unpackGone(body.Gone)
	if c.upto, err = parseStreamID(body.Upto); err != nil || !good || version < 1 {
		return nil, fmt.Errorf("where the audit trail was cut: %w", broker.ErrIntegrity)
	}
	for _, w := range body.Writers {
		if _, err := parseStreamID(w.ID); err != nil || len(w.Link) != sha256.Size {
			return nil, fmt.Errorf("where the audit trail was cut: %w", broker.ErrIntegrity)
		}
	}
	c.gone = gone
	return c, nil
}

// sealCut seals the cut as it is to be stored next.
func (s *Store) sealCut(name trailName, version int64, body storedCut) (string, error) {
	plain, err := json.Marshal(body)
	if err != nil {
		return "", fmt.Errorf("encode cut: %w", err)
	}
	return s.seals.seal(plain, cutPlace(name, version))
}

// begin lets the walk begin where the stream was cut.
func (w *walk) begin(c *cut) {
	w.cut = c
	for _, stored := range c.Writers {
		writer := w.writer(stored.Writer)
		id, _ := parseStreamID(stored.ID) // openCut has looked at it
		writer.at.seq, writer.base = stored.Seq, stored.Seq
		copy(writer.at.link[:], stored.Link)
		writer.places[stored.Seq] = placed{id: id, link: writer.at.link}
		writer.resumed, writer.lost = stored.Resumed, stored.Lost
	}
}

// has tells whether the chain had an entry with this link at that place, as far as anybody can still know: what was dropped with
// others before it was there.
func (w *writerWalk) has(seq uint64, l link) bool {
	was, known := w.places[seq]
	if !known && seq <= w.base {
		return true
	}
	return was.link == l
}

// had is the same of its stream id.
func (w *writerWalk) had(seq uint64, id streamID) bool {
	was, known := w.places[seq]
	if !known && seq <= w.base {
		return true
	}
	return known && was.id == id
}

// beside reads what lies beside the stream: the heads, by writer, and then the cut, so that what a step takes away between the two is
// in the cut. raw are the heads as they are stored. A cut that is not ours is a fault.
func (w *walk) beside(ctx context.Context) (heads map[string]foundHead, raw map[string][]byte, c *cut, fault *Fault, err error) {
	found, err := w.store.hashes(ctx, headsKey(w.name.shard, w.name.tenant), cutKey(w.name.shard, w.name.tenant))
	if err != nil {
		return nil, nil, nil, nil, err
	}
	c, err = w.store.openCut(w.name, found[1])
	if errors.Is(err, broker.ErrIntegrity) {
		return nil, nil, nil, &Fault{What: "forged: what says up to where the stream was trimmed is not one of ours for this stream"}, nil
	}
	return w.store.seals.parseHeads(w.name, found[0]), found[0], c, nil, err
}

// sameCut tells whether nothing was dropped since the walk began.
func (w *walk) sameCut(ctx context.Context) (bool, error) {
	_, _, c, _, err := w.beside(ctx)
	if err != nil || c == nil || w.cut == nil {
		return true, err
	}
	return c.version == w.cut.version, nil
}

// trimmedAway tells whether the chain has no head any more because its end, whose stream id is known, was dropped as events are that
// nobody wants to keep longer; else the store lost it.
func (t *chains) trimmedAway(ctx context.Context, c *chain) bool {
	if len(c.known) == 0 || c.known[len(c.known)-1].seq != c.at.seq {
		return false
	}
	if age := t.now().UnixMilli() - int64(c.known[len(c.known)-1].id.ms); age < day.Milliseconds()/2 {
		return false // nothing is dropped that soon
	}
	ctx, cancel := context.WithTimeout(ctx, t.ioTime)
	defer cancel()
	at, err := t.cutOf(ctx, c.name)
	if err != nil || at.version == 0 || at.upto.less(c.known[len(c.known)-1].id) {
		return false
	}
	for _, w := range at.Writers {
		if w.Writer == c.at.writer {
			return false // its head should be there
		}
	}
	return true
}

// readCut reads the cut of a stream.
func (s *Store) readCut(ctx context.Context, name trailName) (*cut, error) {
	found, err := s.cfg.Backend.Hashes(ctx, []string{cutKey(name.shard, name.tenant)})
	if err != nil {
		return nil, err
	}
	return s.openCut(name, found[0])
}
