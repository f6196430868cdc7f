package web

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"time"

	"github.com/alexedwards/scs/v2"

	"tokenbroker/broker"
)

// How long a login at the dashboard lasts.
const (
	sessionIdle = 30 * time.Minute
	sessionLife = 12 * time.Hour
)

// The values of a session.
const (
	sessionOperator = "operator"
	sessionLogin    = "login" // which login token it was opened with
)

// sessions are the logins at the dashboard, kept on the server: logging out ends one for good.
type sessions struct {
	manager *scs.SessionManager
	digest  []byte // of the login token
	login   string // names the login token, so that replacing it ends every session of the old one
}

func newSessions(store broker.Sessions, digest []byte, cookie string, https bool) *sessions {
	name := sha256.Sum256(append([]byte("tokenbroker dashboard login\x00"), digest...))
	return &sessions{
		digest: digest, login: hex.EncodeToString(name[:8]),
		// Not scs.New: it starts a goroutine for a store in memory that is never used here.
		manager: &scs.SessionManager{
			IdleTimeout: sessionIdle, Lifetime: sessionLife, Store: sessionStore{store}, Codec: scs.GobCodec{},
			Cookie: scs.SessionCookie{Name: cookie, Path: "/", HttpOnly: true, Secure: https, SameSite: http.SameSiteStrictMode, Persist: true},
		},
	}
}

// load finds the request's session. A found one lives on from now, so it is stored again at once, before anything
// slow: a logout meanwhile must not be undone by a late write.
func (s *sessions) load(rw http.ResponseWriter, r *http.Request) (context.Context, error) {
	token := ""
	if found := r.CookiesNamed(s.manager.Cookie.Name); len(found) == 1 {
		token = found[0].Value
	}
	ctx, err := s.manager.Load(r.Context(), token)
	if err != nil {
		return nil, storeDown(err)
	}
	if s.operator(ctx) == "" {
		return ctx, nil
	}
	return ctx, s.commit(ctx, rw)
}

// operator is who is logged in, or "".
func (s *sessions) operator(ctx context.Context) string {
	if s.manager.GetString(ctx, sessionLogin) != s.login {
		return ""
	}
	return s.manager.GetString(ctx, sessionOperator)
}

// open logs in, under a new session id: one that was there before the login is worth nothing after it.
func (s *sessions) open(ctx context.Context, rw http.ResponseWriter, operator string) error {
	if err := s.manager.RenewToken(ctx); err != nil {
		return storeDown(err)
	}
	s.manager.Put(ctx, sessionOperator, operator)
	s.manager.Put(ctx, sessionLogin, s.login)
	return s.commit(ctx, rw)
}

// end logs out.
func (s *sessions) end(ctx context.Context, rw http.ResponseWriter) error {
	if err := s.manager.Destroy(ctx); err != nil {
		return storeDown(err)
	}
	s.cookie(ctx, rw, "", time.Time{})
	return nil
}

func (s *sessions) commit(ctx context.Context, rw http.ResponseWriter) error {
	token, expiry, err := s.manager.Commit(ctx)
	if err != nil {
		return storeDown(err)
	}
	s.cookie(ctx, rw, token, expiry)
	return nil
}

// cookie sends the session's cookie. scs adds a Cache-Control of its own, weaker than ours.
func (s *sessions) cookie(ctx context.Context, rw http.ResponseWriter, token string, expiry time.Time) {
	kept := rw.Header().Get("Cache-Control")
	s.manager.WriteSessionCookie(ctx, rw, token, expiry)
	rw.Header().Set("Cache-Control", kept)
}

func storeDown(err error) error {
	return broker.Errorf(broker.CodeTemporarilyUnavailable, "sessions can't be read or written").Because(err)
}

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
	return data, err == nil, err
}

func (s sessionStore) CommitCtx(ctx context.Context, token string, data []byte, expiry time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, sessionTimeout)
	defer cancel()
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
