package vault

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"tokenbroker/broker"
)

// This file keeps what operators' sign-ins need. The store's loss of any of it costs somebody another sign-in, but for an epoch:
// with it go the memory of a sign-out everywhere, and the sessions that it ended are good again until their own ends.

var (
	_ broker.Sessions        = (*Store)(nil)
	_ broker.OperatorSignIns = (*Store)(nil)
	_ broker.OperatorEpochs  = (*Store)(nil)
)

func session(token broker.Secret) timed {
	key, digest := sessionKey(token)
	return timed{domain: "session", key: key, digest: digest}
}

func signIn(state broker.Secret) timed {
	key, digest := signInKey(state)
	return timed{domain: "operator-sign-in", key: key, digest: digest}
}

// epoch is the record of an operator's epoch: whose it is, the key does not tell.
func (s *Store) epoch(operator string) timed {
	hash := s.seals.hash(18, "operator", operator)
	return timed{domain: "operator-epoch", key: operatorEpochKey(hash), digest: base64.RawURLEncoding.EncodeToString(hash)}
}

// Session implements broker.Sessions.
func (s *Store) Session(ctx context.Context, token broker.Secret) ([]byte, error) {
	if token.IsZero() {
		return nil, broker.ErrNotFound
	}
	return s.readTimed(ctx, session(token))
}

// SaveSession implements broker.Sessions.
func (s *Store) SaveSession(ctx context.Context, token broker.Secret, data []byte, expiry time.Time) error {
	return s.writeTimed(ctx, session(token), data, expiry, nil)
}

// KeepSession implements broker.Sessions.
func (s *Store) KeepSession(ctx context.Context, token broker.Secret, data []byte, expiry time.Time) error {
	return s.writeTimed(ctx, session(token), data, expiry, session(token).there())
}

// DeleteSession implements broker.Sessions.
func (s *Store) DeleteSession(ctx context.Context, token broker.Secret) error {
	if token.IsZero() {
		return nil
	}
	return s.endTimed(ctx, session(token), nil)
}

// storedSignIn is the sealed part of a sign-in that is under way.
type storedSignIn struct {
	Login *storedLogin `json:"lg"`
	To    string       `json:"to,omitempty"`
	// of OperatorRun.Again
	Session  string `json:"as,omitempty"`
	Operator string `json:"ao,omitempty"`
	Since    int64  `json:"ai,omitempty"`
	Turn     int64  `json:"at,omitempty"`
	Epoch    string `json:"ae,omitempty"`
}

func storeSignIn(run broker.OperatorRun) storedSignIn {
	again := run.Again
	return storedSignIn{
		Login: storeLogin(run.LoginRun), To: run.To, Session: again.Session, Operator: again.Operator, Since: millis(again.Since), Turn: again.Turn, Epoch: again.Epoch,
	}
}

func (s storedSignIn) run() broker.OperatorRun {
	return broker.OperatorRun{LoginRun: s.Login.login(), To: s.To, Again: broker.OperatorAgain{
		Session: s.Session, Operator: s.Operator, Since: fromMillis(s.Since), Turn: s.Turn, Epoch: s.Epoch,
	}}
}

// CreateSignIn implements broker.OperatorSignIns.
func (s *Store) CreateSignIn(ctx context.Context, state broker.Secret, run broker.OperatorRun) error {
	body, err := json.Marshal(storeSignIn(run))
	if err != nil {
		return fmt.Errorf("encode sign-in: %w", err)
	}
	return s.writeTimed(ctx, signIn(state), body, run.Until, nil)
}

// SignIn implements broker.OperatorSignIns.
func (s *Store) SignIn(ctx context.Context, state broker.Secret) (broker.OperatorRun, error) {
	if state.IsZero() {
		return broker.OperatorRun{}, broker.ErrNotFound
	}
	body, err := s.readTimed(ctx, signIn(state))
	if err != nil {
		return broker.OperatorRun{}, err
	}
	var stored storedSignIn
	if err := json.Unmarshal(body, &stored); err != nil {
		return broker.OperatorRun{}, fmt.Errorf("decode sign-in: %w", broker.ErrIntegrity)
	}
	return stored.run(), nil
}

// UseSignIn implements broker.OperatorSignIns. Where the reply to the removal is lost, its repetition finds nothing: nobody goes on
// then, and whoever signed in does so again.
func (s *Store) UseSignIn(ctx context.Context, state broker.Secret) error {
	return s.endTimed(ctx, signIn(state), signIn(state).there())
}

// OperatorEpoch implements broker.OperatorEpochs.
func (s *Store) OperatorEpoch(ctx context.Context, operator string) (string, error) {
	data, err := s.readTimed(ctx, s.epoch(operator))
	if errors.Is(err, broker.ErrNotFound) {
		return "", nil
	}
	return string(data), err
}

// SetOperatorEpoch implements broker.OperatorEpochs.
func (s *Store) SetOperatorEpoch(ctx context.Context, operator, epoch string, until time.Time) error {
	return s.writeTimed(ctx, s.epoch(operator), []byte(epoch), until, nil)
}
