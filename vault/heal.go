package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"tokenbroker/broker"
)

// A failover, or a crash before the store wrote to its disk, can take back writes that were acknowledged. This file
// compares what the store has with what this process wrote (memory.go), and writes back what is missing
// (broker/decisions/0007-healing.md).

// tombstoneLife is how long it is known that a record was erased, so that nobody who remembers it brings it back. It exceeds
// memoryLife, and the time for which the spool keeps what is settled.
const tombstoneLife = time.Hour

const fieldErased = "e" // of a tombstone

// finding is how a record lies to what is remembered of it.
type finding string

const (
	foundAsWritten finding = ""            // the same, or what came of it
	foundBehind    finding = "behind"      // what is remembered was lost: it is written back
	foundErased    finding = "erased"      // there, although it was erased
	foundUnrevoked finding = "unrevoked"   // active, although it was revoked, and no consent came since
	foundOlder     finding = "older grant" // went on from before what was lost, with an older refresh token or consent
	foundRival     finding = "rival grant" // went on from before what was lost, with another refresh token
	foundForeign   finding = "foreign"     // a consent or a revocation came instead of what was lost, and counts
)

// find compares. It is on the path of every read, so it looks at no more than it must. now is this process's time.
func (m *remembered) find(record map[string][]byte, now time.Time) finding {
	gone := m.fields == nil
	if len(record) == 0 {
		// A shared grant goes with its last holder, and each holder has a copy.
		if gone || m.shared != "" || !m.until.IsZero() && !now.Before(m.until) {
			return foundAsWritten
		}
		return foundBehind
	}
	has := versionOf(record, m.versionField())
	if has == m.generation && string(record[fieldWrite]) == m.write {
		return foundAsWritten
	}
	if m.shared != "" && len(record[fieldGeneration]) == 0 && hasHolders(record) {
		return foundBehind // those who hold it are left, and none of its tokens
	}
	if has == 0 || !gone && !m.comparable(record) {
		return foundAsWritten // not a record to compare with
	}
	if m.consent || m.shared != "" {
		if has < m.generation {
			return foundBehind
		}
		return foundAsWritten
	}
	return m.findConnection(record, has)
}

// comparable tells that the record is of a form that this program knows. A connection may have changed its form, by an upgrade or by
// what the store lost; others have one.
func (m *remembered) comparable(record map[string][]byte) bool {
	format := string(record[fieldFormat])
	if m.consent || m.shared != "" {
		return format == m.fields[fieldFormat]
	}
	return checkFormat(format, connectionFormat) == nil
}

// hasHolders tells that somebody holds the shared grant; a lease alone may be of one that ended.
func hasHolders(record map[string][]byte) bool {
	for field := range record {
		if strings.HasPrefix(field, fieldHolder) {
			return true
		}
	}
	return false
}

func isRevoked(record map[string][]byte) bool {
	return broker.ConnectionStatus(record[fieldStatus]) == broker.ConnectionRevoked
}

func (m *remembered) findConnection(record map[string][]byte, has int64) finding {
	behind := has < m.generation
	revoked := isRevoked(record)
	// The generation of the last consent only grows, so one that is not known here came later, or instead.
	if consentedOf(record) > m.consented {
		if behind || m.fields == nil {
			return foundForeign
		}
		return foundAsWritten
	}
	switch {
	case m.fields == nil:
		return foundErased
	case m.status == broker.ConnectionRevoked:
		switch {
		case behind:
			return foundBehind
		case revoked:
			return foundAsWritten
		}
		return foundUnrevoked
	case behind && revoked && m.consented <= has:
		return foundForeign // what is remembered is no consent that came behind the revocation
	case behind:
		return foundBehind
	case revoked:
		return foundAsWritten
	case consentedOf(record) < m.consented:
		return foundOlder
	case !m.carries():
		return foundAsWritten
	}
	// It went on: from ours, or from where the store was set back to.
	switch epoch := epochOf(record); {
	case epoch < m.epoch:
		return foundOlder
	case epoch == m.epoch && string(record[fieldRefresh]) != m.fields[fieldRefresh]:
		return foundRival
	}
	return foundAsWritten
}

// healAttempts bounds how often a reader looks again because the record needed healing.
const healAttempts = 4

// healed compares a record that was just read with what is remembered, and mends it. true: read it again.
func (s *Store) healed(ctx context.Context, tenant, id string, record map[string][]byte) (changed bool, err error) {
	m := s.memory.get(id)
	if m == nil || m.tenant != tenant || s.seals.keyset.Erased(tenant) || len(record) > 0 && !m.consent && string(record[fieldTenant]) != tenant {
		return false, nil
	}
	what := m.find(record, s.cfg.Now())
	if what == foundAsWritten || what == foundRival && s.sealedAnew(m, record) || !s.genuine(m, what, record) {
		return false, nil
	}
	return s.mend(ctx, m, what, record)
}

// genuine tells whether the record is one of this connection at all. Another's in its place is no reason to forget what is remembered, nor
// to write anything: whoever reads it finds out, and says so. Where that can't be told for now, what was lost is written back all the same,
// before somebody uses what came instead; for what would be forgotten there is time.
func (s *Store) genuine(m *remembered, what finding, record map[string][]byte) bool {
	if len(record) == 0 || m.consent || m.shared != "" {
		return true
	}
	_, _, err := s.openRecord(m.tenant, m.id, record, nil)
	switch {
	case err == nil, errors.Is(err, broker.ErrNewerFormat):
		return true
	case errors.Is(err, broker.ErrIntegrity):
		return false
	}
	return what != foundForeign && what != foundRival
}

// mend brings the store to what is remembered. An error leaves the matter open: what was read must not be used.
func (s *Store) mend(ctx context.Context, m *remembered, what finding, record map[string][]byte) (changed bool, err error) {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	has := versionOf(record, m.versionField())
	done := false // now, by this call
	var alarm []broker.Entry
	if what == foundForeign && m.fields != nil && posesAsConsent(m, record) && s.steadySince(ctx, m) {
		what = foundBehind // nothing was lost, so nothing came instead
	}
	switch what {
	case foundForeign:
		if m.fields != nil && isRevoked(record) && s.steadySince(ctx, m) {
			// That it was revoked is not sealed, for it takes nothing to do so. Whether the user did or somebody else, it stands; and what is
			// remembered is kept, that no older token is used should it be made active by hand.
			return false, nil
		}
		s.memory.forget(m)
		s.cfg.Log.WarnContext(ctx, "the store lost a write of this connection, and a later consent or revocation stands in its place", "connection", m.id)
		return false, nil
	case foundBehind:
		if m.status == broker.ConnectionNeedsConsent {
			// A verdict is not worth bringing back: somebody may be storing a refresh token that is newer, and if nobody is, the next
			// refresh finds the same.
			s.memory.forget(m)
			s.cfg.Log.WarnContext(ctx, "the store lost that the user must consent again; the next refresh finds out", "connection", m.id)
			return false, nil
		}
		if alarm, err = s.alarm(ctx, m); err == nil {
			done, err = s.writeBack(ctx, m, record, m.lostEntries(has), alarm)
		}
	case foundErased:
		if alarm, err = s.alarm(ctx, m); err == nil {
			done, err = s.eraseAgain(ctx, m, has, alarm)
		}
	case foundUnrevoked:
		// Its secrets are what the store went on with: whoever ends revocations reads them there.
		var r Result
		if alarm, err = s.alarm(ctx, m); err == nil {
			r, err = s.revoke(ctx, m.tenant, m.id, m.revocationEntries(), alarm)
			done = r.Verdict == VerdictDone
		}
	case foundOlder:
		// Of the writes before it nobody knows whether they were lost too.
		if alarm, err = s.alarm(ctx, m); err == nil {
			write := writeID("heal", m.id, has, nil, m.write)
			done, err = s.writeBack(ctx, m.moved(has+1, write), record, m.lostEntries(max(m.epoch, m.consented)-1), alarm)
		}
	case foundRival:
		return s.keepRival(ctx, m, record)
	}
	if err != nil {
		return false, fmt.Errorf("heal: %w", err)
	}
	if done {
		s.cfg.Log.WarnContext(ctx, "the store had lost an acknowledged write; it was written back", "record", m.id, "consent", m.consent, "found", string(what),
			"generation_found", has, "generation", m.generation)
		s.count(CountHealed)
		s.alarmed(ctx, m, alarm)
	}
	return true, nil
}

// writeBack puts the record as m has it in the place of the one that was seen, with its places, the entries that were
// lost with it and the alarm, in one step. Whoever held a lease is fenced out: what it was given may be older than what is there now. An
// erased record does not come back. Nor does what says nothing new of the grant, while somebody has the lease: fenced out, its
// refresh token would be sent once more.
func (s *Store) writeBack(ctx context.Context, m *remembered, seen map[string][]byte, lost, alarm []broker.Entry) (done bool, err error) {
	drafts, err := s.drafts(m.tenant, withAlarm(lost, alarm))
	if err != nil {
		return false, err
	}
	held, err := s.heldBy(m)
	if err == nil && held.SharedGrant != "" {
		// Before there is a connection, as a consent does.
		err = s.hold(ctx, held.SharedGrant, holderOf(held))
	}
	if err != nil {
		return false, err
	}
	key, version := m.key(), m.versionField()
	step := Step{
		Checks: []Check{
			{Key: key, Field: fieldWrite, Kind: CheckApplied, Value: m.write},
			{Key: tombstoneKey(m.shard, m.id), Field: fieldErased, Kind: CheckAbsent},
			{Key: key, Field: version, Kind: CheckAbsent},
		},
		Reads: []Read{{Key: key}},
	}
	if len(seen[version]) > 0 {
		step.Checks[2] = Check{Key: key, Field: version, Kind: CheckEqual, Value: string(seen[version])}
	}
	if s.sameGrant(m, seen) {
		step.Checks = append(step.Checks, Check{Key: key, Field: fieldDeadline, Kind: CheckFree})
	}
	var fields []string
	keep := []string{"", fieldFence}
	for name, value := range m.fields {
		fields, keep = append(fields, name, value), append(keep, name)
	}
	step.Writes = append(step.Writes, Write{Kind: WriteHashSet, Key: key, Args: fields})
	switch {
	case m.shared != "":
		// Whoever has a lease on it got an older token with that: its commit is refused, and it asks again.
		step.Writes = append(step.Writes, Write{Kind: WriteHashDelete, Key: key, Args: []string{fieldOwner, fieldDeadline}})
	case !m.consent:
		// Beyond both: what the store had, and what it had before.
		by := max(0, m.fence-versionOf(seen, fieldFence)) + 1
		step.Writes = append(step.Writes, Write{Kind: WriteHashIncrement, Key: key, Args: []string{fieldFence, strconv.FormatInt(by, 10)}})
		if index := s.indexOf(m); index != "" {
			step.Writes = append(step.Writes, Write{Kind: WriteSortedAdd, Key: index, Args: []string{"0", m.id}})
		}
		step.Writes = append(step.Writes, Write{Kind: WriteSortedAdd, Key: tenantKey(m.shard, m.tenant), Args: []string{"0", m.id}})
	}
	if m.shared == "" {
		step.Writes = append(step.Writes, Write{Kind: WriteOnly, Key: key, Args: keep})
	}
	step.Writes = append(step.Writes, m.places...)
	r, err := s.trails.do(ctx, trailName{shard: m.shard, tenant: m.tenant}, writeID("heal", m.id, versionOf(seen, version), nil, m.write), step, drafts)
	if err != nil {
		return false, err
	}
	if r.Verdict == VerdictRefused {
		switch r.Refused {
		case 1: // erased
			s.memory.forget(m)
			if held.SharedGrant != "" {
				_, err = s.Leave(ctx, held.SharedGrant, holderOf(held))
			}
			return false, err
		case leasedOut:
			return false, s.recordLost(ctx, m, seen, drafts)
		}
		return false, nil
	}
	back := *m
	back.broughtBack = true
	s.rememberIfRead(ctx, written{remembered: back, entries: alarm}, r)
	return r.Verdict == VerdictDone || r.Verdict == VerdictRepeated, nil
}

// heldBy is the connection that is to be a holder of a shared grant again, the zero Connection if it shares none: what the store lost
// of it may have been that too.
func (s *Store) heldBy(m *remembered) (broker.Connection, error) {
	if m.consent || m.shared != "" || m.status == broker.ConnectionRevoked {
		return broker.Connection{}, nil
	}
	conn, err := s.rememberedConnection(m)
	if errors.Is(err, broker.ErrIntegrity) || errors.Is(err, broker.ErrNewerFormat) {
		return broker.Connection{}, nil // it names no grant
	}
	return conn, err
}

// leasedOut is writeBack's check that nobody has the lease.
const leasedOut = 3

// recordLost records what was lost with a write that is not worth bringing back itself.
func (s *Store) recordLost(ctx context.Context, m *remembered, seen map[string][]byte, lost []draft) error {
	if len(lost) > 0 {
		write := writeID("record lost", m.id, versionOf(seen, m.versionField()), nil, m.write)
		if _, err := s.trails.do(ctx, trailName{shard: m.shard, tenant: m.tenant}, write, Step{}, lost); err != nil {
			return err
		}
	}
	s.memory.forget(m)
	s.cfg.Log.WarnContext(ctx, "the store lost a write that changed nothing of the grant, which is being refreshed", "connection", m.id)
	return nil
}

// indexOf is the key of the index of the connection's subject, "" if its record does not open.
func (s *Store) indexOf(m *remembered) string {
	if m.index != "" {
		return m.index
	}
	conn, err := s.rememberedConnection(m)
	if err != nil {
		return ""
	}
	return s.subjectIndex(m.shard, conn)
}

// eraseAgain removes what was erased, and says so for a while.
func (s *Store) eraseAgain(ctx context.Context, m *remembered, has int64, alarm []broker.Entry) (done bool, err error) {
	key := m.key()
	drafts, err := s.drafts(m.tenant, withAlarm(m.lostEntries(has), alarm))
	if err != nil {
		return false, err
	}
	r, err := s.trails.do(ctx, trailName{shard: m.shard, tenant: m.tenant}, writeID("erase again", m.id, has, nil, m.write), Step{
		Checks: []Check{
			{Key: key, Field: fieldTenant, Kind: CheckEqual, Value: m.tenant},
			{Key: key, Field: fieldGeneration, Kind: CheckEqual, Value: strconv.FormatInt(has, 10)},
		},
		Writes: s.forgetWrites(m.shard, m.tenant, m.id, m.index),
	}, drafts)
	if err != nil {
		return false, err
	}
	return r.Verdict == VerdictDone || r.Verdict == VerdictRepeated, nil
}

// keepRival keeps the remembered refresh token as an alternate, once, or puts it in the place of a dead one.
func (s *Store) keepRival(ctx context.Context, m *remembered, record map[string][]byte) (changed bool, err error) {
	now, err := s.clearConnection(m.tenant, m.id, record, nil)
	if err != nil {
		return false, nil // the reader says what is wrong with it
	}
	if now.Status == broker.ConnectionNeedsConsent && now.Error == broker.ErrorInvalidGrant {
		return s.mend(ctx, m, foundOlder, record)
	}
	c, err := s.rememberedCommit(m)
	if err != nil {
		s.memory.forget(m)
		s.cfg.Log.ErrorContext(ctx, "a remembered grant does not open", "connection", m.id, "error", err)
		return false, nil
	}
	// No consent is newer than ours, so it is of the same account.
	kept, err := s.putAlternate(ctx, c, now, record)
	switch {
	case errors.Is(err, broker.ErrNotFound), err == nil && !kept: // revoked or changed at this moment
		return true, nil
	case err != nil:
		return false, fmt.Errorf("heal: %w", err)
	}
	s.memory.forget(m)
	s.cfg.Log.WarnContext(ctx, "the store had lost an acknowledged refresh, and another one took its place; the lost one's token is kept as an alternate", "connection", m.id)
	s.count(CountHealed)
	return false, nil
}

// rememberedConnection opens what is remembered.
func (s *Store) rememberedConnection(m *remembered) (broker.Connection, error) {
	record := make(map[string][]byte, len(m.fields))
	for name, value := range m.fields {
		record[name] = []byte(value)
	}
	conn, h, err := s.clearRecord(m.tenant, m.id, record, nil)
	if err != nil {
		return broker.Connection{}, err
	}
	private, err := s.openPrivate(m.tenant, m.id, conn.Status, h, record)
	conn.Subject, conn.Account, conn.SharedGrant = private.Subject, private.Account.account(), private.Shared
	return conn, err
}

// rememberedCommit is the remembered refresh token as if it came late.
func (s *Store) rememberedCommit(m *remembered) (commit, error) {
	conn, err := s.rememberedConnection(m)
	if err != nil {
		return commit{}, err
	}
	token, err := s.openRefreshToken(m.tenant, m.id, m.epoch, []byte(m.fields[fieldRefresh]))
	if err != nil {
		return commit{}, err
	}
	return commit{
		id: m.write, lease: broker.Lease{Tenant: m.tenant, Connection: m.id, Generation: m.epoch - 1}, conn: conn,
		grant: broker.Grant{RefreshToken: token},
	}, nil
}

// missing lists connections that are remembered under the subject's index and were not in it.
func (s *Store) missing(index string, found []Indexed) []string {
	ids := s.memory.ofSubject(index)
	return slices.DeleteFunc(ids, func(id string) bool {
		return slices.ContainsFunc(found, func(item Indexed) bool { return item.Member == id })
	})
}
