package vault

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"tokenbroker/broker"
)

// A proof shows that one event is in the trail as a checkpoint signed it, to somebody who has the public key and nothing else: the entry in
// clear, from which its link follows (link.go); the path from there to the root of its span; and from there to the root that is signed.
// Of other entries it has hashes alone.

const proofFormat = 1

type proofFile struct {
	Format     int             `json:"proof"`
	Event      json.RawMessage `json:"event"` // for people: what counts is in the payload, and compared with this
	Entry      proofEntry      `json:"entry"`
	Span       proofSpan       `json:"span"`
	Checkpoint json.RawMessage `json:"checkpoint"`
	Index      uint64          `json:"index"` // of the span among those of the checkpoint
	Size       uint64          `json:"size"`
	Path       [][]byte        `json:"path"`
}

type proofEntry struct {
	Before  []byte `json:"before"` // the link of the entry before it
	Clear   []byte `json:"clear"`
	Payload []byte `json:"payload"`
}

type proofSpan struct {
	Tenant string   `json:"tenant"`
	Shard  string   `json:"shard"`
	Writer string   `json:"writer"`
	First  uint64   `json:"first"`
	Count  uint64   `json:"count"`
	Path   [][]byte `json:"path"`
}

// ProofQuery says which event is to be proven. The tenant, and the subject with it, make that quicker; the id is enough.
type ProofQuery struct {
	Event, Tenant, Subject string
}

// Prove makes the proof of an event; signers and sources are as for VerifySigned.
func (s *Store) Prove(ctx context.Context, q ProofQuery, by Signers, sources []CheckpointSource) ([]byte, error) {
	own, err := s.storedCheckpoints(ctx)
	if err != nil {
		return nil, fmt.Errorf("prove: %w", err)
	}
	signed := collect(append([]CheckpointSource{own}, sources...), by)
	names, err := s.trailNames(ctx)
	if err != nil {
		return nil, fmt.Errorf("prove: %w", err)
	}
	for _, n := range names {
		if q.Tenant != "" && n.name.tenant != q.Tenant || q.Subject != "" && n.name.shard != s.Shard(n.name.tenant, q.Subject) {
			continue
		}
		found, links, fault, err := s.findEvent(ctx, n.name, q.Event)
		switch {
		case err != nil:
			return nil, fmt.Errorf("prove: %w", err)
		case found == nil && fault != nil:
			continue // what lies behind it nobody can prove; verifying names it
		case found == nil:
			continue
		}
		return signed.prove(n.name, *found, links[found.meta.writer], q.Event)
	}
	return nil, fmt.Errorf("prove: no event %s can be read in the audit trail: %w", q.Event, broker.ErrNotFound)
}

// chainLinks are the links of a chain from one place on.
type chainLinks struct {
	first uint64
	links []treeHash
}

// findEvent walks a stream to its end, or to what is wrong with it.
func (s *Store) findEvent(ctx context.Context, name trailName, event string) (found *goodEntry, links map[string]*chainLinks, fault *Fault, err error) {
	links = make(map[string]*chainLinks)
	w := s.walkOf(name)
	w.seen = func(good goodEntry) {
		of := links[good.meta.writer]
		if of == nil {
			of = &chainLinks{first: good.meta.seq}
			links[good.meta.writer] = of
		}
		of.links = append(of.links, treeHash(good.meta.link))
		for _, e := range good.entry.events() {
			if e.ID == event {
				found = &good
			}
		}
	}
	fault, err = w.run(ctx)
	return found, links, fault, err
}

func (t *signedTrail) prove(name trailName, good goodEntry, links *chainLinks, event string) ([]byte, error) {
	seq := good.meta.seq
	for _, one := range t.spans[name][good.meta.writer] {
		if seq < one.first || seq > one.last() {
			continue
		}
		if one.first < links.first || one.last()-links.first >= uint64(len(links.links)) {
			return nil, fmt.Errorf("prove: entries around event %s, which %s has, are not in Redis any more: prove it from the archive, or verify the trail", event, one.of.name())
		}
		of := links.links[one.first-links.first : one.last()-links.first+1]
		leaves := make([]treeHash, len(of))
		for i, l := range of {
			leaves[i] = hashLeaf(l[:])
		}
		if rootOf(leaves) != one.root {
			return nil, fmt.Errorf("prove: the entries around event %s are not those that %s has: verify the trail", event, one.of.name())
		}
		return one.proof(good, leaves, event)
	}
	return nil, fmt.Errorf("prove: no signed checkpoint has event %s: it is younger than the last one, or was written before the trail was signed, or by a broker that was killed", event)
}

func (one *spanWalk) proof(good goodEntry, leaves []treeHash, event string) ([]byte, error) {
	index := 0
	for i, s := range one.of.spans {
		if s == one.signedSpan {
			index = i
		}
	}
	line, err := one.of.line(false)
	if err != nil {
		return nil, err
	}
	p := proofFile{
		Format: proofFormat, Entry: proofEntry{Before: good.before[:], Clear: good.unlinked, Payload: good.payload},
		Span: proofSpan{
			Tenant: one.name.tenant, Shard: hex.EncodeToString([]byte{one.name.shard}), Writer: one.writer, First: one.first, Count: one.count,
			Path: hashBytes(pathTo(leaves, int(good.meta.seq-one.first))),
		},
		Checkpoint: line, Index: uint64(index), Size: uint64(len(one.of.spans)), Path: hashBytes(pathTo(leavesOf(one.of.spans), index)),
	}
	for _, e := range good.entry.events() {
		if e.ID == event {
			if p.Event, err = e.Line(); err != nil {
				return nil, err
			}
		}
	}
	var out bytes.Buffer
	to := json.NewEncoder(&out)
	to.SetEscapeHTML(false) // the event stays as it is shown
	to.SetIndent("", "  ")
	if err := to.Encode(p); err != nil {
		return nil, fmt.Errorf("write proof: %w", err)
	}
	return out.Bytes(), nil
}

func hashBytes(hashes []treeHash) [][]byte {
	out := make([][]byte, len(hashes))
	for i, h := range hashes {
		out[i] = bytes.Clone(h[:])
	}
	return out
}

func bytesHashes(raw [][]byte) ([]treeHash, bool) {
	out := make([]treeHash, len(raw))
	for i, b := range raw {
		if len(b) != len(out[i]) {
			return nil, false
		}
		copy(out[i][:], b)
	}
	return out, true
}

// VerifyProof verifies a proof with public keys alone and returns what is proven, and the checkpoint that proves it.
func VerifyProof(content []byte, by Signers) (broker.Event, *Checkpoint, error) {
	var none broker.Event
	var p proofFile
	if err := json.Unmarshal(content, &p); err != nil || p.Format == 0 {
		return none, nil, errors.New("this is no proof of an event: make one with `tokenbroker audit prove`")
	}
	if p.Format != proofFormat {
		return none, nil, fmt.Errorf("read proof: %w", broker.ErrNewerFormat)
	}
	c, err := parseCheckpoint(p.Checkpoint, true)
	if err != nil {
		return none, nil, err
	}
	if what := by.fault(c); what != "" {
		return none, nil, errors.New(what)
	}
	shard, err := hex.DecodeString(p.Span.Shard)
	if err != nil || len(shard) != 1 || len(p.Entry.Before) != len(link{}) {
		return none, nil, errors.New("the proof is damaged")
	}
	// The clear part is read as it is stored, with its link at the end.
	before := link(p.Entry.Before)
	at := linkOf(before, p.Entry.Clear, p.Entry.Payload)
	m, _, err := parseMeta(string(append(bytes.Clone(p.Entry.Clear), at[:]...)))
	if err != nil {
		return none, nil, errors.New("the proof is damaged: its entry can't be read")
	}
	one := signedSpan{name: trailName{shard: shard[0], tenant: p.Span.Tenant}, writer: p.Span.Writer, first: p.Span.First, count: p.Span.Count}
	inner, ok1 := bytesHashes(p.Span.Path)
	outer, ok2 := bytesHashes(p.Path)
	if !ok1 || !ok2 || m.writer != one.writer || m.seq < one.first {
		return none, nil, errors.New("the proof is damaged: its paths do not fit its entry")
	}
	root, ok := rootBy(hashLeaf(at[:]), m.seq-one.first, one.count, inner)
	if !ok {
		return none, nil, errors.New("changed: the entry is not in the span that the proof names")
	}
	one.root = root
	if root, ok = rootBy(one.leaf(), p.Index, p.Size, outer); !ok || root != c.root {
		return none, nil, fmt.Errorf("changed: the entry is not what %s has", c.name())
	}
	entry, err := openPayload(one.name, m, p.Entry.Payload)
	if err != nil {
		return none, nil, err
	}
	var shown bytes.Buffer
	if err := json.Compact(&shown, p.Event); err != nil {
		return none, nil, errors.New("the proof is damaged: its event can't be read")
	}
	for _, e := range entry.events() {
		if line, err := e.Line(); err == nil && bytes.Equal(line, shown.Bytes()) {
			return e, c, nil
		}
	}
	return none, nil, errors.New("changed: the event that the proof shows is not in the entry that was signed")
}

// openPayload reads the sealed part of an entry that was opened elsewhere.
func openPayload(name trailName, m meta, payload []byte) (storedEntry, error) {
	var entry storedEntry
	if len(payload) > 0 && payload[0] == entryBinary {
		entry, ok := parseEntry(payload, name.tenant, m)
		if !ok {
			return storedEntry{}, errors.New("changed: the entry can't be read")
		}
		return entry, nil
	}
	if err := json.Unmarshal(payload, &entry); err != nil {
		return storedEntry{}, errors.New("changed: the entry can't be read")
	}
	return entry, nil
}
