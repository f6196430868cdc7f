package vault

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// CheckpointSource is where checkpoints were read, for VerifySigned.
type CheckpointSource struct {
	Name  string
	Lines [][]byte
}

// SignedReport is what checkpoints say of the trail.
type SignedReport struct {
	Logs, Checkpoints int
	Entries           int // that are there as they were signed
	Unsigned          int // that no checkpoint has, although later ones are signed
	FirstUnsigned     Fault
	Until             time.Time // of the last checkpoint
	SignedBy
}

// signedTrail is what signed checkpoints say.
type signedTrail struct {
	logs   map[string][]*Checkpoint // by seq, each once
	spans  map[trailName]map[string][]*spanWalk
	trim   time.Time // before that entries may have been dropped
	since  time.Time // of the first checkpoint
	until  time.Time // of the last one
	faults []Fault
	report SignedReport
	again  func(ctx context.Context) error // looks how far it may be trimmed by now
}

// checkpointsName stands in reports in the place of a stream.
const checkpointsName = "checkpoints"

// collect reads the checkpoints of all sources.
func collect(sources []CheckpointSource, by Signers) *signedTrail {
	t := &signedTrail{logs: make(map[string][]*Checkpoint), spans: make(map[trailName]map[string][]*spanWalk)}
	known := make(map[treeHash]bool)
	for _, src := range sources {
		for i, line := range src.Lines {
			place := src.Name + ":" + strconv.Itoa(i+1)
			c, err := ParseCheckpoint(line)
			if err != nil {
				t.bad(place, "changed or forged: %v", err)
				continue
			}
			if what := by.fault(c); what != "" {
				t.bad(place, "%s", what)
				continue
			}
			if h := c.hash(); !known[h] { // it may be in several places, and twice in one
				known[h] = true
				t.logs[c.Log] = append(t.logs[c.Log], c)
				t.report.Checkpoints++
				t.report.add(c)
			}
		}
	}
	if what := t.report.mixed(by); what != "" {
		t.bad("all", "%s", what)
	}
	t.report.Logs = len(t.logs)
	for _, log := range slices.Sorted(maps.Keys(t.logs)) {
		list := t.logs[log]
		slices.SortFunc(list, func(a, b *Checkpoint) int { return cmp.Compare(a.Seq, b.Seq) })
		for _, c := range list {
			if t.trim, t.until = latest(t.trim, c.TrimBefore), latest(t.until, c.Time); t.since.IsZero() || c.Time.Before(t.since) {
				t.since = c.Time
			}
		}
	}
	for _, log := range slices.Sorted(maps.Keys(t.logs)) {
		t.follow(t.logs[log])
	}
	for name := range t.spans {
		for _, spans := range t.spans[name] {
			slices.SortFunc(spans, func(a, b *spanWalk) int { return cmp.Compare(a.first, b.first) })
		}
	}
	return t
}

func (t *signedTrail) bad(place, format string, args ...any) {
	t.faults = append(t.faults, Fault{Stream: checkpointsName, Entry: place, What: fmt.Sprintf(format, args...)})
}

// trimmed tells whether what was there at that time may have been dropped because of its age.
func (t *signedTrail) trimmed(at time.Time) bool { return at.Before(t.trim) }

// follow checks one log and takes its spans.
func (t *signedTrail) follow(log []*Checkpoint) {
	first := log[0]
	if first.Seq > 1 && !t.trimmed(first.Time) {
		t.bad(first.name(), "dropped: %s before it are missing", counted(first.Seq-1, "checkpoint"))
	}
	for i, c := range log {
		for _, s := range c.spans {
			if t.spans[s.name] == nil {
				t.spans[s.name] = make(map[string][]*spanWalk)
			}
			t.spans[s.name][s.writer] = append(t.spans[s.name][s.writer], &spanWalk{signedSpan: s, of: c})
		}
		for _, o := range c.seen {
			t.sawOther(c, o)
		}
		if i == 0 {
			continue
		}
		switch before := log[i-1]; {
		case before.Seq == c.Seq:
			t.bad(c.name(), "forged: there are two of them, and both are signed: somebody else has the signing key, or it ran twice from one copy of a machine")
		case before.Seq+1 != c.Seq:
			t.bad(before.name(), "dropped: %s behind it are missing", counted(c.Seq-before.Seq-1, "checkpoint"))
		case c.prev != before.hash():
			t.bad(c.name(), "forged: it does not follow from the one before it")
		}
	}
}

// sawOther checks what a log said of another one that was there when it began.
func (t *signedTrail) sawOther(by *Checkpoint, o seenLog) {
	if t.trimmed(fromMillis(o.time)) {
		return
	}
	for _, c := range t.logs[o.log] {
		if c.Seq == o.seq {
			if c.hash() != o.hash {
				t.bad(c.name(), "changed: %s says that another one was there", by.name())
			}
			return
		}
	}
	t.bad(by.name(), "dropped: it says that checkpoint %d of log %s was there, which is missing", o.seq, o.log)
}

// spanWalk is a span that is followed along the stream.
type spanWalk struct {
	signedSpan
	of   *Checkpoint
	tree tree
	id   string // of its first entry
	// event is the first one of that entry.
	event string
}

// signedStream is what of the checkpoints is about the stream of a walk.
type signedStream struct {
	trail *signedTrail
	spans map[string][]*spanWalk
	at    map[string]int // which span comes next, by writer
	// unsigned are entries that no span has.
	unsigned int
	first    Fault
}

func (t *signedTrail) of(name trailName) *signedStream {
	s := &signedStream{trail: t, spans: t.spans[name], at: make(map[string]int)}
	for _, spans := range s.spans {
		for _, one := range spans {
			one.tree, one.id, one.event = tree{}, "", "" // the stream may be walked again
		}
	}
	return s
}

// unsignedSlack is how much later than an entry a checkpoint of its own process may be, at most.
const unsignedSlack = 2 * time.Minute

// entry takes the next good entry of the stream.
func (s *signedStream) entry(m meta, id streamID, event string) {
	spans := s.spans[m.writer]
	i := s.at[m.writer]
	for i < len(spans) && spans[i].last() < m.seq {
		i++
	}
	s.at[m.writer] = i
	if i < len(spans) && spans[i].first <= m.seq {
		one := spans[i]
		if one.tree.size == 0 {
			one.id, one.event = id.String(), event
		}
		one.tree.add(hashLeaf(m.link[:]))
		return
	}
	at := fromMillis(int64(id.ms))
	if at.Before(s.trail.since) || at.After(s.trail.until.Add(-unsignedSlack)) {
		return // from before anything was signed, or not signed yet
	}
	if s.unsigned++; s.unsigned == 1 {
		s.first = Fault{Entry: id.String(), Event: event, What: "no checkpoint has it"}
	}
}

// announced tells whether what was trimmed of the stream was said before in a signed checkpoint. What was trimmed before there were any is
// nobody's to judge.
func (w *walk) announced() bool {
	upto := fromMillis(int64(min(w.cut.upto.ms, maxMs)))
	return w.cut.version == 0 || w.signed.trail.trimmed(upto) || upto.Before(w.signed.trail.since)
}

// signedFault compares what was found of the stream with what was signed.
func (w *walk) signedFault(ctx context.Context) (*Fault, error) {
	s := w.signed
	if !w.announced() {
		// Perhaps that was said after the checkpoints were read.
		if err := s.trail.again(ctx); err != nil {
			return nil, err
		}
	}
	if !w.announced() {
		return &Fault{Entry: w.cut.Upto, What: "dropped: entries were trimmed, and no signed checkpoint says that they may be"}, nil
	}
	var first *Fault
	var place uint64
	for _, writer := range slices.Sorted(maps.Keys(s.spans)) {
		at := w.writer(writer)
		for _, one := range s.spans[writer] {
			fault := s.compare(at, one)
			if fault == nil {
				continue
			}
			if ms := uint64(one.of.Time.UnixMilli()); first == nil || ms < place {
				first, place = fault, ms
			}
			break
		}
	}
	return first, nil
}

func (s *signedStream) compare(at *writerWalk, one *spanWalk) *Fault {
	signed := fmt.Sprintf("%s, signed %s", one.of.name(), one.of.Time.Format(time.RFC3339))
	fault := &Fault{Entry: one.id, Event: one.event}
	switch {
	case one.tree.size == one.count && one.tree.root() == one.root:
		s.trail.report.Entries += int(one.count)
		return nil
	case one.tree.size == one.count:
		fault.What = fmt.Sprintf("changed: %d to %d of a chain are not the entries that %s, has; the first of them is named", one.first, one.last(), signed)
		return fault
	case at.told >= one.last():
		return nil // that they are missing is told already
	case (one.first <= at.base || at.lost >= one.last()) && s.trail.trimmed(one.of.Time.Add(-unsignedSlack)):
		// All of it, or its beginning, was dropped because of its age, or was found lost before it was. Where the stream begins, and what
		// is lost, is what whoever has the keyset can write: that it may be so must have been signed.
		return nil
	}
	fault.Event, fault.After = "", at.lastEvent
	if at.lastID != "" {
		fault.Entry = at.lastID
	}
	fault.What = fmt.Sprintf("dropped: %s missing at the end of a chain, of those that %s, has", entries(one.count-one.tree.size), signed)
	return fault
}

// VerifySigned is Verify, and compares the trail with what checkpoints say of it: those in the store, and those of the sources, which lie
// where who can write to the store can't. The signers are all that may have signed them.
func (s *Store) VerifySigned(ctx context.Context, by Signers, sources []CheckpointSource) (Report, error) {
	own, err := s.storedCheckpoints(ctx)
	if err != nil {
		return Report{}, fmt.Errorf("verify: %w", err)
	}
	signed := collect(append([]CheckpointSource{own}, sources...), by)
	signed.again = func(ctx context.Context) error {
		own, err := s.storedCheckpoints(ctx)
		if err == nil {
			signed.trim = latest(signed.trim, collect([]CheckpointSource{own}, by).trim)
		}
		return err
	}
	report, err := s.verifyAll(ctx, signed)
	report.Faults = append(slices.Clone(signed.faults), report.Faults...)
	signed.report.Until = signed.until
	report.Signed = &signed.report
	return report, err
}

// VerifyCheckpoints verifies checkpoints alone: that they are signed, by whom, and that none of a log is missing between others. What they are about is not
// looked at; how far a log went on behind its last one here nobody can tell.
func VerifyCheckpoints(sources []CheckpointSource, by Signers) (SignedReport, []Fault) {
	t := collect(sources, by)
	t.report.Until = t.until
	return t.report, t.faults
}

// storedCheckpoints reads those in the store.
func (s *Store) storedCheckpoints(ctx context.Context) (CheckpointSource, error) {
	src := CheckpointSource{Name: "redis"}
	for from := "-"; ; {
		found, err := readPatiently(ctx, func(ctx context.Context) ([][]StreamEntry, error) {
			return s.cfg.Backend.Streams(ctx, []StreamQuery{{Key: checkpointsKey(), From: from, To: "+", Limit: verifyChunk}})
		})
		if err != nil {
			return src, err
		}
		for _, e := range found[0] {
			src.Lines, from = append(src.Lines, []byte(e.Meta)), "("+e.ID
		}
		if len(found[0]) < verifyChunk {
			return src, nil
		}
	}
}

// withSigned adds the streams that only checkpoints tell of.
func (t *signedTrail) withSigned(names []foundTrail) []foundTrail {
	known := make(map[trailName]bool, len(names))
	for _, n := range names {
		known[n.name] = true
	}
	for name, writers := range t.spans {
		for _, spans := range writers {
			if last := spans[len(spans)-1]; !known[name] && !t.trimmed(last.of.Time) {
				known[name] = true
				names = append(names, foundTrail{name: name})
			}
		}
	}
	slices.SortFunc(names, func(a, b foundTrail) int { return a.name.compare(b.name) })
	return names
}

func counted(n uint64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strings.Join([]string{strconv.FormatUint(n, 10), noun + "s"}, " ")
}
