package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"

	"tokenbroker/broker"
)

// The table of kill switches: one record, its home, and a copy in each shard, where the path of a token finds it beside the
// records of the subject. None has a TTL.
//
//	home    v format version   ver version of the table   wid id of the write that made it   b all of it, sealed
//	mark    v, ver, wid        of the copy: small, as it is read with every token
//	copy    wid, b             as the home has them: read once for each table by each process
//
// The mark lies in clear. Who can change it can take away the whole copy as well; it is written again from the home, and from
// what replicas remember (switchspread.go).
const (
	switchesFormat = "1"
	// switchHistory is how many of the tables before it a table names: by them a replica tells one that was lost from one that was
	// replaced.
	switchHistory = 64
)

var _ broker.SwitchBoard = (*Store)(nil)

// switchTable is a table as one write made it. It is not changed any more.
type switchTable struct {
	version int64
	write   string // "": nothing was ever disabled
	history []string
	off     []broker.Switch
	sealed  string
}

type storedSwitches struct {
	Version int64          `json:"ver"`
	Write   string         `json:"wid"`
	History []string       `json:"hi,omitempty"`
	Off     []storedSwitch `json:"off,omitempty"`
}

type storedSwitch struct {
	Kind         string `json:"k"`
	Tenant       string `json:"t,omitempty"`
	Name         string `json:"n,omitempty"`
	Since        int64  `json:"si"`
	By           string `json:"by"`
	Reason       string `json:"re,omitempty"`
	Installation bool   `json:"in,omitempty"`
}

func storeSwitch(s broker.Switch) storedSwitch {
	return storedSwitch{Kind: string(s.Kind), Tenant: s.Tenant, Name: s.Name, Since: millis(s.Since), By: s.By, Reason: s.Reason, Installation: s.Installation}
}

func (s storedSwitch) off() broker.Switch {
	return broker.Switch{Kind: broker.SwitchKind(s.Kind), Tenant: s.Tenant, Name: s.Name, Since: fromMillis(s.Since), By: s.By, Reason: s.Reason, Installation: s.Installation}
}

func switchesPlace(write string) []byte {
	return place("switches", "", "table", fieldBody, switchesFormat, write)
}

// sealTable makes the stored form.
func (s *Store) sealTable(t *switchTable) error {
	body := storedSwitches{Version: t.version, Write: t.write, History: t.history}
	for _, off := range t.off {
		body.Off = append(body.Off, storeSwitch(off))
	}
	plain, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode switches: %w", err)
	}
	t.sealed, err = s.seals.seal(plain, switchesPlace(t.write))
	return err
}

// sealedNow is the table as it is stored: sealed anew where another key has become primary since it was read.
func (s *Store) sealedNow(t *switchTable) (string, error) {
	if id, ok := keyID([]byte(t.sealed)); ok && id == s.cfg.Keyset.current.Load().primary {
		return t.sealed, nil
	}
	return s.seals.again(sealedValue{place: switchesPlace(t.write)}, []byte(t.sealed))
}

// openTable reads a home or a copy. ErrNotFound: there is none.
func (s *Store) openTable(record map[string][]byte) (*switchTable, error) {
	if len(record) == 0 {
		return nil, broker.ErrNotFound
	}
	write := string(record[fieldWrite])
	plain, err := s.seals.open(record[fieldBody], switchesPlace(write))
	if err != nil {
		return nil, fmt.Errorf("switches: %w", err)
	}
	var body storedSwitches
	if err := json.Unmarshal(plain, &body); err != nil || body.Write != write || write == "" {
		return nil, fmt.Errorf("switches: sealed part: %w", broker.ErrIntegrity)
	}
	t := &switchTable{version: body.Version, write: write, history: body.History, sealed: string(record[fieldBody])}
	for _, off := range body.Off {
		t.off = append(t.off, off.off())
	}
	return t, nil
}

// before tells that other came of t: then nothing of t is lost where other stands. Of a table older than other's history goes back it
// is taken for granted.
func (t *switchTable) before(other *switchTable) bool {
	return t.write == "" || slices.Contains(other.history, t.write) || t.version <= other.version-switchHistory
}

// joined is what both disable, for tables of which neither came of the other: a failover lost one that somebody was told of.
func (t *switchTable) joined(other *switchTable) []broker.Switch {
	off := slices.Clone(t.off)
	for _, one := range other.off {
		if !slices.ContainsFunc(off, one.Same) {
			off = append(off, one)
		}
	}
	return off
}

// next is the table that comes of t.
func (t *switchTable) next(write string, version int64, off []broker.Switch, besides ...string) *switchTable {
	history := slices.Clone(t.history)
	for _, w := range append([]string{t.write}, besides...) {
		if w != "" && !slices.Contains(history, w) {
			history = append(history, w)
		}
	}
	return &switchTable{version: version, write: write, history: history[max(0, len(history)-switchHistory):], off: off}
}

// switches is what this process knows of tables: the newest that it saw, and the last few, by the writes that made them.
type switches struct {
	mu     sync.Mutex
	newest *switchTable
	known  []*switchTable
}

// knownTables bounds them: more than one stands only while a change is on its way.
const knownTables = 4

var noSwitches = &switchTable{}

// get returns the table of that write, if it is known, and the newest that is.
func (k *switches) get(write string) (t, newest *switchTable) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if newest = k.newest; newest == nil {
		newest = noSwitches
	}
	switch write {
	case "":
		return noSwitches, newest
	case newest.write:
		return newest, newest
	}
	for _, one := range k.known {
		if one.write == write {
			return one, newest
		}
	}
	return nil, newest
}

// latest returns the newest table that is known.
func (k *switches) latest() *switchTable {
	_, newest := k.get("")
	return newest
}

// note keeps what was seen. One that is no successor of the newest does not take its place: look brings the two together.
func (k *switches) note(t *switchTable) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !slices.ContainsFunc(k.known, func(one *switchTable) bool { return one.write == t.write }) {
		k.known = append(k.known, t)
		k.known = k.known[max(0, len(k.known)-knownTables):]
	}
	if k.newest == nil || k.newest.before(t) {
		k.newest = t
	}
}

// standing is the table by which to decide in a shard whose mark was read: the shard's own, and what this process knows that the
// shard does not have yet, or lost. In the usual case it asks the store nothing.
func (k *switches) standing(ctx context.Context, s *Store, shard byte, mark map[string][]byte) (broker.SwitchTable, error) {
	write := string(mark[fieldWrite])
	if len(mark) > 0 {
		if err := checkFormat(string(mark[fieldFormat]), switchesFormat); err != nil {
			return broker.SwitchTable{}, fmt.Errorf("switches: %w", err)
		}
	}
	t, newest := k.get(write)
	if t == nil {
		var err error
		if t, err = s.readTable(ctx, shard); err != nil {
			return broker.SwitchTable{}, err
		}
		k.note(t)
	}
	decided := broker.SwitchTable{Mark: write, Version: t.version, Off: t.off}
	switch {
	case t == newest || newest.before(t):
	case t.before(newest):
		decided.Version, decided.Off = newest.version, newest.off
	default:
		decided.Off = t.joined(newest)
	}
	return decided, nil
}

// readTable reads the shard's copy, or the home where that does not open.
func (s *Store) readTable(ctx context.Context, shard byte) (*switchTable, error) {
	found, err := s.hashes(ctx, switchesBodyKey(shard))
	if err != nil {
		return nil, err
	}
	t, err := s.openTable(found[0])
	if err == nil {
		return t, nil
	}
	home, homeErr := s.hashes(ctx, switchesHomeKey(s.switchesHome()))
	if homeErr != nil {
		return nil, errors.Join(err, homeErr)
	}
	if t, homeErr = s.openTable(home[0]); homeErr != nil {
		return nil, fmt.Errorf("switches: neither the copy nor the table opens: %w", errors.Join(err, homeErr))
	}
	s.cfg.Log.ErrorContext(ctx, "a copy of what is disabled does not open: someone may have written to the store", "shard", int(shard), "error", err)
	return t, nil
}

// switchCheck demands that the shard's copy is still the one of that mark.
func switchCheck(shard byte, mark string) Check {
	if mark == "" {
		return Check{Key: switchesKey(shard), Field: fieldWrite, Kind: CheckAbsent}
	}
	return Check{Key: switchesKey(shard), Field: fieldWrite, Kind: CheckEqual, Value: mark}
}

// switchesHome is the shard of the table itself.
func (s *Store) switchesHome() byte { return s.Shard("", "switches") }

// SwitchesFor implements broker.SwitchBoard.
func (s *Store) SwitchesFor(ctx context.Context, tenant, subject string) (broker.SwitchTable, error) {
	shard := s.Shard(tenant, subject)
	found, err := s.hashes(ctx, switchesKey(shard))
	if err != nil {
		return broker.SwitchTable{}, err
	}
	return s.switches.standing(ctx, s, shard, found[0])
}

// Switches implements broker.SwitchBoard.
func (s *Store) Switches(ctx context.Context) (broker.SwitchTable, error) {
	t, _, err := s.lookAtSwitches(ctx)
	if err != nil {
		return broker.SwitchTable{}, err
	}
	return broker.SwitchTable{Mark: t.write, Version: t.version, Off: slices.Clone(t.off)}, nil
}

// SetSwitches implements broker.SwitchBoard. A crash behind the first write leaves shards with the table before, to which every
// replica brings it (followSwitches).
func (s *Store) SetSwitches(ctx context.Context, table broker.SwitchTable, off []broker.Switch) error {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	now, marks, err := s.lookAtSwitches(ctx)
	if err != nil {
		return err
	}
	if now.write != table.Mark {
		return fmt.Errorf("set switches: %w", broker.ErrConflict)
	}
	write, err := s.randomID()
	if err != nil {
		return err
	}
	t := now.next(write, now.version+1, slices.Clone(off))
	if err := s.sealTable(t); err != nil {
		return err
	}
	if err := s.writeHome(ctx, now.write, now.write != "", t); err != nil {
		return fmt.Errorf("set switches: %w", err)
	}
	return s.spread(ctx, t, marks)
}

// writeHome makes t the table in the place of the one that is there, if one is. ErrConflict: another one is.
func (s *Store) writeHome(ctx context.Context, instead string, there bool, t *switchTable) error {
	key := switchesHomeKey(s.switchesHome())
	sealed, err := s.sealedNow(t)
	if err != nil {
		return err
	}
	step := Step{
		Confirm: s.cfg.Confirm,
		Checks:  []Check{{Key: key, Field: fieldWrite, Kind: CheckApplied, Value: t.write}, {Key: key, Field: fieldWrite, Kind: CheckAbsent}},
		Writes: []Write{{Kind: WriteHashSet, Key: key, Args: []string{
			fieldFormat, switchesFormat, fieldVersion, strconv.FormatInt(t.version, 10), fieldWrite, t.write, fieldBody, sealed,
		}}},
	}
	if there {
		step.Checks[1] = Check{Key: key, Field: fieldWrite, Kind: CheckEqual, Value: instead}
	}
	r, err := s.trails.direct(ctx, step)
	if err != nil {
		return err
	}
	if r.Verdict == VerdictRefused {
		return broker.ErrConflict
	}
	s.switches.note(t)
	return nil
}
