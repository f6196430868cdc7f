package web

import (
	"bytes"
	"context"
	"crypto/rand"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
)

// storedSession is a store with one session in it, under any token, which is on the list under any id.
type storedSession struct {
	data   []byte
	listed broker.OperatorSession
}

func (s *storedSession) BeginOperatorSession(_ context.Context, one broker.OperatorSession, _ time.Time) error {
	s.listed = one
	return nil
}

func (s *storedSession) KeepOperatorSession(context.Context, broker.OperatorSession, time.Time) error {
	return nil
}

func (s *storedSession) RenewOperatorSession(context.Context, broker.OperatorSession, time.Time) error {
	return nil
}

func (s *storedSession) OperatorSession(context.Context, string) (broker.OperatorSession, error) {
	return s.listed, nil
}

func (s *storedSession) OperatorSessions(context.Context, string, int) ([]broker.OperatorSession, string, error) {
	return []broker.OperatorSession{s.listed}, "", nil
}
func (s *storedSession) EndOperatorSession(context.Context, string) error { return nil }

func (s *storedSession) Session(context.Context, broker.Secret) ([]byte, error) { return s.data, nil }
func (s *storedSession) SaveSession(_ context.Context, _ broker.Secret, data []byte, _ time.Time) error {
	s.data = data
	return nil
}

func (s *storedSession) KeepSession(context.Context, broker.Secret, []byte, time.Time) error {
	return nil
}
func (s *storedSession) DeleteSession(context.Context, broker.Secret) error { return nil }
func (s *storedSession) OperatorEpoch(context.Context, string) (string, error) {
	return "", nil
}

func (s *storedSession) SetOperatorEpoch(context.Context, string, string, time.Time) error {
	return nil
}

// FuzzSession (threat 62): anything as what an operator's session holds, as a broker of another version may have left it. What can't be read is no
// session, and no error that lasts as long as the cookie; nobody is signed in by what does not name the present way to sign in.
func FuzzSession(f *testing.F) {
	store := &storedSession{}
	now := time.UnixMilli(1_800_000_000_000)
	s := newSessions(Config{
		Random: rand.Reader, Now: func() time.Time { return now }, Sessions: store, SessionIdle: time.Hour, SessionLife: 8 * time.Hour, OperatorLogin: "https://sso.example client",
	}, []byte("digest"), "session", false)
	for _, way := range []string{wayToken, wayLogin} {
		ctx, err := s.manager.Load(f.Context(), "")
		if err != nil {
			f.Fatal(err)
		}
		if err := s.open(ctx, httptest.NewRecorder(), signedIn{way: way, id: "ops", name: "Olga", groups: []string{"sre"}}); err != nil {
			f.Fatal(err)
		}
		f.Add(store.data)
		f.Add(store.data[:len(store.data)/2])
		f.Add(bytes.ReplaceAll(store.data, []byte("since"), []byte("sinse")))
	}
	f.Add([]byte{})
	f.Add([]byte("{}"))
	f.Add([]byte(`{"d":9223372036854775807,"t":{"operator":"ops","way":"other","login":""},"l":{"groups":null},"n":{"since":-9223372036854775808}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		store.data = data
		r := httptest.NewRequest(http.MethodGet, "/dashboard", nil)
		r.AddCookie(&http.Cookie{Name: "session", Value: strings.Repeat("a", 43)})
		for name, read := range map[string]func() (context.Context, error){
			"load": func() (context.Context, error) { return s.load(httptest.NewRecorder(), r) },
			"peek": func() (context.Context, error) { return s.peek(r) },
		} {
			ctx, err := read()
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if who := s.of(ctx); who.id != "" && s.logins[who.way] == "" {
				t.Fatalf("%s: signed in as %+v", name, who)
			}
			s.formToken(ctx)
		}
	})
}
