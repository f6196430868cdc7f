package vault

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"slices"
	"strconv"
	"strings"
)

// The chain of the audit trail. Every process writes a chain of its own into each stream: entries numbered from 1, each
// with a link, the SHA-256 of the link before it and of the entry itself. Clear fields and link are part of the seal's
// place. The stream ids, which the store gives, are attested by the entries that follow. The head, beside the stream,
// says where each chain ends; it is written together with the entry and carries a keyed hash. The first entry of each chain
// says where the others ended then. So who can write to the
// store but has not the keyset can't add or change an entry, drop one, or exchange two.

type link [sha256.Size]byte

// meta is the clear part of an entry.
type meta struct {
	writer    string
	seq       uint64
	time      int64 // ms
	kind      string
	connector string
	tag       string // of the subject
	// resumes is set in the first entry of a chain that follows one whose end the store lost.
	resumes *position
	// attests are the stream ids that earlier entries of this chain turned out to have.
	attests []attestation
	// found, in the first entry of a chain, are the ends of other chains that the process saw before it wrote that entry. So
	// what a process leaves can't be dropped any more, head and all, once another one has begun to write.
	found []position
	link  link
}

// position is a place in a chain.
type position struct {
	writer string
	seq    uint64
	link   link
}

type attestation struct {
	seq uint64
	id  streamID
}

const metaFormat = 1

var errMeta = errors.New("unreadable clear part")

func appendText(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// unlinked is the encoding without the link at its end: what the link is made over.
func (m meta) unlinked() []byte {
	b := make([]byte, 0, 160)
	b = append(b, metaFormat)
	b = appendText(b, m.writer)
	b = binary.AppendUvarint(b, m.seq)
	b = binary.AppendUvarint(b, uint64(m.time))
	b = appendText(b, m.kind)
	b = appendText(b, m.connector)
	b = appendText(b, m.tag)
	if m.resumes == nil {
		b = append(b, 0)
	} else {
		b = append(b, 1)
		b = appendPosition(b, *m.resumes)
	}
	b = binary.AppendUvarint(b, uint64(len(m.attests)))
	for _, a := range m.attests {
		b = binary.AppendUvarint(b, a.seq)
		b = binary.AppendUvarint(b, a.id.ms)
		b = binary.AppendUvarint(b, a.id.n)
	}
	b = binary.AppendUvarint(b, uint64(len(m.found)))
	for _, p := range m.found {
		b = appendPosition(b, p)
	}
	return b
}

func appendPosition(b []byte, p position) []byte {
	b = appendText(b, p.writer)
	b = binary.AppendUvarint(b, p.seq)
	return append(b, p.link[:]...)
}

// chain makes the link after the one before and returns the encoding.
func (m *meta) chain(before link, payload []byte) string {
	b := m.unlinked()
	m.link = linkOf(before, b, payload)
	return string(append(b, m.link[:]...))
}

func linkOf(before link, unlinked, payload []byte) link {
	const purpose = "tokenbroker/audit/link"
	var room [1024]byte // mostly enough
	b := appendJoined(room[:0], purpose)
	for _, part := range [...][]byte{before[:], unlinked, payload} { // as joined has it
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(part))), part...)
	}
	return sha256.Sum256(b)
}

// parseMeta reads the clear part; unlinked is what the link was made over.
func parseMeta(text string) (m meta, unlinked []byte, err error) {
	r := reader{rest: []byte(text)}
	if r.byte() != metaFormat {
		return meta{}, nil, errMeta
	}
	m.writer, m.seq, m.time = r.text(), r.uvarint(), int64(r.uvarint())
	m.kind, m.connector, m.tag = r.text(), r.text(), r.text()
	if r.byte() == 1 {
		p := r.position()
		m.resumes = &p
	}
	for n := r.uvarint(); n > 0 && !r.bad; n-- {
		m.attests = append(m.attests, attestation{seq: r.uvarint(), id: streamID{ms: r.uvarint(), n: r.uvarint()}})
	}
	for n := r.uvarint(); n > 0 && !r.bad; n-- {
		m.found = append(m.found, r.position())
	}
	copy(m.link[:], r.bytes(sha256.Size))
	if r.bad || len(r.rest) > 0 {
		return meta{}, nil, errMeta
	}
	return m, []byte(text[:len(text)-sha256.Size]), nil
}

type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) bytes(n uint64) []byte {
	if r.bad || n > uint64(len(r.rest)) {
		r.bad = true
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) byte() byte {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.rest)
	if r.bad || n <= 0 {
		r.bad = true
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *reader) text() string { return string(r.bytes(r.uvarint())) }

func (r *reader) position() position {
	p := position{writer: r.text(), seq: r.uvarint()}
	copy(p.link[:], r.bytes(sha256.Size))
	return p
}

// headMAC is how many bytes of keyed hash a head carries.
const headMAC = 16

// headOf encodes where a chain ends.
func (s *sealer) headOf(name trailName, p position) string {
	b := binary.BigEndian.AppendUint64(nil, p.seq)
	b = append(b, p.link[:]...)
	mac := s.hash(headMAC, "audit-head", name.tenant, string([]byte{name.shard}), p.writer, string(b))
	return string(append(b, mac...))
}

// parseHead reads a head and checks that it is one of ours for this writer.
func (s *sealer) parseHead(name trailName, writer, head string) (position, bool) {
	if len(head) != 8+sha256.Size+headMAC {
		return position{}, false
	}
	p := position{writer: writer, seq: binary.BigEndian.Uint64([]byte(head[:8]))}
	copy(p.link[:], head[8:])
	return p, subtle.ConstantTimeCompare([]byte(s.headOf(name, p)), []byte(head)) == 1
}

// HeadIDSuffix marks the field beside a writer's head that holds the stream id of its last entry.
const HeadIDSuffix = ".id"

// foundHead is a head as it is stored.
type foundHead struct {
	position
	id     string // the stream id beside it, which nothing protects
	forged bool   // not one of ours
}

// parseHeads reads the heads of a stream, by writer.
func (s *sealer) parseHeads(name trailName, fields map[string][]byte) map[string]foundHead {
	heads := make(map[string]foundHead)
	for writer, head := range fields {
		if len(writer) > len(HeadIDSuffix) && strings.HasSuffix(writer, HeadIDSuffix) {
			continue
		}
		p, ok := s.parseHead(name, writer, string(head))
		heads[writer] = foundHead{position: p, id: string(fields[writer+HeadIDSuffix]), forged: !ok}
	}
	return heads
}

// maxFound is how many heads the first entry of a chain attests: some 50 bytes each.
const maxFound = 32

// newest returns the ends of the chains that were written to last, in the order of their writers.
func newest(heads map[string]foundHead) []position {
	type end struct {
		position
		id streamID
	}
	var ends []end
	for _, h := range heads {
		// One without a readable id is older than all: it is not left out unless there are too many.
		if id, _ := parseStreamID(h.id); !h.forged {
			ends = append(ends, end{h.position, id})
		}
	}
	slices.SortFunc(ends, func(a, b end) int {
		switch {
		case b.id.less(a.id):
			return -1
		case a.id.less(b.id):
			return 1
		}
		return strings.Compare(a.writer, b.writer)
	})
	var out []position
	for _, e := range ends[:min(maxFound, len(ends))] {
		out = append(out, e.position)
	}
	slices.SortFunc(out, func(a, b position) int { return strings.Compare(a.writer, b.writer) })
	return out
}

// streamID is the id of a stream entry: the store's ms and a number within it.
type streamID struct{ ms, n uint64 }

func (id streamID) String() string {
	return strconv.FormatUint(id.ms, 10) + "-" + strconv.FormatUint(id.n, 10)
}

func (id streamID) less(other streamID) bool {
	return id.ms < other.ms || id.ms == other.ms && id.n < other.n
}

func parseStreamID(text string) (streamID, error) {
	ms, n, found := strings.Cut(text, "-")
	if !found {
		return streamID{}, errors.New("stream id without a dash")
	}
	var id streamID
	var err error
	if id.ms, err = strconv.ParseUint(ms, 10, 64); err != nil {
		return streamID{}, errors.New("stream id is no number")
	}
	if id.n, err = strconv.ParseUint(n, 10, 64); err != nil {
		return streamID{}, errors.New("stream id is no number")
	}
	return id, nil
}
