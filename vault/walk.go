package vault

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"tokenbroker/broker"
)

// verifyChunk is how many entries are read at once.
const verifyChunk = 500

// walk verifies one stream.
type walk struct {
	store   *Store
	name    trailName
	writers map[string]*writerWalk
	order   []string
	last    string // the id of the last good event
	lost    []Fault
	cut     *cut // where the stream begins
	// seen, if set, hears of each good entry.
	seen func(goodEntry)
	// signed, if set, is what signed checkpoints say of the stream.
	signed *signedStream

	entries, events int
	// alarms are entries of what does not belong where it lies, alarm the first event of them.
	alarms int
	alarm  string
	erased int // of the entries, those whose key was destroyed with the tenant's keyset
}

// writerWalk is how far the chain of one writer was followed.
type writerWalk struct {
	at        position
	lastID    string // of the last good entry
	lastEvent string
	places    map[uint64]placed
	wanted    *position // what the head said before the walk
	wantedID  string    // and the stream id that is noted beside it, which nothing protects: for naming neighbours only
	forged    bool      // its head is not one of ours
	resumed   bool      // another chain goes on in its place
	lost      uint64    // up to this place its entries are known to be missing
	told      uint64    // likewise, and this walk has said so
	base      uint64    // up to this place its entries were dropped because of their age (cut.go)
	gone      bool      // and there are none behind it
}

// goodEntry is an entry that is as it was written.
type goodEntry struct {
	id       streamID
	meta     meta
	before   link // of the entry before it in its chain
	unlinked []byte
	payload  []byte
	entry    storedEntry
	// erased: its key was destroyed with its tenant's keyset. It has no payload, and of the entry what stands in clear.
	erased bool
}

// placed is an entry that was good.
type placed struct {
	id   streamID
	link link
}

func (w *walk) run(ctx context.Context) (*Fault, error) {
	heads, _, at, fault, err := w.beside(ctx)
	if err != nil || fault != nil {
		return fault, err
	}
	w.begin(at)
	w.want(heads)
	fault, err = w.each(ctx, "-", w.entry)
	if err != nil {
		return nil, err
	}
	if fault == nil {
		if fault, err = w.ends(ctx); err != nil || fault == nil {
			return nil, err
		}
		return fault, nil
	}
	if fault.Event == "" && fault.Before == "" {
		fault.Before, err = w.readableAfter(ctx, fault.Entry)
	}
	return fault, err
}

// want notes what the heads say before the walk.
func (w *walk) want(heads map[string]foundHead) {
	for _, name := range slices.Sorted(maps.Keys(heads)) {
		h, writer := heads[name], w.writer(name)
		writer.forged, writer.wantedID = h.forged, h.id
		if !h.forged {
			p := h.position
			writer.wanted = &p
		}
	}
}

// each calls check with the entries from a stream id on until it returns a fault or an error.
func (w *walk) each(ctx context.Context, from string, check func(StreamEntry) (*Fault, error)) (*Fault, error) {
	for {
		query := StreamQuery{Key: streamKey(w.name.shard, w.name.tenant), From: from, To: "+", Limit: verifyChunk}
		found, err := readPatiently(ctx, func(ctx context.Context) ([][]StreamEntry, error) {
			return w.store.cfg.Backend.Streams(ctx, []StreamQuery{query})
		})
		if err != nil {
			return nil, err
		}
		for _, e := range found[0] {
			if fault, err := check(e); fault != nil || err != nil {
				return fault, err
			}
			from = "(" + e.ID
		}
		if len(found[0]) < verifyChunk {
			return nil, nil
		}
	}
}

func (w *walk) writer(name string) *writerWalk {
	writer := w.writers[name]
	if writer == nil {
		writer = &writerWalk{at: position{writer: name}, places: make(map[uint64]placed)}
		if g, gone := w.cut.gone[goneNameOf(name)]; gone {
			writer.at.seq, writer.base, writer.gone = g.seq, g.seq, true
		}
		w.writers[name] = writer
		w.order = append(w.order, name)
	}
	return writer
}

// entry checks the next entry of the stream. broker.ErrKeyNotYet: nothing can be said of it until its key is here.
func (w *walk) entry(e StreamEntry) (*Fault, error) {
	if at, err := parseStreamID(e.ID); err == nil && w.cut.version > 0 && !w.cut.upto.less(at) {
		return nil, nil // said to be dropped; a step that stopped in the middle left it, and the next one takes it away
	}
	unreadable := func(what string) (*Fault, error) { return &Fault{Entry: e.ID, After: w.last, What: what}, nil }
	m, unlinked, err := parseMeta(e.Meta)
	if err != nil {
		return unreadable("changed or forged: its clear part can't be read")
	}
	id, err := parseStreamID(e.ID)
	if err != nil {
		return unreadable("changed or forged: its id can't be read")
	}
	payload, entry, err := w.store.openEntry(w.name, e.TrailEntry)
	if errors.Is(err, broker.ErrKeyNotYet) {
		return nil, fmt.Errorf("entry %s: %w", e.ID, err)
	}
	erased := errors.Is(err, broker.ErrTenantErased)
	if erased {
		// Its key was destroyed with the tenant's keyset. What it says is gone, and whether its link follows from that; that it is there,
		// in its place among those that others and the head tell of, is not.
		entry, err = storedEntry{Type: m.kind, Connector: m.connector, Time: m.time}, nil
		w.erased++
	}
	if err != nil {
		return unreadable("changed or forged: its seal does not open here")
	}
	return w.opened(e.ID, goodEntry{id: id, meta: m, unlinked: unlinked, payload: payload, entry: entry, erased: erased}), nil
}

// opened checks an entry that could be read; it is good if nothing is returned.
func (w *walk) opened(at string, e goodEntry) *Fault {
	m, events := e.meta, e.entry.events()
	bad := func(what string) *Fault { return &Fault{Entry: at, Event: events[0].ID, What: what} }
	writer := w.writer(m.writer)
	switch {
	case m.seq <= writer.at.seq:
		return bad("reordered or repeated: an entry of an earlier place in its chain lies behind a later one")
	case m.seq > writer.at.seq+1:
		return writer.gap(m.seq-1, at, events[0].ID, "between the entries of a chain")
	case !e.erased && linkOf(writer.at.link, e.unlinked, e.payload) != m.link:
		return bad("changed: its link does not follow from the entry before it")
	}
	for _, a := range m.attests {
		if !writer.had(a.seq, a.id) {
			return bad(fmt.Sprintf("reordered: it says that entry %d of its chain had the stream id %s, which it has not", a.seq, a.id))
		}
		// Kept: after a lost answer an id may be attested twice.
	}
	if r := m.resumes; r != nil {
		old := w.writer(r.writer)
		if old.at.seq < r.seq {
			w.loses(old, r.seq, at, events[0].ID, "which the store had acknowledged and lost")
		} else if !old.has(r.seq, r.link) {
			w.replaced(old, r.seq, at, events[0].ID)
		}
		// Its head may be gone with its last entries, and says nothing that is not known from here.
		old.resumed = true
	}
	for _, f := range m.found {
		switch old := w.writer(f.writer); {
		case old.at.seq < f.seq: // which may be since its writer looked
			w.loses(old, f.seq, at, events[0].ID, "that were there when the next chain began")
		case !old.has(f.seq, f.link):
			w.replaced(old, f.seq, at, events[0].ID)
		}
	}
	if want := writer.wanted; want != nil && want.seq == m.seq && want.link != m.link {
		return bad("changed: the head names another entry in its place")
	}
	e.before = writer.at.link
	writer.at = position{writer: m.writer, seq: m.seq, link: m.link}
	writer.places[m.seq] = placed{id: e.id, link: m.link}
	writer.lastID = at
	if last := events[len(events)-1].ID; last != "" {
		writer.lastEvent, w.last = last, last
	}
	w.entries++
	if !e.erased {
		w.events += len(events)
	}
	if m.kind == string(broker.EventIntegrityFailed) {
		if w.alarms++; w.alarms == 1 {
			w.alarm = events[0].ID
		}
	}
	if w.signed != nil {
		w.signed.entry(m, e.id, events[0].ID)
	}
	if w.seen != nil {
		w.seen(e)
	}
	return nil
}

// loses notes that the end of a chain is missing, up to the place seq; once, whoever tells of it.
func (w *walk) loses(old *writerWalk, seq uint64, id, event, which string) {
	if seq <= old.lost {
		return
	}
	lost := old.gap(seq, id, event, which)
	lost.Lost, old.lost, old.told = true, seq, seq
	w.lost = append(w.lost, *lost)
}

// replaced notes that another entry has the place seq than the one of which a later entry says that it was there. Both are
// its writer's, who goes on from where the store was set back to if it was not told that the first one was written.
func (w *walk) replaced(old *writerWalk, seq uint64, id, event string) {
	if seq <= old.lost {
		return
	}
	old.lost, old.told = seq, seq
	w.lost = append(w.lost, Fault{Entry: old.placed(seq), Before: event, Lost: true, What: fmt.Sprintf(
		"dropped: an entry is missing of which entry %s says that it was there, and another one of its writer has its place", id)})
}

// placed is the stream id of the entry at that place.
func (w *writerWalk) placed(seq uint64) string {
	at := w.places[seq].id
	return at.String()
}

// gap is the fault that the chain should reach the place seq before the entry of that id and event.
func (w *writerWalk) gap(seq uint64, id, event, which string) *Fault {
	f := &Fault{Entry: id, After: w.lastEvent, Before: event, What: fmt.Sprintf("dropped: %s missing %s", entries(seq-w.at.seq), which)}
	if w.lastID != "" {
		f.Entry = w.lastID
	}
	return f
}

func entries(n uint64) string {
	if n == 1 {
		return "1 entry is"
	}
	return fmt.Sprintf("%d entries are", n)
}

// ends compares where the chains end with what the heads said before the walk, and with what they say after it.
func (w *walk) ends(ctx context.Context) (*Fault, error) {
	if len(w.order) == 0 && w.cut.version == 0 {
		return &Fault{What: "dropped: nothing is left of a stream that the store knows of"}, nil
	}
	after, _, _, fault, err := w.beside(ctx)
	if err != nil || fault != nil {
		return fault, err
	}
	for _, name := range w.order {
		writer := w.writers[name]
		fault := &Fault{Entry: writer.lastID, After: writer.lastEvent}
		head, there := after[name]
		switch want := writer.wanted; {
		case writer.forged || there && head.forged:
			fault.What = "forged: the head of a chain is not one of ours"
		case writer.gone, writer.resumed, !there && writer.at.seq == 0 && writer.lost > 0:
			continue // what is missing is known already
		case want != nil && want.seq > writer.at.seq:
			fault.What = fmt.Sprintf("dropped: %s missing at the end of a chain", entries(want.seq-writer.at.seq))
		case !there:
			fault.What = "dropped: the head of a chain is missing, and perhaps entries before it"
		case head.seq < writer.at.seq:
			fault.What = "changed: the head of a chain is older than its entries"
		default:
			continue
		}
		return fault, w.neighbours(ctx, fault, writer.wantedID)
	}
	return nil, nil
}

// neighbours names events around the place where the end of a chain should be, as far as that is known.
func (w *walk) neighbours(ctx context.Context, fault *Fault, place string) (err error) {
	at, err := parseStreamID(place)
	if err != nil {
		return nil // nobody knows where it was
	}
	if fault.Before, err = w.readableAfter(ctx, at.String()); err != nil || fault.After != "" {
		return err
	}
	_, err = w.each(ctx, "-", func(e StreamEntry) (*Fault, error) {
		id, err := parseStreamID(e.ID)
		if err != nil || !id.less(at) {
			return &Fault{}, nil
		}
		if _, entry, err := w.store.openEntry(w.name, e.TrailEntry); err == nil {
			events := entry.events()
			fault.After = events[len(events)-1].ID
		}
		return nil, nil
	})
	return err
}

// readableAfter returns the first event behind the stream id that can be read, "" if there is none.
func (w *walk) readableAfter(ctx context.Context, id string) (event string, err error) {
	_, err = w.each(ctx, "("+id, func(e StreamEntry) (*Fault, error) {
		if _, entry, err := w.store.openEntry(w.name, e.TrailEntry); err == nil {
			event = entry.events()[0].ID
		}
		if event == "" {
			return nil, nil
		}
		return &Fault{}, nil
	})
	return event, err
}
