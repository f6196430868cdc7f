package demo

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"tokenbroker/broker"
)

const (
	sessionCookie = "demo_chat" // cookies do not keep ports apart, so the name must not be the broker's
	sessionLife   = 12 * time.Hour
	maxSessions   = 1_000
	maxMessages   = 200 // a chat
)

// session is one browser in which somebody chats.
type session struct {
	digest string // of the cookie
	user   User
	// conversation goes to the broker as state. It protects nothing (the completing call does); it tells whether a consent
	// came back into the conversation that asked.
	conversation string
	created      time.Time

	mu       sync.Mutex
	binding  string // "return" or "code"
	rev      int    // grows with every change of a message
	messages []*message
	nextID   int
	pending  *pending
	chosen   string // connection, where the user has several
	outcome  *outcome
	// Of the tour: which stops were seen, and when the token of the last task has become too old for another one.
	seen     map[string]bool
	replaced time.Time
}

// pending is what the assistant wanted when it had to ask for consent.
type pending struct {
	consent string
	binding string
	want    want
	card    int           // id of the message with the card
	code    broker.Secret // kept while the user decides whether another account is meant
	checked time.Time
}

// message is one line of the chat. It is changed under its session's lock only.
type message struct {
	ID    int
	Mine  bool // the user's
	Text  string
	At    time.Time
	Files []file
	Card  *card
	rev   int
}

// card is something to press in the chat.
type card struct {
	Kind    string // consent, accounts
	Consent string
	URL     broker.Secret
	Binding string
	// State: waiting, code (the short code is asked), changed (another account came back), done, denied, failed, expired, moved,
	// forwarded (somebody else has used the link).
	State    string
	Scopes   []string // in plain words
	Problem  string
	Accounts []accountOption
	Other    string // to whom the link can be sent on, for the tour; empty: to nobody
}

type accountOption struct{ Connection, Label string }

// outcome is what the page after a consent shows, once.
type outcome struct {
	Mood        string // good, calm, else bad
	Title, Text string
}

// sessions are all of them, by the digest of their cookie.
type sessions struct {
	cfg Config

	mu    sync.Mutex
	by    map[string]*session
	order []string // oldest first
}

func newSessions(cfg Config) *sessions { return &sessions{cfg: cfg, by: map[string]*session{}} }

func (s *sessions) random() (string, error) {
	var b [18]byte
	if _, err := io.ReadFull(s.cfg.Random, b[:]); err != nil {
		return "", fmt.Errorf("read random bytes: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(b[:]), nil
}

// begin makes a session; its cookie is new at every sign-in.
func (s *sessions) begin(u User) (*session, broker.Secret, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text, err1 := s.random()
	conversation, err2 := s.random()
	if err := errors.Join(err1, err2); err != nil {
		return nil, broker.Secret{}, err
	}
	cookie := broker.NewSecret(text)
	sess := &session{digest: cookie.Digest(), user: u, conversation: conversation, created: s.cfg.Now(), binding: "return", nextID: 1}
	s.by[sess.digest] = sess
	s.order = append(s.order, sess.digest)
	for len(s.order) > maxSessions {
		delete(s.by, s.order[0])
		s.order = s.order[1:]
	}
	return sess, cookie, nil
}

func (s *sessions) find(r *http.Request) (*session, bool) {
	cookie, err := r.Cookie(sessionCookie)
	if err != nil {
		return nil, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sess, ok := s.by[broker.NewSecret(cookie.Value).Digest()]
	if !ok || s.cfg.Now().After(sess.created.Add(sessionLife)) {
		return nil, false
	}
	return sess, true
}

func (s *sessions) end(sess *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.by, sess.digest)
	s.order = slices.DeleteFunc(s.order, func(d string) bool { return d == sess.digest })
}

// add appends a message and returns its id.
func (s *session) add(m message) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	m.ID = s.nextID
	s.nextID++
	s.rev++
	m.rev = s.rev
	s.messages = append(s.messages, &m)
	if len(s.messages) > maxMessages {
		s.messages = slices.Delete(s.messages, 0, len(s.messages)-maxMessages)
	}
	return m.ID
}

// edit changes the card of a message, if it is still there. The caller holds the lock.
func (s *session) edit(id int, change func(*card)) {
	for _, m := range s.messages {
		if m.ID == id && m.Card != nil {
			change(m.Card)
			s.rev++
			m.rev = s.rev
		}
	}
}

// since returns copies of the messages that changed after a revision, and the present one.
func (s *session) since(rev int) ([]message, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []message
	for _, m := range s.messages {
		if m.rev > rev {
			copied := *m
			if m.Card != nil {
				c := *m.Card
				copied.Card = &c
			}
			out = append(out, copied)
		}
	}
	return out, s.rev
}

// withSession refuses whoever has not signed in.
func (d *Demo) withSession(next func(http.ResponseWriter, *http.Request, *session)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		sess, ok := d.sessions.find(r)
		if !ok {
			if r.Header.Get("Accept") == "application/json" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			http.Redirect(w, r, "/", http.StatusSeeOther)
			return
		}
		next(w, r, sess)
	}
}

// signIn lets the user say who they are. A real platform has its own login here.
func (d *Demo) signIn(w http.ResponseWriter, r *http.Request) {
	i := slices.IndexFunc(d.cfg.Users, func(u User) bool { return u.Subject == r.PostFormValue("user") })
	if i < 0 {
		d.render(w, http.StatusBadRequest, "who", d.whoView(""))
		return
	}
	if old, ok := d.sessions.find(r); ok {
		d.sessions.end(old)
	}
	sess, cookie, err := d.sessions.begin(d.cfg.Users[i])
	if err != nil {
		d.cfg.Log.Error("begin session", "error", err)
		http.Error(w, "try again", http.StatusInternalServerError)
		return
	}
	sess.add(message{At: d.cfg.Now(), Text: "Hi " + sess.user.Name + "! I can look into your files and keep notes for you. What shall I do?"})
	http.SetCookie(w, &http.Cookie{
		Name: sessionCookie, Value: cookie.Reveal(), Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode,
		Secure: strings.HasPrefix(d.cfg.PublicURL, "https:"), MaxAge: int(sessionLife.Seconds()),
	})
	next := "/"
	if back := r.PostFormValue("next"); strings.HasPrefix(back, "/done?") || strings.HasPrefix(back, portalPath+"?") { // nowhere else: no open redirect
		next = back
	}
	http.Redirect(w, r, next, http.StatusSeeOther)
}

func (d *Demo) signOut(w http.ResponseWriter, r *http.Request) {
	if sess, ok := d.sessions.find(r); ok {
		d.sessions.end(sess)
	}
	http.SetCookie(w, &http.Cookie{Name: sessionCookie, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode, MaxAge: -1})
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

type whoView struct {
	Users []User
	Next  string
}

func (d *Demo) whoView(next string) whoView { return whoView{d.cfg.Users, next} }
