package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"tokenbroker/broker"
)

// sealWalk goes through all sealed records.
type sealWalk struct {
	store *Store
	keys  *primitives
	hold  *walkHold // nil: it only counts
	rest  time.Duration
	state resealState
	// shared are the shared grants that were looked at in this index of connections.
	shared map[string]bool
	// erased are, for one that only counts, the keys of what lies beside connections of erased tenants, with the tenant.
	erased map[string]string
	// since the last note: when that was, and how much was looked at.
	since time.Time
	seen  int
}

// sealedRecord is one record on its way.
type sealedRecord struct {
	key    string
	record map[string][]byte
	by     beside
	// mark is, of a connection, what lies beside it about its refresh token (successor.go), and where.
	mark    string
	markKey string
}

func (w *sealWalk) run(ctx context.Context) error {
	if !w.state.Others {
		if err := w.connections(ctx); err != nil {
			return err
		}
		w.state.Others, w.state.Index, w.state.After = true, "", ""
	}
	return w.others(ctx)
}

// page is called behind each page, of so many.
func (w *sealWalk) page(ctx context.Context, index, after string, items int) error {
	w.state.Index, w.state.After = index, after
	if w.hold == nil {
		return ctx.Err()
	}
	took := w.store.cfg.Now().Sub(w.since)
	if w.seen += items; w.seen < resealPage && took < resealHold/6 {
		return ctx.Err()
	}
	defer func() { w.seen, w.since = 0, w.store.cfg.Now() }()
	text, err := json.Marshal(w.state)
	if err != nil {
		return fmt.Errorf("encode how far sealing anew is: %w", err)
	}
	if err := w.hold.save(ctx, []Write{{Kind: WriteHashSet, Key: resealKey(), Args: []string{fieldWalkState, string(text)}}, w.hold.until(resealHold)}); err != nil {
		return err
	}
	if w.keys != w.store.cfg.Keyset.current.Load() && w.state.Target != w.store.cfg.Keyset.current.Load().target() {
		return errKeysChanged
	}
	if w.rest == 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(max(checkLeast, min(w.rest*took, resealHold/3)))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// connections goes through the tenants' indexes of the shards.
func (w *sealWalk) connections(ctx context.Context) error {
	s := w.store
	indexes, err := w.find(ctx, tenantIndexes)
	if err != nil {
		return fmt.Errorf("find the tenants' indexes: %w", err)
	}
	for _, index := range indexes {
		shard, tenant, ok := parseTenantKey(index)
		if !ok || index < w.state.Index {
			continue
		}
		after := ""
		if index == w.state.Index {
			after = w.state.After
		}
		clear(w.shared)
		for more := true; more; {
			query := IndexQuery{Index: index, Records: connectionPrefix(shard), Extra: alternatesKey(shard, ""), After: after, Limit: resealPage}
			trip, cancel := context.WithTimeout(ctx, 5*s.cfg.RoundTrip)
			found, err := readPatiently(trip, func(ctx context.Context) ([][]Indexed, error) { return s.cfg.Backend.Indexed(ctx, []IndexQuery{query}) })
			cancel()
			if err != nil {
				return fmt.Errorf("read records: %w", err)
			}
			if err := w.indexed(ctx, shard, tenant, found[0]); err != nil {
				return err
			}
			if more = len(found[0]) == resealPage; len(found[0]) > 0 {
				after = found[0][len(found[0])-1].Member
			}
			if err := w.page(ctx, index, after, len(found[0])); err != nil {
				return err
			}
		}
	}
	return nil
}

// indexed takes connections with what lies beside them: late refresh tokens, and the grants that several hold.
func (w *sealWalk) indexed(ctx context.Context, shard byte, tenant string, items []Indexed) error {
	var records []sealedRecord
	var names []string
	for _, item := range items {
		if len(item.Record) == 0 || string(item.Record[fieldTenant]) != tenant {
			continue
		}
		records = append(records, sealedRecord{
			key: connectionKey(shard, item.Member), record: item.Record, mark: string(item.Extra[fieldSuccessor]), markKey: alternatesKey(shard, item.Member),
		})
		if w.hold == nil { // what lies beside is counted by its key
			if len(item.Extra) > 0 && w.keys.isErased(tenant) {
				w.erased[alternatesKey(shard, item.Member)] = tenant
			}
			continue
		}
		conn, _, err := w.store.openRecord(tenant, item.Member, item.Record, nil)
		if err != nil {
			continue // it can't be sealed anew either, and what lies beside it ends by itself
		}
		if len(item.Extra) > 0 {
			records = append(records, sealedRecord{key: alternatesKey(shard, item.Member), record: item.Extra, by: beside{tenant: tenant, account: conn.Account.ID}})
		}
		if conn.SharedGrant != "" && !w.shared[conn.SharedGrant] {
			w.shared[conn.SharedGrant], names = true, append(names, conn.SharedGrant)
		}
	}
	if err := w.take(ctx, records); err != nil || len(names) == 0 {
		return err
	}
	keys := make([]string, len(names))
	for i, name := range names {
		keys[i] = w.store.sharedKey(name)
	}
	found, err := w.read(ctx, keys)
	if err != nil {
		return err
	}
	for i, name := range names {
		if err := w.take(ctx, []sealedRecord{{key: keys[i], record: found[i], by: beside{name: name}}}); err != nil {
			return err
		}
	}
	return nil
}

// others goes through the records that no index of connections leads to.
func (w *sealWalk) others(ctx context.Context) error {
	s := w.store
	keys, err := w.find(ctx, sealedKeys)
	if err != nil {
		return fmt.Errorf("find sealed records: %w", err)
	}
	keys = append(keys, switchesHomeKey(s.switchesHome()))
	for i := range shards {
		keys = append(keys, switchesBodyKey(byte(i)))
	}
	trails, err := s.indexedTrails(ctx)
	if err != nil {
		return fmt.Errorf("find where streams were cut: %w", err)
	}
	for _, name := range trails {
		keys = append(keys, cutKey(name.shard, name.tenant))
	}
	// A pass that seals anew has met late refresh tokens and shared grants beside their connections, and knows only there what
	// their seals name. One that counts has not.
	keys = slices.DeleteFunc(keys, func(key string) bool { return !hasSeals(key) || key <= w.state.After })
	slices.Sort(keys)
	for page := range slices.Chunk(slices.Compact(keys), resealPage) {
		found, err := w.read(ctx, page)
		if err != nil {
			return err
		}
		for i := 0; i < len(page); {
			var records []sealedRecord
			for shard := page[i][:len(prefix(0))]; i < len(page) && page[i][:len(prefix(0))] == shard; i++ {
				if len(found[i]) > 0 && (w.hold == nil || !w.beside(page[i])) {
					records = append(records, sealedRecord{key: page[i], record: found[i], by: beside{tenant: w.erased[page[i]]}})
				}
			}
			if err := w.take(ctx, records); err != nil {
				return err
			}
		}
		if err := w.page(ctx, "", page[len(page)-1], len(page)); err != nil {
			return err
		}
	}
	return nil
}

// beside tells that the record was met beside a connection.
func (w *sealWalk) beside(key string) bool {
	_, rest, _ := keyParts(key)
	return rest[:2] == "x:" || rest[:2] == "g:"
}

// find lists the keys that match, in order. It walks through the whole store, and takes its time.
func (w *sealWalk) find(ctx context.Context, pattern string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, checkFind)
	defer cancel()
	var holding sync.WaitGroup
	defer holding.Wait()
	found := make(chan struct{})
	defer close(found)
	if w.hold != nil {
		holding.Go(func() { w.hold.keep(ctx, found, cancel) })
	}
	keys, err := w.store.cfg.Backend.Keys(ctx, pattern)
	slices.Sort(keys)
	return keys, err
}

func (w *sealWalk) read(ctx context.Context, keys []string) ([]map[string][]byte, error) {
	trip, cancel := context.WithTimeout(ctx, 5*w.store.cfg.RoundTrip)
	defer cancel()
	found, err := w.store.hashes(trip, keys...)
	if err != nil {
		return nil, fmt.Errorf("read records: %w", err)
	}
	return found, nil
}

// take counts the records, all of one shard, and seals anew what another key would seal now.
func (w *sealWalk) take(ctx context.Context, records []sealedRecord) error {
	var steps []Step
	var of []sealers
	for _, r := range records {
		w.state.Count.Records++
		step, by := w.step(r)
		for _, id := range by.erased {
			w.state.Count.Erased[id]++
		}
		if len(step.Writes) == 0 {
			w.count(by.had, by.stays)
			continue
		}
		steps, of = append(steps, step), append(of, by)
	}
	if len(steps) == 0 {
		return nil
	}
	trip, cancel := context.WithTimeout(ctx, 5*w.store.cfg.RoundTrip)
	defer cancel()
	for i, r := range w.store.trails.apply(trip, steps) {
		if r.Err == nil && r.Verdict != VerdictRefused {
			w.state.Count.Resealed++
			w.count(of[i].has, of[i].stays)
			continue
		}
		// Somebody wrote meanwhile, or nobody knows: the next pass sees to it.
		w.count(of[i].had, of[i].left)
	}
	return ctx.Err()
}

// count notes a record by the keys that sealed it, and those of them that should not have any more.
func (w *sealWalk) count(ids, left []uint32) {
	for _, id := range ids {
		w.state.Count.ByKey[id]++
	}
	for _, id := range left {
		w.state.Count.Left[id]++
	}
}

// sealers are the keys that sealed a record: had, and once it is sealed anew has. left are those of had where another key would seal
// now, stays those of them that stay all the same: what they sealed does not open, or nobody seals anew. erased sealed what is an erased
// tenant's.
type sealers struct{ had, has, left, stays, erased []uint32 }

func noted(ids []uint32, id uint32) []uint32 {
	if slices.Contains(ids, id) {
		return ids
	}
	return append(ids, id)
}

// step is the change that seals the record anew, without Writes if there is nothing to do.
func (w *sealWalk) step(r sealedRecord) (step Step, by sealers) {
	var fields []string
	for _, v := range w.store.sealsIn(r.key, r.record, r.by) {
		value := r.record[v.field]
		id, ok := v.keyOf(value)
		if !ok {
			continue // no seal of ours, or nothing there
		}
		if w.keys.isErased(v.tenant) || w.keys.erasedKey(id) {
			by.erased = noted(by.erased, id)
			continue
		}
		if v.settledBy(w.keys, id) {
			by.had, by.has = noted(by.had, id), noted(by.has, id)
			continue
		}
		sealed, err := "", error(nil)
		if w.hold != nil || v.inside {
			sealed, err = w.store.seals.again(v, value)
		}
		if errors.Is(err, broker.ErrTenantErased) { // it says so inside
			by.erased = noted(by.erased, id)
			continue
		}
		by.had = noted(by.had, id)
		if w.hold == nil {
			// Whose it is may be inside: the installation's primary key is the right one, as far as can be seen.
			if !v.inside || id != w.keys.primary {
				by.stays = noted(by.stays, id)
			}
			continue
		}
		if err != nil || sealed == string(value) {
			if by.has = noted(by.has, id); err != nil {
				by.left, by.stays = noted(by.left, id), noted(by.stays, id)
			}
			continue
		}
		by.left = noted(by.left, id)
		if now, ok := v.keyOf([]byte(sealed)); ok {
			by.has = noted(by.has, now)
		}
		fields = append(fields, v.field, sealed)
		step.Checks = append(step.Checks, Check{Key: r.key, Field: v.field, Kind: CheckEqual, Value: string(value)})
		if v.field == fieldRefresh && r.markKey != "" {
			w.moveMark(&step, r, value, sealed)
		}
	}
	if len(fields) > 0 {
		step.Writes = append(step.Writes, Write{Kind: WriteHashSet, Key: r.key, Args: fields})
	}
	return step, by
}

// moveMark keeps what is said beside the record of its refresh token true of the same token under its new seal. Where nothing was
// said, that must still be so: what a late commit says meanwhile is of the seal that goes.
func (w *sealWalk) moveMark(step *Step, r sealedRecord, was []byte, sealed string) {
	if r.mark == "" {
		step.Checks = append(step.Checks, Check{Key: r.markKey, Field: fieldSuccessor, Kind: CheckAbsent})
		return
	}
	name := w.store.tokenName(was)
	step.Checks = append(step.Checks, Check{Key: r.markKey, Field: fieldSuccessor, Kind: CheckEqual, Value: r.mark})
	if len(r.mark) > len(name) && r.mark[:len(name)] == name {
		step.Writes = append(step.Writes, Write{Kind: WriteHashSet, Key: r.markKey, Args: []string{fieldSuccessor, w.store.tokenName([]byte(sealed)) + r.mark[len(name):]}})
	}
}

// walkHold is a process's right to go through all records: one at a time does.
type walkHold struct {
	store *Store
	key   string
	owner string
}

func (h *walkHold) take(ctx context.Context) error {
	return h.step(ctx, Step{
		Checks: []Check{{Key: h.key, Field: fieldOwner, Kind: CheckApplied, Value: h.owner}, {Key: h.key, Field: fieldDeadline, Kind: CheckFree}},
		Writes: []Write{{Kind: WriteHashSet, Key: h.key, Args: []string{fieldOwner, h.owner}}, h.until(resealHold)},
	})
}

// until makes the right last so long from now on.
func (h *walkHold) until(d time.Duration) Write {
	return Write{Kind: WriteDeadline, Key: h.key, Args: []string{fieldDeadline, strconv.FormatInt(d.Milliseconds(), 10)}}
}

// save writes what is kept under the key, if the right is still this process's.
func (h *walkHold) save(ctx context.Context, writes []Write) error {
	return h.step(ctx, Step{Checks: []Check{{Key: h.key, Field: fieldOwner, Kind: CheckEqual, Value: h.owner}}, Writes: writes})
}

// keep goes on holding it until done is closed; lost is called where somebody else has it.
func (h *walkHold) keep(ctx context.Context, done <-chan struct{}, lost func()) {
	tick := time.NewTicker(resealHold / 4)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := h.save(ctx, []Write{h.until(resealHold)}); errors.Is(err, errWalkTaken) {
				lost()
				return
			}
		}
	}
}

func (h *walkHold) step(ctx context.Context, step Step) error {
	ctx, cancel := context.WithTimeout(ctx, 5*h.store.cfg.RoundTrip)
	defer cancel()
	r, err := h.store.trails.direct(ctx, step)
	if err != nil {
		return fmt.Errorf("note how far the walk is: %w", err)
	}
	if r.Verdict == VerdictRefused {
		return errWalkTaken
	}
	return nil
}
