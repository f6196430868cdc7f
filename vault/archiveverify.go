package vault

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
)

// ArchiveFile is an archive to be verified, unpacked.
type ArchiveFile struct {
	Name string
	From io.Reader
}

// ArchiveReport is what verifying archives found.
type ArchiveReport struct {
	Entries, Events int
	Signed          int // entries that a checkpoint has; the others are chained alone, and anybody can write such a chain
	FirstUnsigned   Fault
	Erased          int // entries of tenants whose keyset was destroyed: they say nothing any more
	Checkpoints     int
	SignedBy
	Selection bool // there are files that have a part of the entries only
	Faults    []Fault
}

// archiveWalk verifies files, one behind the other.
type archiveWalk struct {
	report ArchiveReport
	by     Signers
	chains map[trailName]map[string]*archivedChain
	used   map[treeHash]*Checkpoint

	file     string
	line     int
	head     *archiveHead
	stream   *trailName
	ended    bool
	entries  int
	events   int
	lastGood string
}

// archivedChain is what is known of a chain: the link of each entry, and which of them are there in clear.
type archivedChain struct {
	links map[uint64]treeHash
	shown map[uint64]string // the first event
	// signed are those of shown that a checkpoint has.
	signed map[uint64]bool
	last   uint64
}

// maxArchiveLine bounds a line: a checkpoint of a busy broker has some hundred kilobytes.
const maxArchiveLine = 64 << 20

// VerifyArchive verifies archives with public keys alone, or, without any, their chains.
func VerifyArchive(files []ArchiveFile, by Signers) ArchiveReport {
	w := &archiveWalk{by: by, chains: make(map[trailName]map[string]*archivedChain), used: make(map[treeHash]*Checkpoint)}
	for _, f := range files {
		w.read(f)
	}
	w.compare()
	return w.report
}

func (w *archiveWalk) bad(event, format string, args ...any) {
	w.report.Faults = append(w.report.Faults, Fault{Stream: w.file, Entry: "line " + strconv.Itoa(w.line), Event: event, After: w.lastGood, What: fmt.Sprintf(format, args...)})
}

// read takes one file, up to the first thing that is wrong with it.
func (w *archiveWalk) read(f ArchiveFile) {
	w.file, w.line, w.head, w.stream, w.ended, w.entries, w.events, w.lastGood = f.Name, 0, nil, nil, false, 0, 0, ""
	lines := bufio.NewReaderSize(f.From, 1<<16)
	for {
		text, err := readLine(lines)
		w.line++
		switch {
		case err == io.EOF && w.ended:
			return
		case err == io.EOF:
			w.bad("", "dropped: the file ends before its end: it was cut off; take another copy of it")
			return
		case err != nil:
			w.bad("", "changed: the file is damaged (%v): what is before this line is good; take another copy of it", err)
			return
		case w.ended:
			w.bad("", "forged: there is something behind the end")
			return
		}
		if !w.take(text) {
			return
		}
	}
}

func readLine(r *bufio.Reader) ([]byte, error) {
	var out []byte
	for {
		part, more, err := r.ReadLine()
		if err != nil {
			return nil, err
		}
		if out = append(out, part...); !more {
			return out, nil
		}
		if len(out) > maxArchiveLine {
			return nil, errors.New("a line is longer than any should be")
		}
	}
}

// take verifies a line; false: the rest of the file is not looked at.
func (w *archiveWalk) take(text []byte) bool {
	var l archiveLine
	if err := json.Unmarshal(text, &l); err != nil {
		w.bad("", "changed: the line can't be read")
		return false
	}
	switch {
	case w.line == 1:
		if l.Head == nil || l.Head.Format != archiveFormat && l.Head.Format != archiveOld {
			w.bad("", "this is no archive of an audit trail that this version reads")
			return false
		}
		w.head = l.Head
		w.report.Selection = w.report.Selection || !l.Head.Complete
	case l.Stream != nil:
		shard, err := hex.DecodeString(l.Stream.Shard)
		if err != nil || len(shard) != 1 {
			w.bad("", "changed: the line can't be read")
			return false
		}
		w.stream = &trailName{shard: shard[0], tenant: l.Stream.Tenant}
	case l.Entry != nil:
		return w.entry(l.Entry)
	case l.Links != nil:
		return w.links(l.Links)
	case l.Checkpoint != 0:
		return w.checkpoint(text)
	case l.End != nil:
		if w.ended = true; l.End.Entries != w.entries || l.End.Events != w.events {
			w.bad("", "dropped: the file had %d entries with %d events, and has %d with %d", l.End.Entries, l.End.Events, w.entries, w.events)
			return false
		}
	default:
		w.bad("", "changed: the line can't be read")
		return false
	}
	return true
}

func (w *archiveWalk) chain(writer string) *archivedChain {
	if w.chains[*w.stream] == nil {
		w.chains[*w.stream] = make(map[string]*archivedChain)
	}
	c := w.chains[*w.stream][writer]
	if c == nil {
		c = &archivedChain{links: make(map[uint64]treeHash), shown: make(map[uint64]string), signed: make(map[uint64]bool)}
		w.chains[*w.stream][writer] = c
	}
	return c
}

func (w *archiveWalk) entry(e *archiveEntry) bool {
	var shown string
	var first struct {
		ID string `json:"id"`
	}
	if len(e.Events) > 0 && json.Unmarshal(e.Events[0], &first) == nil {
		shown = first.ID
	}
	m, unlinked, err := parseMeta(string(e.Clear))
	if w.stream == nil || err != nil {
		w.bad(shown, "changed: the entry can't be read")
		return false
	}
	c := w.chain(m.writer)
	before, known := c.links[m.seq-1]
	if len(e.Before) > 0 {
		given := treeHash{}
		copy(given[:], e.Before)
		if known && given != before || len(e.Before) != len(given) {
			w.bad(shown, "changed: it does not follow from the entry before it")
			return false
		}
		before, known = given, true
		if _, there := c.shown[c.last]; w.head.Complete && there && c.last+1 < m.seq {
			w.bad(shown, "dropped: %s missing before it", entries(m.seq-c.last-1))
			return false
		}
	}
	switch {
	case m.seq > 1 && !known:
		w.bad(shown, "dropped: the entry before it in its chain is missing")
		return false
	case !e.Erased && linkOf(link(before), unlinked, e.Payload) != m.link:
		w.bad(shown, "changed: its link does not follow from it and the entry before it")
		return false
	}
	if had, there := c.links[m.seq]; there && had != treeHash(m.link) {
		w.bad(shown, "changed: another entry has its place")
		return false
	}
	_, twice := c.shown[m.seq] // who began anew after a crash archived some twice
	if e.Erased {
		// Its link is all that can be held against what was signed.
		c.links[m.seq], c.shown[m.seq], c.last, w.entries = treeHash(m.link), "", m.seq, w.entries+1
		if !twice {
			w.report.Entries, w.report.Erased = w.report.Entries+1, w.report.Erased+1
		}
		if len(e.Events) > 0 || len(e.Payload) > 0 {
			w.bad(shown, "forged: it is said to be erased, and shows something")
			return false
		}
		return true
	}
	entry, err := openPayload(*w.stream, m, e.Payload)
	if err != nil {
		w.bad(shown, "%v", err)
		return false
	}
	events := entry.events()
	for i := range events {
		line, err := events[i].Line()
		if err != nil || i >= len(e.Events) || len(events) != len(e.Events) || !bytes.Equal(line, e.Events[i]) {
			w.bad(events[i].ID, "changed: the event that is shown is not the one in the entry")
			return false
		}
	}
	w.entries, w.events = w.entries+1, w.events+len(events)
	if !twice {
		w.report.Entries, w.report.Events = w.report.Entries+1, w.report.Events+len(events)
	}
	c.links[m.seq], c.shown[m.seq], c.last = treeHash(m.link), events[0].ID, m.seq
	w.lastGood = events[len(events)-1].ID
	return true
}

func (w *archiveWalk) links(l *archiveLinks) bool {
	links, ok := bytesHashes(l.Links)
	if w.stream == nil || !ok || l.First == 0 {
		w.bad("", "changed: the line can't be read")
		return false
	}
	c := w.chain(l.Writer)
	for i, one := range links {
		seq := l.First + uint64(i)
		if had, there := c.links[seq]; there && had != one {
			w.bad(c.shown[seq], "changed: another entry has its place")
			return false
		}
		c.links[seq] = one
	}
	return true
}

func (w *archiveWalk) checkpoint(text []byte) bool {
	c, err := ParseCheckpoint(text)
	switch {
	case err != nil:
		w.bad("", "changed or forged: %v", err)
		return false
	case len(w.by.Keys) == 0:
		return true // only the chains are asked for
	}
	if what := w.by.fault(c); what != "" {
		w.bad("", "%s", what)
		return false
	}
	if w.used[c.hash()] == nil {
		w.report.add(c)
	}
	w.used[c.hash()] = c
	return true
}

// compare holds what is there against what was signed. What no checkpoint has is counted: its chain holds, which anybody can make.
func (w *archiveWalk) compare() {
	w.report.Checkpoints = len(w.used)
	if what := w.report.mixed(w.by); what != "" {
		w.report.Faults = append(w.report.Faults, Fault{Stream: checkpointsName, What: what})
	}
	checkpoints := slices.SortedFunc(maps.Values(w.used), func(a, b *Checkpoint) int { return a.Time.Compare(b.Time) })
	for _, c := range checkpoints {
		for _, s := range c.spans {
			chain := w.chains[s.name][s.writer]
			if chain == nil {
				continue
			}
			var t tree
			var shown []uint64
			first := ""
			for seq := s.first; seq <= s.last(); seq++ {
				l, there := chain.links[seq]
				if !there {
					break
				}
				if event, here := chain.shown[seq]; here {
					shown = append(shown, seq)
					first = cmp.Or(first, event)
				}
				t.add(hashLeaf(l[:]))
			}
			switch {
			case t.size < s.count: // its beginning was dropped before the archive, or its end is in another one
			case t.root() != s.root:
				w.report.Faults = append(w.report.Faults, Fault{Stream: s.name.String(), Event: first,
					What: fmt.Sprintf("changed: entries %d to %d of a chain are not those that %s has; the first of them is named", s.first, s.last(), c.name())})
			default:
				for _, seq := range shown {
					chain.signed[seq] = true
				}
			}
		}
	}
	for _, name := range slices.SortedFunc(maps.Keys(w.chains), trailName.compare) {
		for _, writer := range slices.Sorted(maps.Keys(w.chains[name])) {
			chain := w.chains[name][writer]
			w.report.Signed += len(chain.signed)
			for _, seq := range slices.Sorted(maps.Keys(chain.shown)) {
				if !chain.signed[seq] && w.report.FirstUnsigned.What == "" {
					w.report.FirstUnsigned = Fault{Stream: name.String(), Entry: fmt.Sprintf("%d of chain %s", seq, writer), Event: chain.shown[seq], What: "no checkpoint in these files has it"}
				}
			}
		}
	}
}
