package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"tokenbroker/broker"
)

// The list of sessions at the dashboard: one sealed record each, with a TTL, and a sorted set of their ids, the newest first. All lie in
// one shard, as jobs do: operators are few.

var _ broker.OperatorSessions = (*Store)(nil)

// fieldTurn repeats the turn in clear, from the second on, for the checks.
const fieldTurn = "t"

// operatorSessionsListed is how many the list has, the newest.
const operatorSessionsListed = 10_000

type storedOperatorSession struct {
	Operator string   `json:"op"`
	Name     string   `json:"na,omitempty"`
	Groups   []string `json:"gr,omitempty"`
	ByToken  bool     `json:"tk,omitempty"`
	Epoch    string   `json:"ep,omitempty"`
	Since    int64    `json:"si"`
	Seen     int64    `json:"se"`
	Turn     int64    `json:"tu,omitempty"`
}

func (s *Store) operatorSessionsShard() byte { return s.Shard("", "operator-sessions") }

func (s *Store) operatorSession(id string) timed {
	return timed{domain: "operator-session", key: operatorSessionPrefix(s.operatorSessionsShard()) + id, digest: id}
}

// BeginOperatorSession implements broker.OperatorSessions.
func (s *Store) BeginOperatorSession(ctx context.Context, one broker.OperatorSession, until time.Time) error {
	return s.writeOperatorSession(ctx, one, until, nil)
}

// KeepOperatorSession implements broker.OperatorSessions.
func (s *Store) KeepOperatorSession(ctx context.Context, one broker.OperatorSession, until time.Time) error {
	return s.writeOperatorSession(ctx, one, until, s.operatorSession(one.ID).inTurn(one.Turn))
}

// RenewOperatorSession implements broker.OperatorSessions. Where the reply is lost, its repetition is refused: nobody goes on then, and
// the operator signs in again.
func (s *Store) RenewOperatorSession(ctx context.Context, one broker.OperatorSession, until time.Time) error {
	return s.writeOperatorSession(ctx, one, until, s.operatorSession(one.ID).inTurn(one.Turn-1))
}

// inTurn are checks that a session is still there, and in that turn.
func (t timed) inTurn(turn int64) []Check {
	check := Check{Key: t.key, Field: fieldTurn, Kind: CheckAbsent}
	if turn > 0 {
		check.Kind, check.Value = CheckEqual, strconv.FormatInt(turn, 10)
	}
	return append(t.there(), check)
}

func (s *Store) writeOperatorSession(ctx context.Context, one broker.OperatorSession, until time.Time, checks []Check) error {
	if !usableJobID(one.ID) {
		return errors.New("operator session: its id can't be stored")
	}
	body, err := json.Marshal(storedOperatorSession{
		Operator: one.Operator, Name: one.Name, Groups: one.Groups, ByToken: one.ByToken, Epoch: one.Epoch, Since: millis(one.Since), Seen: millis(one.Seen), Turn: one.Turn,
	})
	if err != nil {
		return fmt.Errorf("encode operator session: %w", err)
	}
	t, end := s.operatorSession(one.ID), strconv.FormatInt(until.UnixMilli(), 10)
	sealed, err := s.seals.seal(body, t.place(end))
	if err != nil {
		return err
	}
	list, fields := operatorSessionsKey(s.operatorSessionsShard()), []string{fieldFormat, timedFormat, fieldEnd, end, fieldBody, sealed}
	if one.Turn > 0 {
		fields = append(fields, fieldTurn, strconv.FormatInt(one.Turn, 10))
	}
	return s.stepTimed(ctx, "save", t, Step{Checks: checks, Writes: []Write{
		{Kind: WriteHashSet, Key: t.key, Args: fields},
		{Kind: WriteExpireAt, Key: t.key, Args: []string{end}},
		{Kind: WriteSortedAdd, Key: list, Args: []string{"0", one.ID}},
		{Kind: WriteSortedTrim, Key: list, Args: []string{strconv.Itoa(operatorSessionsListed), "-1"}},
	}})
}

// OperatorSession implements broker.OperatorSessions.
func (s *Store) OperatorSession(ctx context.Context, id string) (broker.OperatorSession, error) {
	if !usableJobID(id) {
		return broker.OperatorSession{}, broker.ErrNotFound
	}
	body, err := s.readTimed(ctx, s.operatorSession(id))
	if err != nil {
		return broker.OperatorSession{}, err
	}
	var stored storedOperatorSession
	if err := json.Unmarshal(body, &stored); err != nil {
		return broker.OperatorSession{}, fmt.Errorf("decode operator session: %w", broker.ErrIntegrity)
	}
	return broker.OperatorSession{
		ID: id, Operator: stored.Operator, Name: stored.Name, Groups: stored.Groups, ByToken: stored.ByToken, Epoch: stored.Epoch, Since: fromMillis(stored.Since), Seen: fromMillis(stored.Seen), Turn: stored.Turn,
	}, nil
}

// OperatorSessions implements broker.OperatorSessions. Those that are over leave the list here.
func (s *Store) OperatorSessions(ctx context.Context, position string, limit int) ([]broker.OperatorSession, string, error) {
	shard, limit := s.operatorSessionsShard(), max(1, limit)
	query := RangeQuery{Key: operatorSessionsKey(shard), Limit: limit + 1}
	if position != "" {
		query.From = position + "\x00"
	}
	found, err := readPatiently(ctx, func(ctx context.Context) ([][]string, error) { return s.cfg.Backend.Ranges(ctx, []RangeQuery{query}) })
	if err != nil {
		return nil, "", err
	}
	ids, next := found[0], ""
	if len(ids) > limit {
		ids, next = ids[:limit], ids[limit-1]
	}
	var all []broker.OperatorSession
	for _, id := range ids {
		one, err := s.OperatorSession(ctx, id)
		switch {
		case errors.Is(err, broker.ErrNotFound):
			if err := s.EndOperatorSession(ctx, id); err != nil {
				return nil, "", err
			}
		case errors.Is(err, broker.ErrIntegrity), errors.Is(err, broker.ErrKeyNotYet), errors.Is(err, broker.ErrNewerFormat):
			s.cfg.Log.WarnContext(ctx, "session left out of the list", "session", id, "error", err)
		case err != nil:
			return nil, "", err
		default:
			all = append(all, one)
		}
	}
	return all, next, nil
}

// EndOperatorSession implements broker.OperatorSessions.
func (s *Store) EndOperatorSession(ctx context.Context, id string) error {
	if !usableJobID(id) {
		return nil
	}
	t := s.operatorSession(id)
	return s.stepTimed(ctx, "delete", t, Step{Writes: []Write{
		{Kind: WriteDelete, Key: t.key}, {Kind: WriteSortedRemove, Key: operatorSessionsKey(s.operatorSessionsShard()), Args: []string{id}},
	}})
}
