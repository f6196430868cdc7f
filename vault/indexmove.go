package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"tokenbroker/broker"
)

// keyAgain is how long after a record was met whose key is not here yet it is looked at again.
const keyAgain = 2 * time.Second

// indexMove is one record on its way.
type indexMove struct {
	id    string
	same  []Check // that the record is still the one that was read
	quiet Check   // that nobody has marked it since by indexRemark
	had   string  // fieldPlaces as it was read
	next  []placedClass
	leave []indexPlace // where it must not lie
	gone  bool
	again time.Time // when to look at it again; zero: when it is written
}

// moveIndexed brings records of a shard to where they belong and takes them off what is due; settled are those that it did so
// with. A crash anywhere leaves the record due, so that it is done again, and what was done already changes nothing:
//
//	1 note where it is going      behind it: the place is known, should the record change before the rest is done
//	2 add it there                behind it: it lies in both; a reader shows it once, where it belongs
//	3 note that it is there, and where it is to leave
//	4 remove it from there
//	5 clear the notes, and what is due, if the record did not change, and nobody asked to look again
//
// Of two processes that do this with one record, the one that read it before it changed fails at 3 or 5, and leaves it due.
func (s *Store) moveIndexed(ctx context.Context, shard byte, ids []string) (settled int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*s.cfg.RoundTrip)
	defer cancel()
	moves, err := s.indexMoves(ctx, shard, ids)
	if err != nil {
		return 0, err
	}
	return s.moveAll(ctx, shard, moves)
}

// moveAll is moveIndexed with records that were read.
func (s *Store) moveAll(ctx context.Context, shard byte, moves []*indexMove) (settled int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*s.cfg.RoundTrip)
	defer cancel()
	if moves, err = s.noteGoing(ctx, shard, moves); err != nil {
		return 0, err
	}
	if err := s.addToSets(ctx, moves); err != nil {
		return 0, err
	}
	if moves, err = s.notePlaces(ctx, shard, moves); err != nil {
		return 0, err
	}
	if err := s.removeFromSets(ctx, moves); err != nil {
		return 0, err
	}
	return s.clearNotes(ctx, shard, moves)
}

// indexMoves reads the records and says what is to be done with each.
func (s *Store) indexMoves(ctx context.Context, shard byte, ids []string) ([]*indexMove, error) {
	keys := make([]string, 0, 2*len(ids))
	for _, id := range ids {
		keys = append(keys, connectionKey(shard, id), issuedKey(shard, id))
	}
	found, err := s.hashes(ctx, keys...)
	if err != nil {
		return nil, err
	}
	moves := make([]*indexMove, len(ids))
	for i, id := range ids {
		moves[i] = s.indexMove(shard, id, found[2*i], found[2*i+1])
	}
	return moves, nil
}

func (s *Store) indexMove(shard byte, id string, record, beside map[string][]byte) *indexMove {
	m := &indexMove{id: id, had: string(beside[fieldPlaces]), gone: len(record) == 0}
	key := connectionKey(shard, id)
	for _, field := range []string{fieldGeneration, fieldWrite} {
		check := Check{Key: key, Field: field, Kind: CheckAbsent}
		if value, there := record[field]; there {
			check.Kind, check.Value = CheckEqual, string(value)
		}
		m.same = append(m.same, check)
	}
	m.quiet = Check{Key: issuedKey(shard, id), Field: fieldMarks, Kind: CheckAbsent}
	if marks, there := beside[fieldMarks]; there {
		m.quiet.Kind, m.quiet.Value = CheckEqual, string(marks)
	}
	m.leave = append(splitPlaces(m.had), loosePlaces(beside)...)
	if !m.gone {
		conn, err := s.clearConnection(string(record[fieldTenant]), id, record, nil)
		if err != nil {
			m.leave, m.next = nil, nil // what can't be read stays where it is; readers pass over it
			for _, p := range splitPlaces(m.had) {
				m.next = append(m.next, placedClass{place: p})
			}
			if errors.Is(err, broker.ErrKeyNotYet) {
				m.again = s.cfg.Now().Add(keyAgain)
			}
			return m
		}
		m.next = s.placesOf(conn)
		if turns := conn.TurnsAt(); turns.After(s.cfg.Now()) {
			m.again = turns
		}
	}
	next := justPlaces(m.next)
	m.leave = slices.DeleteFunc(m.leave, func(p indexPlace) bool { return slices.Contains(next, p) })
	slices.Sort(m.leave)
	m.leave = slices.Compact(m.leave)
	return m
}

// steps carries out one step of each move in its shard, and returns those that were not refused. none: there is nothing to do.
func (s *Store) steps(ctx context.Context, moves []*indexMove, step func(*indexMove) (Step, bool)) (done, refused []*indexMove, err error) {
	var steps []Step
	var of []*indexMove
	for _, m := range moves {
		if st, ok := step(m); ok {
			steps, of = append(steps, st), append(of, m)
		} else {
			done = append(done, m)
		}
	}
	if len(steps) == 0 {
		return done, nil, nil
	}
	for i, r := range s.cfg.Backend.Apply(ctx, steps) {
		switch {
		case r.Err != nil:
			return nil, nil, r.Err
		case r.Verdict == VerdictRefused && steps[i].Checks[r.Refused] == of[i].quiet:
			// It stays due, for whoever marked it; what was done so far is right for the record as it is.
		case r.Verdict == VerdictRefused:
			refused = append(refused, of[i])
		default:
			done = append(done, of[i])
		}
	}
	return done, refused, nil
}

func (s *Store) noteGoing(ctx context.Context, shard byte, moves []*indexMove) ([]*indexMove, error) {
	going, _, err := s.steps(ctx, moves, func(m *indexMove) (Step, bool) {
		var fields []string
		for _, p := range m.next {
			if !slices.Contains(splitPlaces(m.had), p.place) {
				fields = append(fields, looseField(p.place), "1")
			}
		}
		return Step{Checks: m.same, Writes: []Write{{Kind: WriteHashSet, Key: issuedKey(shard, m.id), Args: fields}}}, len(fields) > 0
	})
	if err != nil {
		return nil, fmt.Errorf("note where a connection goes in the index: %w", err)
	}
	return going, nil
}

// addToSets adds the records to the sets of their places, also where they are already: that costs little, and the store may have
// lost it.
func (s *Store) addToSets(ctx context.Context, moves []*indexMove) error {
	members := make(map[string][]string)
	classes := make(map[string]classRecord)
	for _, m := range moves {
		for _, p := range m.next {
			if p.class.Tenant == "" {
				continue // unreadable: it stays where it is
			}
			set := p.place.set()
			members[set] = append(members[set], "0", p.place.member(m.id))
			classes[set] = p.class
		}
	}
	err := s.eachSet(ctx, members, func(set string, args []string) ([]Write, error) {
		text, err := json.Marshal(classes[set])
		if err != nil {
			return nil, fmt.Errorf("encode class: %w", err)
		}
		registry := classesKey(setShard(set))
		return []Write{
			{Kind: WriteSortedAdd, Key: classKey(setShard(set), set), Args: args},
			{Kind: WriteHashSet, Key: registry, Args: []string{set, string(text)}},
			// Whoever takes a set off the registry because it is empty asks whether something came since.
			{Kind: WriteHashIncrement, Key: registry, Args: []string{addedField(set), "1"}},
		}, nil
	})
	if err != nil {
		return fmt.Errorf("add to the index: %w", err)
	}
	return nil
}

// addedField, in the registry, counts what was added to the set.
func addedField(set string) string { return "#" + set }

func (s *Store) eachSet(ctx context.Context, members map[string][]string, writes func(set string, args []string) ([]Write, error)) error {
	sets := slices.Sorted(maps.Keys(members))
	return errors.Join(atOnce(len(sets), fewAtOnce, func(i int) error {
		w, err := writes(sets[i], members[sets[i]])
		if err != nil {
			return err
		}
		return s.cfg.Backend.Apply(ctx, []Step{{Writes: w}})[0].Err
	})...)
}

func (s *Store) notePlaces(ctx context.Context, shard byte, moves []*indexMove) ([]*indexMove, error) {
	there, refused, err := s.steps(ctx, moves, func(m *indexMove) (Step, bool) {
		key, places := issuedKey(shard, m.id), joinPlaces(justPlaces(m.next))
		if places == m.had {
			return Step{}, false
		}
		had := Check{Key: key, Field: fieldPlaces, Kind: CheckAbsent}
		if m.had != "" {
			had.Kind, had.Value = CheckEqual, m.had
		}
		var fields, arrived []string
		for _, p := range m.leave {
			fields = append(fields, looseField(p), "1")
		}
		if places != "" {
			fields = append(fields, fieldPlaces, places)
		}
		for _, p := range m.next {
			arrived = append(arrived, looseField(p.place))
		}
		writes := []Write{{Kind: WriteHashSet, Key: key, Args: fields}}
		if len(arrived) > 0 {
			writes = append(writes, Write{Kind: WriteHashDelete, Key: key, Args: arrived})
		}
		return Step{Checks: append(slices.Clone(m.same), had), Writes: writes}, len(fields) > 0
	})
	if err != nil {
		return nil, fmt.Errorf("note where the index has a connection: %w", err)
	}
	return there, s.markAgain(ctx, shard, refused)
}

func (s *Store) removeFromSets(ctx context.Context, moves []*indexMove) error {
	members := make(map[string][]string)
	for _, m := range moves {
		for _, p := range m.leave {
			members[p.set()] = append(members[p.set()], p.member(m.id))
		}
	}
	err := s.eachSet(ctx, members, func(set string, args []string) ([]Write, error) {
		return []Write{{Kind: WriteSortedRemove, Key: classKey(setShard(set), set), Args: args}}, nil
	})
	if err != nil {
		return fmt.Errorf("remove from the index: %w", err)
	}
	return nil
}

// clearNotes ends the moves. One whose record changed meanwhile is due again, whoever cleared it: what this process removed may
// have been put there since.
func (s *Store) clearNotes(ctx context.Context, shard byte, moves []*indexMove) (settled int, err error) {
	due := indexDueKey(shard)
	done, refused, err := s.steps(ctx, moves, func(m *indexMove) (Step, bool) {
		key := issuedKey(shard, m.id)
		st := Step{Checks: append(slices.Clone(m.same), m.quiet)}
		if m.gone {
			st.Writes = append(st.Writes, Write{Kind: WriteDelete, Key: key})
		} else if len(m.leave) > 0 {
			var fields []string
			for _, p := range m.leave {
				fields = append(fields, looseField(p))
			}
			st.Writes = append(st.Writes, Write{Kind: WriteHashDelete, Key: key, Args: fields})
		}
		off := Write{Kind: WriteSortedRemove, Key: due, Args: []string{m.id}}
		if !m.again.IsZero() {
			off = Write{Kind: WriteSortedAdd, Key: due, Args: []string{strconv.FormatInt(m.again.UnixMilli()+1, 10), m.id}}
		}
		st.Writes = append(st.Writes, off)
		return st, true
	})
	if err != nil {
		return 0, fmt.Errorf("clear what is due in the index: %w", err)
	}
	return len(done), s.markAgain(ctx, shard, refused)
}

// markAgain makes records due that changed while they were moved, with where they were brought: whoever moved them since may
// have cleared both before they came there.
func (s *Store) markAgain(ctx context.Context, shard byte, changed []*indexMove) error {
	if len(changed) == 0 {
		return nil
	}
	var writes []Write
	for _, m := range changed {
		writes = append(writes, s.indexRemark(shard, m.id, justPlaces(m.next))...)
	}
	if r := s.cfg.Backend.Apply(ctx, []Step{{Writes: writes}})[0]; r.Err != nil {
		return fmt.Errorf("mark what changed meanwhile: %w", r.Err)
	}
	return nil
}
