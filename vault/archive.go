package vault

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"tokenbroker/broker"
)

// An archive is a file of JSON Lines that verifies on its own (broker/decisions/0031-signed-trail.md): a header; for each stream a line that
// names it and the entries in clear, each with what its link is made over; where a span that a checkpoint signed has entries that are not in
// the file, their links, which are hashes; the checkpoints; and an end, that a file which was cut off is noticed.

// archiveFormat has checkpoints that name the installation; archiveOld is read too.
const (
	archiveOld    = 1
	archiveFormat = 2
)

// archiveLine is any line but a checkpoint.
type archiveLine struct {
	Head   *archiveHead   `json:"archive,omitempty"`
	Stream *archiveStream `json:"stream,omitempty"`
	Entry  *archiveEntry  `json:"entry,omitempty"`
	Links  *archiveLinks  `json:"links,omitempty"`
	End    *archiveEnd    `json:"end,omitempty"`
	// Checkpoint tells the line of a checkpoint from the others.
	Checkpoint int `json:"checkpoint,omitempty"`
}

type archiveHead struct {
	Format  int       `json:"format"`
	Created time.Time `json:"created"`
	// Complete: of each stream, all entries between the first and the last that are here.
	Complete bool   `json:"complete"`
	What     string `json:"what,omitempty"`
}

type archiveStream struct {
	Tenant string `json:"tenant"`
	Shard  string `json:"shard"`
}

type archiveEntry struct {
	ID      string `json:"id"`
	Before  []byte `json:"before,omitempty"` // the link before it, where the entry before it in its chain is not here
	Clear   []byte `json:"clear"`            // with the link at its end
	Payload []byte `json:"payload"`
	// Erased: its key was destroyed with its tenant's keyset. What is left is the clear part with the link, and so its place in the chain
	// and in what was signed.
	Erased bool              `json:"erased,omitempty"`
	Events []json.RawMessage `json:"events"` // for people: they follow from the payload, and are compared with it
}

type archiveLinks struct {
	Writer string   `json:"writer"`
	First  uint64   `json:"first"`
	Links  [][]byte `json:"links"`
}

type archiveEnd struct {
	Entries int `json:"entries"`
	Events  int `json:"events"`
}

// ExportQuery says what an export has; zero fields leave nothing out.
type ExportQuery struct {
	Tenant, Subject, Connector string
	Type                       broker.EventType
	Since, Until               time.Time
}

func (q ExportQuery) complete() bool { return q == ExportQuery{} || q == ExportQuery{Tenant: q.Tenant} }

func (q ExportQuery) has(good goodEntry) bool {
	at := fromMillis(good.entry.Time)
	return (q.Subject == "" || good.entry.Subject == q.Subject) && (q.Connector == "" || good.entry.Connector == q.Connector) &&
		(q.Type == "" || good.entry.Type == string(q.Type)) && (q.Since.IsZero() || !at.Before(q.Since)) && (q.Until.IsZero() || at.Before(q.Until))
}

// archiver writes one file.
type archiver struct {
	to      *json.Encoder
	signed  *signedTrail
	used    map[*Checkpoint]bool
	end     archiveEnd
	writing error
}

func newArchiver(w io.Writer, signed *signedTrail, head archiveHead) *archiver {
	a := &archiver{to: json.NewEncoder(w), signed: signed, used: make(map[*Checkpoint]bool)}
	a.to.SetEscapeHTML(false)
	head.Format = archiveFormat
	a.put(archiveLine{Head: &head})
	return a
}

func (a *archiver) put(line any) {
	if a.writing == nil {
		a.writing = a.to.Encode(line)
	}
}

// archiveChain is how far a chain is in the file.
type archiveChain struct {
	written uint64 // the last entry that is there
	span    *spanWalk
	links   []treeHash // of the span, from its beginning
	here    int        // how many of those entries are in the file
}

// stream writes the entries up to an id which the selection has, most of them at once; last is the id of the last one that was looked at, more
// that there are others. A fault: nothing behind it is written.
func (a *archiver) stream(ctx context.Context, s *Store, name trailName, to string, most int, has func(goodEntry) bool) (last string, more bool, fault *Fault, err error) {
	w := s.walkOf(name)
	heads, _, at, fault, err := w.beside(ctx)
	if err != nil || fault != nil {
		return "", false, fault, err
	}
	w.begin(at)
	w.want(heads)
	chains := make(map[string]*archiveChain)
	named, beyond, looked := false, false, 0
	w.seen = func(good goodEntry) {
		c := chains[good.meta.writer]
		if c == nil {
			c = &archiveChain{}
			chains[good.meta.writer] = c
		}
		a.follow(c, name, good)
		if beyond || !has(good) {
			return
		}
		if !named {
			a.put(archiveLine{Stream: &archiveStream{Tenant: name.tenant, Shard: hex.EncodeToString([]byte{name.shard})}})
			named = true
		}
		a.entry(c, good)
	}
	limit, bounded := streamID{}, false
	if to != "+" {
		if limit, err = parseStreamID(to); err != nil {
			return "", false, nil, fmt.Errorf("archive: %w", err)
		}
		bounded = true
	}
	fault, err = w.each(ctx, "-", func(e StreamEntry) (*Fault, error) {
		if id, err := parseStreamID(e.ID); err == nil && (bounded && limit.less(id) || looked >= most) {
			more = more || looked >= most && !(bounded && limit.less(id))
			if beyond = true; !pending(chains) {
				return &Fault{What: enough}, nil
			}
		}
		if fault, err := w.entry(e); fault != nil || err != nil {
			return fault, err
		}
		if !beyond {
			last, looked = e.ID, looked+1
		}
		return nil, nil
	})
	if fault != nil && fault.What == enough {
		fault = nil
	}
	for _, writer := range slices.Sorted(maps.Keys(chains)) {
		a.links(chains[writer], writer)
	}
	if err == nil {
		err = a.writing
	}
	return last, more, fault, err
}

// enough ends a walk early.
const enough = "enough"

// pending tells whether a span that is begun has entries behind those that are written.
func pending(chains map[string]*archiveChain) bool {
	for _, c := range chains {
		if c.span != nil && c.here > 0 && uint64(len(c.links)) < c.span.count {
			return true
		}
	}
	return false
}

// follow notes the link for the span that has it.
func (a *archiver) follow(c *archiveChain, name trailName, good goodEntry) {
	seq := good.meta.seq
	if c.span != nil && seq > c.span.last() {
		a.links(c, good.meta.writer)
		c.span = nil
	}
	if c.span == nil && a.signed != nil {
		spans := a.signed.spans[name][good.meta.writer]
		i, _ := slices.BinarySearchFunc(spans, seq, func(s *spanWalk, seq uint64) int {
			if s.last() < seq {
				return -1
			}
			return 1
		})
		if i < len(spans) && spans[i].first == seq { // one whose beginning was dropped can't be shown whole
			c.span, c.links, c.here = spans[i], nil, 0
		}
	}
	if c.span != nil {
		c.links = append(c.links, treeHash(good.meta.link))
	}
}

// links writes those of a span of which only a part is here.
func (a *archiver) links(c *archiveChain, writer string) {
	if c.span == nil || c.here == 0 {
		return
	}
	a.used[c.span.of] = true
	if c.here < len(c.links) {
		a.put(archiveLine{Links: &archiveLinks{Writer: writer, First: c.span.first, Links: hashBytes(c.links)}})
	}
	c.here = 0
}

func (a *archiver) entry(c *archiveChain, good goodEntry) {
	e := archiveEntry{ID: good.id.String(), Clear: append(bytes.Clone(good.unlinked), good.meta.link[:]...), Payload: good.payload}
	if good.meta.seq != c.written+1 {
		e.Before = bytes.Clone(good.before[:])
	}
	if good.erased {
		e.Erased, good.entry.Events = true, nil
		a.put(archiveLine{Entry: &e})
		c.written, c.here = good.meta.seq, c.here+1
		a.end.Entries++
		return
	}
	for _, event := range good.entry.events() {
		line, err := event.Line()
		if err != nil && a.writing == nil {
			a.writing = err
		}
		e.Events = append(e.Events, line)
	}
	a.put(archiveLine{Entry: &e})
	c.written, c.here = good.meta.seq, c.here+1
	a.end.Entries, a.end.Events = a.end.Entries+1, a.end.Events+len(e.Events)
}

// finish writes the checkpoints and the end.
func (a *archiver) finish() error {
	var checkpoints []*Checkpoint
	for c := range a.used {
		checkpoints = append(checkpoints, c)
	}
	slices.SortFunc(checkpoints, func(x, y *Checkpoint) int { return x.Time.Compare(y.Time) })
	for _, c := range checkpoints {
		line, err := c.line(true)
		if err != nil {
			return err
		}
		a.put(json.RawMessage(line))
	}
	a.put(archiveLine{End: &a.end})
	return a.writing
}

// Export writes what the query asks for of the whole trail as an archive; signers and sources are as for VerifySigned. Faults are what could not
// be exported, as it was tampered with.
func (s *Store) Export(ctx context.Context, w io.Writer, q ExportQuery, by Signers, sources []CheckpointSource) (entries, events int, faults []Fault, err error) {
	own, err := s.storedCheckpoints(ctx)
	if err != nil {
		return 0, 0, nil, fmt.Errorf("export: %w", err)
	}
	signed := collect(append([]CheckpointSource{own}, sources...), by)
	names, err := s.trailNames(ctx)
	if err != nil {
		return 0, 0, nil, fmt.Errorf("export: %w", err)
	}
	a := newArchiver(w, signed, archiveHead{Created: s.cfg.Now().UTC(), Complete: q.complete(), What: "export"})
	for _, n := range names {
		if q.Tenant != "" && n.name.tenant != q.Tenant || q.Subject != "" && n.name.shard != s.Shard(n.name.tenant, q.Subject) {
			continue
		}
		_, _, fault, err := a.stream(ctx, s, n.name, "+", maxExported, q.has)
		if err != nil {
			return 0, 0, nil, fmt.Errorf("export: %w", err)
		}
		if fault != nil {
			fault.Stream = n.name.String()
			faults = append(faults, *fault)
		}
	}
	return a.end.Entries, a.end.Events, faults, a.finish()
}

// maxExported bounds nothing that there is.
const maxExported = 1 << 40
