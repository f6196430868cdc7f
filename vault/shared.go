package vault

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"tokenbroker/broker"
)

// A grant that several connections hold (broker.Connection.SharedGrant) has a record of its own, which no tenant's index
// leads to: one hash, in the shard that its name hashes to.
//
//	v, gen, wid       as in a connection
//	g                 sealed: the newest tokens that any holder was given
//	own, fen, dl      the lease, for all holders
//	m:CONNECTION      a holder: the generation of its record as which it came
//	mc                grows with each holder that comes or goes, and with each consent under way
//	c:CONSENT         a consent under way that was given tokens of it: the generation that they made, and until when it counts
//
// A generation is the moment, in microseconds, at which its tokens were asked for, or more: so they are in the order in which
// the provider gave them, whoever writes first, and never start anew, even if the record ends and comes back.
//
// As long as nobody holds it, it ends by itself. A connection keeps its own copy of the tokens it saw last, and the
// generation of the grant that they are of: should this record be lost, or be older, that copy counts.
const (
	sharedFormat = "1"
	fieldGrant   = "g"
	fieldHolder  = "m:"
	fieldHolders = "mc"
	fieldMark    = "c:"
	unheldLife   = time.Hour
	sharedAgain  = 5 // attempts of a write that meets others
	clockSlack   = 2 * time.Minute
)

// sharedFields are what belongs to a generation.
func sharedFields() []string { return []string{fieldFormat, fieldGeneration, fieldWrite, fieldGrant} }

func (s *Store) sharedKey(name string) string {
	key := grantKey(s.seals.hash(18, "shared-grant", name))
	s.sharedNames.put(key, name)
	return key
}

func sharedPlace(name string, generation int64) []byte {
	return place("grant", "", name, fieldGrant, sharedFormat, strconv.FormatInt(generation, 10))
}

// sharedGrant is such a record, read.
type sharedGrant struct {
	generation int64
	grant      broker.Grant // zero before the first generation
	holders    map[string]int64
	changes    string // fieldHolders
	consents   map[string]mark
}

func (s *Store) openShared(name string, record map[string][]byte) (g sharedGrant, err error) {
	g.holders, g.consents = map[string]int64{}, map[string]mark{}
	if len(record) == 0 {
		return g, nil
	}
	if err := checkFormat(string(record[fieldFormat]), sharedFormat); err != nil {
		return g, fmt.Errorf("shared grant: %w", err)
	}
	for field, value := range record {
		if id, ok := strings.CutPrefix(field, fieldHolder); ok {
			g.holders[id] = versionOf(record, field)
		}
		if id, ok := strings.CutPrefix(field, fieldMark); ok {
			g.consents[id] = parseMark(string(value))
		}
	}
	g.changes = string(record[fieldHolders])
	if len(record[fieldGeneration]) == 0 {
		return g, nil // holders alone
	}
	if g.generation, err = strconv.ParseInt(string(record[fieldGeneration]), 10, 64); err != nil {
		return g, fmt.Errorf("shared grant: generation: %w", broker.ErrIntegrity)
	}
	plain, err := s.seals.open(record[fieldGrant], sharedPlace(name, g.generation))
	if err != nil {
		return g, fmt.Errorf("shared grant: %w", err)
	}
	var stored storedGrant
	if err := json.Unmarshal(plain, &stored); err != nil {
		return g, fmt.Errorf("shared grant: decode: %w", broker.ErrIntegrity)
	}
	g.grant = stored.grant()
	return g, nil
}

func (s *Store) readShared(ctx context.Context, name string) (sharedGrant, error) {
	key := s.sharedKey(name)
	for attempt := 1; ; attempt++ {
		found, err := s.hashes(ctx, key)
		if err != nil {
			return sharedGrant{}, err
		}
		changed, err := s.healed(ctx, "", key, found[0])
		if err != nil {
			return sharedGrant{}, err
		}
		if !changed || attempt == healAttempts {
			return s.openShared(name, found[0])
		}
	}
}

// grantFields make the record hold the grant at that generation.
func (s *Store) grantFields(name string, generation int64, grant broker.Grant, write string) ([]string, error) {
	plain, err := json.Marshal(storeGrant(grant))
	if err != nil {
		return nil, fmt.Errorf("encode shared grant: %w", err)
	}
	sealed, err := s.seals.seal(plain, sharedPlace(name, generation))
	if err != nil {
		return nil, err
	}
	return []string{fieldFormat, sharedFormat, fieldGeneration, strconv.FormatInt(generation, 10), fieldWrite, write, fieldGrant, sealed}, nil
}

// atGeneration checks that nobody has written the grant since.
func atGeneration(key string, generation int64) Check {
	if generation == 0 {
		return Check{Key: key, Field: fieldGeneration, Kind: CheckAbsent}
	}
	return Check{Key: key, Field: fieldGeneration, Kind: CheckEqual, Value: strconv.FormatInt(generation, 10)}
}

// sameHolders checks that nobody has come or gone since.
func sameHolders(key, changes string) Check {
	if changes == "" {
		return Check{Key: key, Field: fieldHolders, Kind: CheckAbsent}
	}
	return Check{Key: key, Field: fieldHolders, Kind: CheckEqual, Value: changes}
}

// mark is of a consent under way.
type mark struct {
	generation int64 // 0: newer tokens were there already
	until      int64 // ms
}

func (m mark) String() string {
	return strconv.FormatInt(m.generation, 10) + " " + strconv.FormatInt(m.until, 10)
}

func parseMark(text string) (m mark) {
	generation, until, _ := strings.Cut(text, " ")
	m.generation, _ = strconv.ParseInt(generation, 10, 64)
	m.until, _ = strconv.ParseInt(until, 10, 64)
	return m
}

// markLife is longer than any consent lives.
const markLife = time.Hour

// held tells how many hold the grant, or are about to, beside that connection or consent.
func (g sharedGrant) held(beside broker.Holder, now time.Time) int {
	n := 0
	for id, since := range g.holders {
		if id != beside.ID || since > beside.Generation {
			n++
		}
	}
	for id, m := range g.consents {
		if id != beside.ID && now.UnixMilli() < m.until {
			n++
		}
	}
	return n
}

// bare is what holders may have of another's grant: its tokens. Whose account it is, and what else the answer told, is that
// user's.
func bare(grant broker.Grant) broker.Grant {
	grant.Account, grant.Extra, grant.Vars = broker.Account{}, nil, nil
	return grant
}

// rememberShared is remember for the record of a shared grant, at that generation. fields are what was written, nil if it was only
// read. They are remembered first, whatever a read shows: no other holder of the grant has these tokens yet, and if the store loses
// them before the record can be read again, whoever heals must know of them.
func (s *Store) rememberShared(ctx context.Context, key, write string, generation int64, fields []string, r Result) error {
	shard, err := hex.DecodeString(key[len("tb:{"):][:2])
	if err != nil {
		return fmt.Errorf("shared grant: shard: %w", err)
	}
	m := remembered{id: key, shared: key, shard: shard[0], generation: generation, write: write}
	if fields != nil {
		first := m
		first.fields, first.stored, first.sent = make(map[string]string, len(fields)/2), r.Now, r.asked
		for i := 0; i+1 < len(fields); i += 2 {
			first.fields[fields[i]] = fields[i+1]
		}
		s.memory.put(&first, writtenEntries{})
	}
	return s.remember(ctx, written{remembered: m}, r)
}

// Spread implements broker.SharedGrants.
func (s *Store) Spread(ctx context.Context, name, consent string, grant broker.Grant) (int64, error) {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	key := s.sharedKey(name)
	var unremembered error
	for range sharedAgain {
		now, err := s.readShared(ctx, name)
		if errors.Is(err, broker.ErrIntegrity) {
			err = nil // what does not open is of no use to anybody; these tokens are
		}
		if err != nil {
			return 0, fmt.Errorf("spread grant: %w", errors.Join(unremembered, err))
		}
		if m, there := now.consents[consent]; there {
			return m.generation, nil
		}
		write, err := s.randomID()
		if err != nil {
			return 0, err
		}
		made := mark{generation: micros(grant.ObtainedAt), until: s.cfg.Now().Add(markLife).UnixMilli()}
		// A generation that is still to come is of a clock that was wrong: the consent has just been given, and its tokens ended
		// those before. Thrown away as older ones, they would be missing to all who hold the grant.
		ahead := now.generation > micros(s.cfg.Now().Add(clockSlack))
		var fields []string
		if made.generation >= now.generation || ahead {
			made.generation = max(made.generation, now.generation+1)
			if fields, err = s.grantFields(name, made.generation, bare(grant), write); err != nil {
				return 0, err
			}
		} else {
			made.generation = 0
		}
		writes := s.markWrites(key, now, consent, made, fields...)
		checks := []Check{atGeneration(key, now.generation), sameHolders(key, now.changes)}
		if made.generation > 0 {
			checks = append([]Check{{Key: key, Field: fieldWrite, Kind: CheckApplied, Value: write}}, checks...)
		}
		r, err := s.trails.direct(ctx, Step{
			Settle: &Settle{Key: settleKeyOf(key)}, Checks: checks, Writes: writes, Reads: []Read{{Key: key, Fields: sharedFields()}},
		})
		if err != nil {
			return 0, fmt.Errorf("spread grant: %w", err)
		}
		if r.Verdict != VerdictRefused {
			if made.generation > 0 {
				unremembered = s.rememberShared(ctx, key, write, made.generation, fields, r)
			}
			if unremembered != nil || r.overtaken {
				// The store may have lost it since. A caller who comes back may come too late, for somebody who refreshes with older tokens:
				// the next look writes them back, and the mark is set again.
				continue
			}
			return made.generation, nil
		}
	}
	return 0, fmt.Errorf("spread grant: it keeps changing: %w", cmp.Or(unremembered, broker.ErrConflict))
}

// Unmark implements broker.SharedGrants.
func (s *Store) Unmark(ctx context.Context, name, consent string) error {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	key := s.sharedKey(name)
	if _, err := s.trails.direct(ctx, Step{Writes: []Write{{Kind: WriteHashDelete, Key: key, Args: []string{fieldMark + consent}}}}); err != nil {
		return fmt.Errorf("end mark of consent: %w", err)
	}
	return nil
}

// Holders implements broker.SharedGrants.
func (s *Store) Holders(ctx context.Context, name string, beside broker.Holder) (int, error) {
	now, err := s.readShared(ctx, name)
	if err != nil && !errors.Is(err, broker.ErrIntegrity) {
		return 0, err
	}
	return now.held(beside, s.cfg.Now()), nil
}

// Newest implements broker.SharedGrants.
func (s *Store) Newest(ctx context.Context, name string) (int64, error) {
	now, err := s.readShared(ctx, name)
	if err != nil {
		return 0, fmt.Errorf("read shared grant: %w", err)
	}
	return now.generation, nil
}

func holderOf(conn broker.Connection) broker.Holder {
	return broker.Holder{ID: conn.ID, Generation: conn.Generation}
}

// hold makes the connection a holder. It repeats itself without harm.
func (s *Store) hold(ctx context.Context, name string, connection broker.Holder) error {
	key := s.sharedKey(name)
	for range sharedAgain {
		now, err := s.readShared(ctx, name)
		if err != nil && !errors.Is(err, broker.ErrIntegrity) {
			return fmt.Errorf("hold shared grant: %w", err) // a newer format is not touched
		}
		if since, there := now.holders[connection.ID]; there && since >= connection.Generation {
			return nil
		}
		r, err := s.trails.direct(ctx, Step{
			Checks: []Check{sameHolders(key, now.changes)},
			Writes: []Write{
				{Kind: WriteHashSet, Key: key, Args: []string{fieldFormat, sharedFormat, fieldHolder + connection.ID, strconv.FormatInt(connection.Generation, 10)}},
				{Kind: WriteHashIncrement, Key: key, Args: []string{fieldHolders, "1"}},
				{Kind: WritePersist, Key: key},
			},
		})
		if err != nil {
			return fmt.Errorf("hold shared grant: %w", err)
		}
		if r.Verdict != VerdictRefused {
			return nil
		}
	}
	return fmt.Errorf("hold shared grant: it keeps changing: %w", broker.ErrConflict)
}

// holdAgain is hold for a connection that should be a holder, as the store says no more. One that was revoked or erased meanwhile
// becomes none: whoever does that says so in its record first.
func (s *Store) holdAgain(ctx context.Context, conn broker.Connection) error {
	if err := s.hold(ctx, conn.SharedGrant, holderOf(conn)); err != nil {
		return err
	}
	shard, err := shardOf(conn.ID)
	if err != nil {
		return err
	}
	found, err := s.hashes(ctx, connectionKey(shard, conn.ID))
	if err != nil {
		return err
	}
	if record := found[0]; len(record) == 0 || broker.ConnectionStatus(record[fieldStatus]) == broker.ConnectionRevoked {
		_, err = s.Leave(ctx, conn.SharedGrant, holderOf(conn))
	}
	return err
}

// Leave implements broker.SharedGrants. Without holders the record ends by itself after a while: until then a consent goes on
// from there, and whoever ends the grant at the provider finds its tokens.
func (s *Store) Leave(ctx context.Context, name string, connection broker.Holder) (left int, err error) {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	key := s.sharedKey(name)
	for range sharedAgain {
		now, err := s.readShared(ctx, name)
		if err != nil && !errors.Is(err, broker.ErrIntegrity) {
			return 0, fmt.Errorf("leave shared grant: %w", err)
		}
		left := now.held(connection, s.cfg.Now())
		if since, there := now.holders[connection.ID]; !there || since > connection.Generation {
			return left, nil
		}
		writes := []Write{
			{Kind: WriteHashIncrement, Key: key, Args: []string{fieldHolders, "1"}},
			{Kind: WriteHashDelete, Key: key, Args: []string{fieldHolder + connection.ID}},
		}
		if len(now.holders) == 1 {
			writes = append(writes, Write{Kind: WriteExpireIn, Key: key, Args: []string{strconv.FormatInt(unheldLife.Milliseconds(), 10)}})
		}
		r, err := s.trails.direct(ctx, Step{Checks: []Check{sameHolders(key, now.changes)}, Writes: writes})
		if err != nil {
			return 0, fmt.Errorf("leave shared grant: %w", err)
		}
		if r.Verdict != VerdictRefused {
			return left, nil
		}
	}
	return 0, fmt.Errorf("leave shared grant: it keeps changing: %w", broker.ErrConflict)
}

// endHolding is Leave for a connection whose revocation is over: with the last holder the record goes, with all that it holds.
func (s *Store) endHolding(ctx context.Context, name string, connection broker.Holder) error {
	left, err := s.Leave(ctx, name, connection)
	if err != nil || left > 0 {
		return err
	}
	now, err := s.readShared(ctx, name)
	if err != nil || now.held(broker.Holder{}, s.cfg.Now()) > 0 {
		return nil // it ends by itself
	}
	key := s.sharedKey(name)
	if _, err := s.trails.direct(ctx, Step{
		Checks: []Check{sameHolders(key, now.changes), atGeneration(key, now.generation)},
		Writes: []Write{{Kind: WriteDelete, Key: key}},
	}); err != nil {
		return fmt.Errorf("end shared grant: %w", err)
	}
	return nil
}
