package simulationtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"tokenbroker/vault"
)

// Memory is vault.Backend in memory, with the semantics of Redis and of redisstore's scripts. It never fails: faults are
// the business of whoever stands before it.
type Memory struct {
	now func() time.Time // the store's clock

	mu   sync.Mutex
	data map[string]*value
	// undo is what each change replaced, the newest last; nil until KeepUndo.
	undo []replaced
	keep bool
	run  int // which history of writes this is
}

var _ vault.Backend = (*Memory)(nil)

// value is what lies under a key. It is never changed: a write puts another one in its place, so copies of the map are
// snapshots.
type value struct {
	hash    map[string]string
	sorted  map[string]int64
	set     map[string]bool
	stream  []vault.StreamEntry
	last    streamID
	expires int64 // ms, 0: never
}

type streamID struct{ ms, n int64 }

// replaced is a value as it was before the change of that number.
type replaced struct {
	change int
	key    string
	was    *value
}

// NewMemory makes an empty store that goes by the clock.
func NewMemory(now func() time.Time) *Memory {
	return &Memory{now: now, data: make(map[string]*value)}
}

// Copy makes a store with the same content and another clock.
func (m *Memory) Copy(now func() time.Time) *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &Memory{now: now, data: maps.Clone(m.data)}
}

// KeepUndo makes the store remember what it replaces from now on, for Lose.
func (m *Memory) KeepUndo() { m.keep = true }

// Lose takes back the last n changes and begins another history, as a failover to a replica that never received them
// does. It returns how many there were to take back.
func (m *Memory) Lose(n int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.run++
	lost := 0
	for lost < n && len(m.undo) > 0 {
		change := m.undo[len(m.undo)-1].change
		for len(m.undo) > 0 && m.undo[len(m.undo)-1].change == change {
			last := m.undo[len(m.undo)-1]
			m.undo = m.undo[:len(m.undo)-1]
			if last.was == nil {
				delete(m.data, last.key)
			} else {
				m.data[last.key] = last.was
			}
		}
		lost++
	}
	return lost
}

// Apply implements vault.Backend.
func (m *Memory) Apply(_ context.Context, steps []vault.Step) []vault.Result {
	results := make([]vault.Result, len(steps))
	for i := range steps {
		results[i] = m.Step(&steps[i])
	}
	return results
}

// Step carries out one step, as apply.lua does.
func (m *Memory) Step(step *vault.Step) vault.Result {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := application{m: m, now: m.now().UnixMilli(), step: step}
	if m.keep {
		a.change = 1
		if n := len(m.undo); n > 0 {
			a.change = m.undo[n-1].change + 1
		}
	}
	return a.run()
}

// application is one step being carried out.
type application struct {
	m      *Memory
	now    int64
	step   *vault.Step
	change int
	own    map[*value]bool // values that this step made itself, and may change
	head   string
	headID string
	ids    []string
}

func (a *application) get(key string) *value {
	v := a.m.data[key]
	if v != nil && v.expires != 0 && v.expires <= a.now {
		return nil
	}
	return v
}

// edit returns a value of the key that may be changed.
func (a *application) edit(key string) *value {
	old := a.get(key)
	if old != nil && a.own[old] {
		return old
	}
	v := &value{}
	if old != nil {
		*v = *old
		v.hash, v.sorted, v.set = maps.Clone(old.hash), maps.Clone(old.sorted), maps.Clone(old.set)
	}
	a.put(key, v)
	if a.own == nil {
		a.own = make(map[*value]bool, 4)
	}
	a.own[v] = true
	return v
}

func (a *application) put(key string, v *value) {
	if a.m.keep {
		a.m.undo = append(a.m.undo, replaced{change: a.change, key: key, was: a.m.data[key]})
	}
	if v == nil {
		delete(a.m.data, key)
		return
	}
	a.m.data[key] = v
}

func (a *application) answer(verdict vault.Verdict, refused int) vault.Result {
	r := vault.Result{Verdict: verdict, Refused: refused, Now: time.UnixMilli(a.now), Head: a.head, HeadID: a.headID, IDs: a.ids}
	for _, read := range a.step.Reads {
		fields := make(map[string][]byte)
		if v := a.get(read.Key); v != nil {
			for _, f := range read.Fields {
				if text, ok := v.hash[f]; ok {
					fields[f] = []byte(text)
				}
			}
			if len(read.Fields) == 0 {
				for f, text := range v.hash {
					fields[f] = []byte(text)
				}
			}
		}
		r.Reads = append(r.Reads, fields)
	}
	return r
}

func (a *application) field(key, field string) (string, bool) {
	v := a.get(key)
	if v == nil {
		return "", false
	}
	text, ok := v.hash[field]
	return text, ok
}

// settles carries out Step.Settle: true while the step has to wait.
func (a *application) settles(s *vault.Settle) bool {
	run, pause := a.m.identity(), s.Pause.Milliseconds()
	have, there := a.field(s.Key, vault.SettleRun)
	text, _ := a.field(s.Key, vault.SettleUntil)
	until, _ := strconv.ParseInt(cmp.Or(text, "0"), 10, 64)
	switch {
	case !there:
		a.set(s.Key, vault.SettleRun, run)
	case pause > 0:
		if have != run || until > a.now+pause {
			until = a.now + pause
			a.set(s.Key, vault.SettleRun, run)
			a.set(s.Key, vault.SettleUntil, strconv.FormatInt(until, 10))
		}
		return a.now < until
	}
	return false
}

func (a *application) set(key, field, text string) {
	v := a.edit(key)
	if v.hash == nil {
		v.hash = make(map[string]string)
	}
	v.hash[field] = text
}

func (m *Memory) identity() string { return "run" + strconv.Itoa(m.run) }

func (a *application) run() vault.Result {
	if a.step.Release != nil {
		return a.release()
	}
	if s := a.step.Settle; s != nil && a.settles(s) {
		return a.answer(vault.VerdictSettling, 0)
	}
	trail := a.step.Trail
	if trail != nil && len(trail.Entries) > 0 {
		a.head, _ = a.field(trail.Heads, trail.Writer)
		a.headID, _ = a.field(trail.Heads, trail.Writer+vault.HeadIDSuffix)
		if a.head == trail.Next {
			return a.answer(vault.VerdictRepeated, 0)
		}
		if a.head != trail.Head {
			return a.answer(vault.VerdictChain, 0)
		}
	}
	for i, check := range a.step.Checks {
		have, there := a.field(check.Key, check.Field)
		holds := true
		switch check.Kind {
		case vault.CheckEqual:
			holds = there && have == check.Value
		case vault.CheckNot:
			holds = !there || have != check.Value
		case vault.CheckAbsent:
			holds = !there
		case vault.CheckFree:
			if there {
				end, err := strconv.ParseInt(have, 10, 64)
				if err != nil {
					return vault.Result{Err: fmt.Errorf("memory: deadline: %w", err)}
				}
				holds = end < a.now
			}
		case vault.CheckAtMost:
			is, err := strconv.ParseInt(have, 10, 64)
			most, _ := strconv.ParseInt(check.Value, 10, 64)
			holds = there && err == nil && is <= most
		case vault.CheckFewer:
			holds = a.fewer(check)
		case vault.CheckApplied:
			if there && have == check.Value {
				return a.answer(vault.VerdictApplied, 0)
			}
		default:
			return vault.Result{Err: fmt.Errorf("memory: unknown check %q", check.Kind)}
		}
		if !holds {
			return a.answer(vault.VerdictRefused, i)
		}
	}
	if trail != nil && len(trail.Entries) > 0 {
		a.append(trail)
	}
	for _, w := range a.step.Writes {
		if err := a.write(w); err != nil {
			return vault.Result{Err: err}
		}
	}
	return a.answer(vault.VerdictDone, 0)
}

func (a *application) append(trail *vault.TrailStep) {
	stream := a.edit(trail.Stream)
	// Never into the room behind another snapshot's end.
	stream.stream = slices.Clip(stream.stream)
	for _, e := range trail.Entries {
		id := streamID{ms: a.now}
		if id.ms <= stream.last.ms {
			id = streamID{ms: stream.last.ms, n: stream.last.n + 1}
		}
		stream.last = id
		text := id.String()
		stream.stream = append(stream.stream, vault.StreamEntry{ID: text, TrailEntry: e})
		a.ids = append(a.ids, text)
	}
	a.head, a.headID = trail.Next, a.ids[len(a.ids)-1]
	a.set(trail.Heads, trail.Writer, a.head)
	a.set(trail.Heads, trail.Writer+vault.HeadIDSuffix, a.headID)
	index := a.edit(trail.Index)
	if index.set == nil {
		index.set = make(map[string]bool)
	}
	index.set[trail.Member] = true
}

var errArguments = errors.New("memory: a write with other arguments than the command has")

func (a *application) write(w vault.Write) error {
	args := w.Args
	switch w.Kind {
	case vault.WriteHashSet:
		v := a.edit(w.Key)
		if v.hash == nil {
			v.hash = make(map[string]string, len(args)/2)
		}
		if len(args) == 0 || len(args)%2 != 0 {
			return errArguments
		}
		for i := 0; i < len(args); i += 2 {
			v.hash[args[i]] = args[i+1]
		}
	case vault.WriteHashDelete:
		a.shrink(w.Key, func(v *value) {
			for _, f := range args {
				delete(v.hash, f)
			}
		})
	case vault.WriteOnly:
		a.shrink(w.Key, func(v *value) {
			for f := range v.hash {
				if strings.HasPrefix(f, args[0]) && !slices.Contains(args[1:], f) {
					delete(v.hash, f)
				}
			}
		})
	case vault.WriteHashIncrement, vault.WriteDeadline:
		n, err := strconv.ParseInt(args[1], 10, 64)
		if err != nil {
			return errArguments
		}
		base := a.now
		if w.Kind == vault.WriteHashIncrement {
			have, _ := a.field(w.Key, args[0])
			base, _ = strconv.ParseInt(cmp.Or(have, "0"), 10, 64)
		}
		a.set(w.Key, args[0], strconv.FormatInt(base+n, 10))
	case vault.WriteDelete:
		if a.get(w.Key) != nil {
			a.put(w.Key, nil)
		}
	case vault.WriteExpireAt, vault.WriteExpireIn:
		ms, err := strconv.ParseInt(args[0], 10, 64)
		if err != nil {
			return errArguments
		}
		if w.Kind == vault.WriteExpireIn {
			ms += a.now
		}
		switch {
		case a.get(w.Key) == nil:
		case ms <= a.now:
			a.put(w.Key, nil)
		default:
			a.edit(w.Key).expires = ms
		}
	case vault.WritePersist:
		if a.get(w.Key) != nil {
			a.edit(w.Key).expires = 0
		}
	default:
		return a.writeSorted(w)
	}
	return nil
}

// shrink changes a value that is there, and removes it if nothing is left of it.
func (a *application) shrink(key string, change func(*value)) {
	if a.get(key) == nil {
		return
	}
	v := a.edit(key)
	change(v)
	if len(v.hash) == 0 && len(v.sorted) == 0 && len(v.set) == 0 && v.stream == nil {
		a.put(key, nil)
	}
}

func (a *application) writeSorted(w vault.Write) error {
	args := w.Args
	switch w.Kind {
	case vault.WriteSortedAdd:
		v := a.edit(w.Key)
		if v.sorted == nil {
			v.sorted = make(map[string]int64)
		}
		if len(args) == 0 || len(args)%2 != 0 {
			return errArguments
		}
		for i := 0; i < len(args); i += 2 {
			score, err := strconv.ParseInt(args[i], 10, 64)
			if err != nil {
				return errArguments
			}
			v.sorted[args[i+1]] = score
		}
	case vault.WriteUnless:
		if have, there := a.field(args[3], args[4]); there && have == args[0] {
			return nil
		}
		return a.writeSorted(vault.Write{Kind: vault.WriteSortedAdd, Key: w.Key, Args: args[1:3]})
	case vault.WritePlace:
		a.shrink(w.Key, func(v *value) {
			maps.DeleteFunc(v.sorted, func(_ string, end int64) bool { return end <= a.now })
		})
		life, err := strconv.ParseInt(args[0], 10, 64)
		if err != nil {
			return errArguments
		}
		return a.writeSorted(vault.Write{Kind: vault.WriteSortedAdd, Key: w.Key, Args: []string{strconv.FormatInt(a.now+life, 10), args[1]}})
	case vault.WriteSortedRemove:
		a.shrink(w.Key, func(v *value) {
			for _, member := range args {
				delete(v.sorted, member)
			}
		})
	default:
		return fmt.Errorf("memory: no such write %q", w.Kind)
	}
	return nil
}

func (id streamID) String() string {
	return strconv.FormatInt(id.ms, 10) + "-" + strconv.FormatInt(id.n, 10)
}
