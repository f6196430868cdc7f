package web

import (
	"context"
	"errors"
	"time"

	"github.com/alexedwards/scs/v2"

	"tokenbroker/broker"
)

// keepKey marks a context in which a session is stored only if it is still there.
type keepKey struct{}

// sessionStore is the store of scs over ours. The methods without a context are never called: scs prefers those with.
type sessionStore struct{ sessions broker.Sessions }

var _ scs.CtxStore = sessionStore{}

var errNoContext = errors.New("session store called without a context")

// sessionTimeout bounds one access to the store of sessions: behind a store that hangs, the page says so soon.
const sessionTimeout = time.Second

func (s sessionStore) FindCtx(ctx context.Context, token string) ([]byte, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, sessionTimeout)
	defer cancel()
	data, err := s.sessions.Session(ctx, broker.NewSecret(token))
	if errors.Is(err, broker.ErrNotFound) || errors.Is(err, broker.ErrIntegrity) {
		// What doesn't open belongs to another keyset or was changed: no session, log in again.
		return nil, false, nil
	}
	if err == nil {
		if _, _, broken := (sessionCodec{}).Decode(data); broken != nil {
			// Of another version: as an error it would shut the operator out for as long as the cookie lasts.
			return nil, false, nil
		}
	}
	return data, err == nil, err
}

func (s sessionStore) CommitCtx(ctx context.Context, token string, data []byte, expiry time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, sessionTimeout)
	defer cancel()
	if keep, _ := ctx.Value(keepKey{}).(bool); keep {
		return s.sessions.KeepSession(ctx, broker.NewSecret(token), data, expiry)
	}
	return s.sessions.SaveSession(ctx, broker.NewSecret(token), data, expiry)
}

func (s sessionStore) DeleteCtx(ctx context.Context, token string) error {
	if token == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, sessionTimeout)
	defer cancel()
	return s.sessions.DeleteSession(ctx, broker.NewSecret(token))
}

func (sessionStore) Find(string) ([]byte, bool, error)      { return nil, false, errNoContext }
func (sessionStore) Commit(string, []byte, time.Time) error { return errNoContext }
func (sessionStore) Delete(string) error                    { return errNoContext }
