package vault

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"tokenbroker/broker"
)

// unsweptLife is how long an unfinished consent stays past its deadline, so that the sweeper can still revoke what it
// holds after an outage.
const unsweptLife = 24 * time.Hour

// consentWrites are the changes that a write of a consent makes; the record itself comes first.
func (s *Store) consentWrites(shard byte, c broker.Consent, version int64, id string) ([]Write, error) {
	fields, err := s.consentFields(c, version, id)
	if err != nil {
		return nil, err
	}
	key := consentKey(shard, c.ID)
	unfinished := unfinishedKey(shard, s.subjectTag(c.Tenant, c.Subject))
	writes := []Write{{Kind: WriteHashSet, Key: key, Args: fields}}
	if c.Binding == broker.BindingDevice {
		writes = append(writes, pollWrite(shard, c))
	}
	end := strconv.FormatInt(s.endOfLife(c).UnixMilli(), 10)
	if finished(c.Status) {
		return append(writes,
			Write{Kind: WriteExpireAt, Key: key, Args: []string{end}},
			Write{Kind: WriteSortedRemove, Key: unfinished, Args: []string{c.ID}},
			Write{Kind: WriteSortedRemove, Key: deadlinesKey(shard), Args: []string{c.ID}},
		), nil
	}
	return append(writes,
		Write{Kind: WriteSortedAdd, Key: unfinished, Args: []string{"0", c.ID}},
		Write{Kind: WriteSortedAdd, Key: deadlinesKey(shard), Args: []string{strconv.FormatInt(dueAt(c).UnixMilli(), 10), c.ID}},
		Write{Kind: WriteExpireAt, Key: key, Args: []string{end}},
		// At least as long as the youngest of them; what is in it without a record is passed over.
		Write{Kind: WriteExpireIn, Key: unfinished, Args: []string{strconv.FormatInt((2 * unsweptLife).Milliseconds(), 10)}},
	), nil
}

// pollWrite puts a consent on another device where it is found when the provider may be asked, or takes it out. Not while
// somebody has a claim on it.
func pollWrite(shard byte, c broker.Consent) Write {
	if c.Status != broker.ConsentStarted {
		return Write{Kind: WriteSortedRemove, Key: pollsKey(shard), Args: []string{c.ID}}
	}
	at := c.Device.PollAt
	if c.BusyUntil.After(at) {
		at = c.BusyUntil
	}
	return Write{Kind: WriteSortedAdd, Key: pollsKey(shard), Args: []string{strconv.FormatInt(at.UnixMilli(), 10), c.ID}}
}

// dueAt is when the sweeper shall look at a consent: not while somebody has a claim on it, so that those which a provider
// that is down can't be told about don't stand before all others.
func dueAt(c broker.Consent) time.Time {
	if c.BusyUntil.After(c.Deadline) {
		return c.BusyUntil
	}
	return c.Deadline
}

// CreateConsent implements broker.Consents. What once says lies beside the record until the deadline, whatever becomes of
// the consent; it is written with the record or not at all.
func (s *Store) CreateConsent(ctx context.Context, c broker.Consent, once string, entries []broker.Entry) (broker.Consent, error) {
	return s.writeConsent(ctx, "create consent", c, once, writeID("create-consent", c.ID, 0, entries, "new"), entries)
}

// UpdateConsent implements broker.Consents.
func (s *Store) UpdateConsent(ctx context.Context, c broker.Consent, entries []broker.Entry) (broker.Consent, error) {
	id, err := s.contentID("update-consent", c.Version, entries, storeConsent(c))
	if err != nil {
		return broker.Consent{}, err
	}
	return s.writeConsent(ctx, "update consent", c, "", id, entries)
}

// contentID names a write of a consent or a visit by all that it writes: repeated as it was, it has the same name. What tells two
// that count a wrong code apart are the ids of their events, and two that claim a consent, Claim. The hash is keyed: what is
// written holds secrets, and the name of a write lies in clear.
func (s *Store) contentID(operation string, version int64, entries []broker.Entry, content ...any) (string, error) {
	parts := []string{operation, strconv.FormatInt(version, 10)}
	for _, v := range content {
		body, err := json.Marshal(v)
		if err != nil {
			return "", fmt.Errorf("name write: %w", err)
		}
		parts = append(parts, string(body))
	}
	for _, e := range entries {
		for _, scope := range e.Scopes {
			parts = append(parts, scope.ID)
		}
	}
	return base64.RawURLEncoding.EncodeToString(s.seals.hash(12, "write", parts...)), nil
}

func (s *Store) writeConsent(ctx context.Context, what string, c broker.Consent, once, id string, entries []broker.Entry) (broker.Consent, error) {
	shard, err := shardOf(c.ID)
	if err != nil {
		return broker.Consent{}, err
	}
	if shard != s.Shard(c.Tenant, c.Subject) {
		return broker.Consent{}, fmt.Errorf("%s: its id was not made for its subject", what)
	}
	drafts, err := s.drafts(c.Tenant, entries)
	if err != nil {
		return broker.Consent{}, err
	}
	writes, err := s.consentWrites(shard, c, c.Version+1, id)
	if err != nil {
		return broker.Consent{}, err
	}
	step := Step{Checks: consentChecks(shard, c, id), Writes: writes, Reads: []Read{{Key: consentKey(shard, c.ID)}}}
	if once != "" {
		key := onceKey(shard, s.onceTag(c.Tenant, c.Subject, once))
		step.Checks = append(step.Checks, Check{Key: key, Field: fieldConsent, Kind: CheckAbsent})
		step.Writes = append(step.Writes,
			Write{Kind: WriteHashSet, Key: key, Args: []string{fieldConsent, c.ID}},
			Write{Kind: WriteExpireAt, Key: key, Args: []string{strconv.FormatInt(c.Deadline.UnixMilli(), 10)}})
	}
	r, err := s.trails.do(ctx, trailName{shard: shard, tenant: c.Tenant}, id, step, drafts)
	if err != nil {
		return broker.Consent{}, fmt.Errorf("%s: %w", what, err)
	}
	if r.Verdict == VerdictRefused {
		return broker.Consent{}, fmt.Errorf("%s: %w", what, broker.ErrConflict)
	}
	s.rememberIfRead(ctx, s.writtenConsent(shard, c, id, writes, 0, entries), r)
	return storeConsent(c).consent(c.Version + 1), nil
}

// writtenConsent is a write of a consent, which consentWrites made; read is which of the step's reads is the record.
func (s *Store) writtenConsent(shard byte, c broker.Consent, write string, writes []Write, read int, entries []broker.Entry) written {
	return written{
		remembered: remembered{tenant: c.Tenant, id: c.ID, consent: true, shard: shard, write: write, places: writes[1:], until: s.endOfLife(c)},
		read:       read, entries: entries,
	}
}

// endOfLife is when the store drops the record of a consent.
func (s *Store) endOfLife(c broker.Consent) time.Time {
	if finished(c.Status) {
		return s.cfg.Now().Add(broker.ConsentKept)
	}
	return c.Deadline.Add(broker.ConsentKept + unsweptLife)
}

func consentChecks(shard byte, c broker.Consent, id string) []Check {
	return versionChecks(consentKey(shard, c.ID), consentFormat, c.Version, id)
}

// versionChecks let a write of that id through if the record is at that version and format; 0: if there is none.
func versionChecks(key, format string, version int64, id string) []Check {
	checks := []Check{{Key: key, Field: fieldWrite, Kind: CheckApplied, Value: id}}
	if version == 0 {
		return append(checks, Check{Key: key, Field: fieldVersion, Kind: CheckAbsent})
	}
	return append(checks,
		Check{Key: key, Field: fieldVersion, Kind: CheckEqual, Value: strconv.FormatInt(version, 10)},
		Check{Key: key, Field: fieldFormat, Kind: CheckEqual, Value: format},
	)
}

// Consent implements broker.Consents.
func (s *Store) Consent(ctx context.Context, id string) (broker.Consent, error) {
	shard, err := shardOf(id)
	if err != nil {
		return broker.Consent{}, err
	}
	for attempt := 1; ; attempt++ {
		found, err := s.hashes(ctx, consentKey(shard, id))
		if err != nil {
			return broker.Consent{}, err
		}
		changed := false
		if m := s.memory.get(id); m != nil {
			if changed, err = s.healed(ctx, m.tenant, id, found[0]); err != nil {
				return broker.Consent{}, err
			}
		}
		if !changed || attempt == healAttempts {
			return s.openConsent(id, found[0])
		}
	}
}

// ConsentsOfSubject implements broker.Consents. One that does not open is left out and logged: a new one can be made. It
// reads no more than limit at a time, and goes on as long as what it read was not wanted: fewer than limit means all.
func (s *Store) ConsentsOfSubject(ctx context.Context, tenant, subject string, limit int) ([]broker.Consent, error) {
	shard := s.Shard(tenant, subject)
	limit = max(1, limit)
	query := IndexQuery{Index: unfinishedKey(shard, s.subjectTag(tenant, subject)), Records: consentPrefix(shard), Limit: limit}
	var out []broker.Consent
	for more := true; more && len(out) < limit; {
		found, err := readPatiently(ctx, func(ctx context.Context) ([][]Indexed, error) {
			return s.cfg.Backend.Indexed(ctx, []IndexQuery{query})
		})
		if err != nil {
			return nil, err
		}
		items := found[0]
		if more = len(items) == limit; more {
			query.After = items[limit-1].Member
		}
		for _, item := range items {
			c, err := s.openConsent(item.Member, item.Record)
			switch {
			case errors.Is(err, broker.ErrNotFound): // its end of life came before the sweeper
			case err != nil:
				s.cfg.Log.ErrorContext(ctx, "consent can't be read", "consent", item.Member, "error", err)
			case !finished(c.Status) && c.Tenant == tenant && c.Subject == subject && len(out) < limit:
				out = append(out, c)
			}
		}
	}
	slices.SortFunc(out, func(a, b broker.Consent) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return out, nil
}

// DueConsents implements broker.Consents.
func (s *Store) DueConsents(ctx context.Context, before time.Time, limit int) ([]broker.Consent, error) {
	return s.dueOn(ctx, deadlinesKey, before, limit)
}

// DuePolls implements broker.Consents.
func (s *Store) DuePolls(ctx context.Context, before time.Time, limit int) ([]broker.Consent, error) {
	return s.dueOn(ctx, pollsKey, before, limit)
}

// dueOn reads the unfinished consents that are due on such a list.
func (s *Store) dueOn(ctx context.Context, list func(byte) string, before time.Time, limit int) ([]broker.Consent, error) {
	due, err := s.due(ctx, list, before, limit)
	if err != nil {
		return nil, err
	}
	var out []broker.Consent
	for _, d := range due {
		c, err := s.Consent(ctx, d.id)
		switch {
		case errors.Is(err, broker.ErrNotFound):
			s.undue(ctx, list(d.shard), consentKey(d.shard, d.id), fieldVersion, d.id)
		case errors.Is(err, broker.ErrIntegrity), errors.Is(err, broker.ErrNewerFormat):
			s.cfg.Log.ErrorContext(ctx, "consent can't be read", "consent", d.id, "error", err)
		case err != nil:
			return out, err
		case !finished(c.Status):
			out = append(out, c)
		}
	}
	return out, nil
}

// CompleteConsent implements broker.Consents. A crash behind it leaves nothing to be done; before it, everything is as
// before.
//
// The grant's access token becomes the only one of the connection, under key "". A grant without a refresh token keeps
// the stored one only if conn is Renewable, was not revoked, and belongs to the same, known account: another
// account's refresh token must never serve this one.
func (s *Store) CompleteConsent(ctx context.Context, consent broker.Consent, conn broker.Connection, grant broker.Grant, entries []broker.Entry) (broker.Connection, error) {
	shard, err := shardOf(consent.ID)
	if err != nil {
		return broker.Connection{}, err
	}
	if other, err := shardOf(conn.ID); err != nil || other != shard || conn.Tenant != consent.Tenant || conn.Subject != consent.Subject || shard != s.Shard(conn.Tenant, conn.Subject) {
		return broker.Connection{}, errors.New("complete consent: the connection is not of the consent's subject")
	}
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	drafts, err := s.drafts(conn.Tenant, entries)
	if err != nil {
		return broker.Connection{}, err
	}
	id, err := s.contentID("complete-consent", consent.Version, entries, storeConsent(consent), conn.ID, conn.Generation, storeGrant(grant))
	if err != nil {
		return broker.Connection{}, err
	}
	key := connectionKey(shard, conn.ID)
	checks := consentChecks(shard, consent, id)
	keepRefresh, epoch := false, int64(0)
	if conn.Generation == 0 {
		checks = append(checks, Check{Key: key, Field: fieldGeneration, Kind: CheckAbsent})
	} else {
		checks = append(checks,
			Check{Key: key, Field: fieldTenant, Kind: CheckEqual, Value: conn.Tenant},
			Check{Key: key, Field: fieldFormat, Kind: CheckAtMost, Value: connectionFormat},
			Check{Key: key, Field: fieldGeneration, Kind: CheckEqual, Value: strconv.FormatInt(conn.Generation, 10)})
		if grant.RefreshToken.IsZero() && conn.Renewable {
			if keepRefresh, epoch, err = s.mayKeepRefresh(ctx, conn); err != nil {
				return broker.Connection{}, err
			}
		}
	}
	next := conn
	next.Tokens, next.Renewable = nil, keepRefresh
	next = granted(next, "", grant)
	next.Generation = conn.Generation + 1
	if !grant.RefreshToken.IsZero() {
		epoch = next.Generation
	}
	fields, err := s.connectionFields(next, next.Generation, epoch, id)
	if err != nil {
		return broker.Connection{}, err
	}
	fields = append(fields, fieldConsented, strconv.FormatInt(next.Generation, 10))
	tokens, err := s.tokenWrites(next, "", grant)
	if err != nil {
		return broker.Connection{}, err
	}
	consentWrites, err := s.consentWrites(shard, consent, consent.Version+1, id)
	if err != nil {
		return broker.Connection{}, err
	}
	gone := []string{fieldOwner, fieldDeadline, fieldOutcome}
	if !next.Renewable {
		gone = append(gone, fieldRefresh)
	}
	leaves := []Write{
		{Kind: WriteDelete, Key: alternatesKey(shard, conn.ID)},
		{Kind: WriteSortedRemove, Key: revocationsKey(shard), Args: []string{conn.ID}},
	}
	if next.SharedGrant != "" {
		// Before there is a connection: a crash in between leaves a holder too many, and the grant at its provider. The other
		// way round somebody who leaves could end it for this one.
		if err := s.hold(ctx, next.SharedGrant, holderOf(next)); err != nil {
			return broker.Connection{}, fmt.Errorf("complete consent: %w", err)
		}
	}
	r, err := s.trails.do(ctx, trailName{shard: shard, tenant: conn.Tenant}, id, Step{
		// A shard with a connection knows which history it belongs to: a lease after a failover can tell.
		Settle: &Settle{Key: settleKey(shard)},
		Checks: checks,
		Writes: slices.Concat(
			[]Write{{Kind: WriteHashSet, Key: key, Args: fields}}, s.connectionIndexes(shard, next), consentWrites, tokens,
			[]Write{{Kind: WriteHashDelete, Key: key, Args: gone}}, leaves,
		),
		Reads: []Read{{Key: key}, {Key: consentKey(shard, consent.ID)}},
	}, drafts)
	if err != nil {
		return broker.Connection{}, fmt.Errorf("complete consent: %w", err)
	}
	if r.Verdict == VerdictRefused {
		if next.SharedGrant != "" && conn.Generation == 0 {
			if _, err := s.Leave(ctx, next.SharedGrant, holderOf(next)); err != nil {
				s.cfg.Log.WarnContext(ctx, "a connection that was not made counts as a holder of its grant", "connection", next.ID, "error", err)
			}
		}
		return broker.Connection{}, fmt.Errorf("complete consent: %w", broker.ErrConflict)
	}
	if next.SharedGrant != "" {
		if err := s.Unmark(ctx, next.SharedGrant, consent.ID); err != nil {
			s.cfg.Log.DebugContext(ctx, "the mark of a completed consent stays on its grant for a while", "connection", next.ID, "error", err)
		}
	}
	// The consent first: while it is not finished its code might be redeemed again, which can end the grant (RFC 6749
	// section 4.1.2).
	s.rememberIfRead(ctx, s.writtenConsent(shard, consent, id, consentWrites, 1, nil), r)
	s.rememberIfRead(ctx, s.writtenConnection(shard, next, id, entries, append(leaves, s.followWrites(shard, next)...)...), r)
	if s.cfg.Confirm {
		s.confirm(ctx, next)
	}
	return next, nil
}

// mayKeepRefresh tells whether the stored refresh token is of the same account, and its epoch. The generation that conn has
// is checked again in the write.
func (s *Store) mayKeepRefresh(ctx context.Context, conn broker.Connection) (may bool, epoch int64, err error) {
	had, record, err := s.load(ctx, conn.Tenant, conn.ID)
	switch {
	case errors.Is(err, broker.ErrNotFound):
		return false, 0, fmt.Errorf("complete consent: %w", broker.ErrConflict)
	case errors.Is(err, broker.ErrIntegrity):
		return false, 0, nil // a new grant mends a broken record
	case err != nil:
		return false, 0, err
	}
	return had.Status != broker.ConnectionRevoked && had.Account.ID != "" && had.Account.ID == conn.Account.ID && len(record[fieldRefresh]) > 0, epochOf(record), nil
}
