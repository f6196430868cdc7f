package web

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/alexedwards/scs/v2"

	"tokenbroker/broker"
)

// How an operator signed in.
const (
	wayToken = "token"
	wayLogin = "login" // at the operators' OpenID Provider
)

// The values of a session.
const (
	sessionOperator = "operator"
	sessionName     = "name"
	sessionGroups   = "groups"
	sessionWay      = "way"
	sessionLogin    = "login" // which token or provider it was opened with
	sessionSince    = "since" // when, in ms
	sessionEpoch    = "epoch" // of the operator, then
	sessionForm     = "form"  // goes along with every form of the session
	sessionIDToken  = "id_token"
	sessionListed   = "listed" // its id on the list of sessions
	sessionAsked    = "asked"  // when the provider said which groups, in ms
	sessionTurn     = "turn"   // of its entry on the list
)

// Sessions keeps logins at the dashboard, and which of them were ended together.
type Sessions interface {
	broker.Sessions
	broker.OperatorEpochs
	broker.OperatorSessions
}

const (
	// seenEvery is how exactly the list says when a session was used last.
	seenEvery = time.Minute
	// listedLonger is how much longer the list has a session than it lives.
	listedLonger = 2 * seenEvery
)

// signedIn is who a session belongs to; the zero one: nobody.
type signedIn struct {
	way, id string
	name    string
	groups  []string // at the operators' provider, as far as roles hang on them
	since   time.Time
	// idToken is the provider's; zero: it is not known, or too long to be kept.
	idToken broker.Secret
	listed  string // its id on the list of sessions
	turn    int64  // the entry's, if the session is not over
	epoch   string // of the operator, when somebody signed in
	asked   time.Time
}

// goesOnFrom is who is signed in after the provider was asked anew about the session.
func goesOnFrom(again broker.OperatorAgain, who signedIn) signedIn {
	who.listed, who.turn, who.epoch, who.since = again.Session, again.Turn+1, again.Epoch, again.Since
	return who
}

// maxIDToken bounds the ID token that a session keeps, in bytes: sessions are written with every page.
const maxIDToken = 4 << 10

// words is how people know the operator.
func (s signedIn) words() string { return cmp.Or(s.name, s.id) }

// sessions are the logins at the dashboard, kept on the server: logging out ends one for good.
type sessions struct {
	random  io.Reader
	now     func() time.Time
	manager *scs.SessionManager
	epochs  broker.OperatorEpochs
	list    broker.OperatorSessions
	digest  []byte // of the login token; empty: nobody signs in by it
	// logins name what each way to sign in hangs on, so that another token, provider or client ends every session of the one before.
	logins map[string]string
}

func newSessions(cfg Config, digest []byte, cookie string, https bool) *sessions {
	s := &sessions{
		random: cfg.Random, now: cfg.Now, epochs: cfg.Sessions, list: cfg.Sessions, digest: digest, logins: map[string]string{},
		// Not scs.New: it starts a goroutine for a store in memory that is never used here.
		manager: &scs.SessionManager{
			IdleTimeout: cfg.SessionIdle, Lifetime: cfg.SessionLife, Store: sessionStore{cfg.Sessions}, Codec: sessionCodec{},
			Cookie: scs.SessionCookie{Name: cookie, Path: "/", HttpOnly: true, Secure: https, SameSite: http.SameSiteStrictMode, Persist: true},
		},
	}
	for way, what := range map[string]string{wayToken: string(digest), wayLogin: cfg.OperatorLogin} {
		if what != "" {
			name := sha256.Sum256([]byte("tokenbroker dashboard " + way + "\x00" + what))
			s.logins[way] = hex.EncodeToString(name[:8])
		}
	}
	return s
}

// load finds the request's session. A found one lives on from now, so it is stored again, unless it was ended meanwhile: a logout
// must not be undone by a late write. One that is over counts as none.
func (s *sessions) load(rw http.ResponseWriter, r *http.Request) (context.Context, error) {
	token := ""
	if found := r.CookiesNamed(s.manager.Cookie.Name); len(found) == 1 {
		token = found[0].Value
	}
	ctx, err := s.manager.Load(r.Context(), token)
	if err != nil {
		return nil, storeDown(err)
	}
	who := s.of(ctx)
	if who.id == "" {
		return ctx, nil
	}
	alive, err := s.alive(ctx, who, true)
	if err != nil {
		return nil, err
	}
	if alive {
		switch err := s.commit(context.WithValue(ctx, keepKey{}, true), rw); {
		case err == nil:
			return ctx, nil
		case !errors.Is(err, broker.ErrNotFound):
			return nil, err
		}
	}
	if ctx, err = s.manager.Load(r.Context(), ""); err != nil {
		return nil, storeDown(err)
	}
	return ctx, nil
}

// peek is load for a page that is open and asks by itself: that does not count as using the session.
func (s *sessions) peek(r *http.Request) (context.Context, error) {
	token := ""
	if found := r.CookiesNamed(s.manager.Cookie.Name); len(found) == 1 {
		token = found[0].Value
	}
	ctx, err := s.manager.Load(r.Context(), token)
	if err != nil {
		return nil, storeDown(err)
	}
	who := s.of(ctx)
	if who.id == "" {
		return ctx, nil
	}
	if alive, err := s.alive(ctx, who, false); err != nil || alive {
		return ctx, err
	}
	if ctx, err = s.manager.Load(r.Context(), ""); err != nil {
		return nil, storeDown(err)
	}
	return ctx, nil
}

// alive tells whether the session's operator has not ended all of their sessions since it began, nor an administrator, whether it is
// still on the list of sessions, and whether it is within the lifetime that is configured now. used: the list shall say so.
func (s *sessions) alive(ctx context.Context, who signedIn, used bool) (bool, error) {
	if !s.now().Before(who.since.Add(s.manager.Lifetime)) {
		return false, nil
	}
	epoch, err := s.epoch(ctx, who.id)
	if err != nil || epoch != "" && epoch != who.epoch {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*sessionTimeout)
	defer cancel()
	one, err := s.list.OperatorSession(ctx, who.listed)
	if err == nil && used && s.now().Sub(one.Seen) >= seenEvery {
		one.Seen = s.now()
		err = s.list.KeepOperatorSession(ctx, one, s.listedUntil(who.since))
	}
	switch {
	case errors.Is(err, broker.ErrNotFound), errors.Is(err, broker.ErrIntegrity), err == nil && (one.Operator != who.id || one.Turn != who.turn):
		return false, nil // of one that was spoilt nobody can say whose it is
	case err != nil:
		return false, storeDown(err)
	}
	return true, nil
}

// listedUntil is how long the list has a session that is used now.
func (s *sessions) listedUntil(since time.Time) time.Time {
	until, end := s.now().Add(s.manager.IdleTimeout), since.Add(s.manager.Lifetime)
	if end.Before(until) {
		until = end
	}
	return until.Add(listedLonger)
}

func (s *sessions) epoch(ctx context.Context, operator string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, sessionTimeout)
	defer cancel()
	epoch, err := s.epochs.OperatorEpoch(ctx, operator)
	if err != nil {
		// Also where it does not open: then nobody can say whether the session is over.
		return "", storeDown(err)
	}
	return epoch, nil
}

// of is whose session it is.
func (s *sessions) of(ctx context.Context) signedIn {
	way := s.manager.GetString(ctx, sessionWay)
	if login := s.manager.GetString(ctx, sessionLogin); login == "" || login != s.logins[way] {
		return signedIn{}
	}
	groups, _ := s.manager.Get(ctx, sessionGroups).([]string)
	return signedIn{
		way: way, id: s.manager.GetString(ctx, sessionOperator), name: s.manager.GetString(ctx, sessionName), groups: groups,
		since: time.UnixMilli(s.manager.GetInt64(ctx, sessionSince)), idToken: broker.NewSecret(s.manager.GetString(ctx, sessionIDToken)),
		listed: s.manager.GetString(ctx, sessionListed), turn: s.manager.GetInt64(ctx, sessionTurn), epoch: s.manager.GetString(ctx, sessionEpoch),
		asked: time.UnixMilli(s.manager.GetInt64(ctx, sessionAsked)),
	}
}

// formToken is what each form of the session carries. A session without one, opened by an older version, accepts no form.
func (s *sessions) formToken(ctx context.Context) string {
	return cmp.Or(s.manager.GetString(ctx, sessionForm), "none")
}

// open logs in, under a new cookie: one that was there before the login is worth nothing after it. who by goesOnFrom: the session goes on,
// unless it ended or did so already (broker.ErrOvertaken).
func (s *sessions) open(ctx context.Context, rw http.ResponseWriter, who signedIn) error {
	epoch, err := s.epoch(ctx, who.id) // before the session is there: one that is ended meanwhile is over
	if err != nil {
		return err
	}
	goesOn, before := who.listed != "", s.of(ctx).listed
	switch {
	case !goesOn:
		who.epoch = epoch
	case epoch != "" && epoch != who.epoch:
		return errOvertaken()
	}
	if err := s.manager.Clear(ctx); err != nil {
		return storeDown(err)
	}
	if err := s.manager.RenewToken(ctx); err != nil {
		return storeDown(err)
	}
	now := s.now()
	if !goesOn {
		who.since = now
		if who.listed, err = broker.NewOperatorSessionID(now, s.random); err != nil {
			return err
		}
	}
	if err := s.fill(ctx, who, now); err != nil {
		return err
	}
	// Stored first: it is over until the list has it, and then it must be there. A crash in between leaves what opens nothing.
	token, expiry, err := s.manager.Commit(ctx)
	if err != nil {
		return storeDown(err)
	}
	if err := s.enlist(ctx, who, goesOn, now, before); err != nil {
		return err
	}
	s.cookie(ctx, rw, token, expiry)
	return nil
}

// fill says whose session it is.
func (s *sessions) fill(ctx context.Context, who signedIn, now time.Time) error {
	for name, value := range map[string]any{
		sessionListed: who.listed, sessionOperator: who.id, sessionName: who.name, sessionGroups: who.groups, sessionWay: who.way, sessionLogin: s.logins[who.way],
		sessionSince: who.since.UnixMilli(), sessionAsked: now.UnixMilli(), sessionEpoch: who.epoch, sessionTurn: who.turn,
	} {
		s.manager.Put(ctx, name, value)
	}
	if token := who.idToken.Reveal(); len(token) <= maxIDToken {
		s.manager.Put(ctx, sessionIDToken, token) // the store seals what it is given
	}
	form := make([]byte, 18)
	if _, err := io.ReadFull(s.random, form); err != nil {
		return fmt.Errorf("read randomness: %w", err)
	}
	s.manager.Put(ctx, sessionForm, base64.RawURLEncoding.EncodeToString(form))
	return nil
}

// enlist puts a session that begins on the list, in the place of the one that the browser had. One that goes on stays on it, in its next
// turn: so whoever ends it there ends it at any time, and of several answers to one question one opens a session.
func (s *sessions) enlist(ctx context.Context, who signedIn, goesOn bool, now time.Time, before string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*sessionTimeout)
	defer cancel()
	one := broker.OperatorSession{
		ID: who.listed, Operator: who.id, Name: who.name, Groups: who.groups, ByToken: who.way == wayToken, Epoch: who.epoch, Since: who.since, Seen: now, Turn: who.turn,
	}
	put := s.list.BeginOperatorSession
	if goesOn {
		put = s.list.RenewOperatorSession
	}
	err := put(ctx, one, s.listedUntil(who.since))
	if goesOn && errors.Is(err, broker.ErrNotFound) {
		return errOvertaken()
	}
	if err == nil && before != "" && before != who.listed {
		err = s.list.EndOperatorSession(ctx, before)
	}
	if err != nil {
		return storeDown(err)
	}
	return nil
}

func errOvertaken() error {
	return broker.Errorf(broker.CodeLoginFailed, "the session ended or went on meanwhile").Because(broker.ErrOvertaken)
}

// end logs out.
func (s *sessions) end(ctx context.Context, rw http.ResponseWriter) error {
	if listed := s.of(ctx).listed; listed != "" {
		ending, cancel := context.WithTimeout(ctx, sessionTimeout)
		defer cancel()
		if err := s.list.EndOperatorSession(ending, listed); err != nil {
			return storeDown(err)
		}
	}
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
