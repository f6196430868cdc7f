package broker

import (
	"context"
	"errors"
	"sync"
	"time"
)

// A provider can tell by itself that grants ended: that a user took the app out of the account, that an administrator
// uninstalled it. Such a notice is a reason to look, and no verdict: the grants that it names are refreshed at once, and what
// the provider says to that counts. So a notice that is late, that comes twice, or that somebody managed to forge ends no
// grant: it costs a request, five times a minute at most, and where a refresh ends the access token before it, that token, once
// in ten minutes.

// NoticeRequest is a request that says it comes from a provider.
type NoticeRequest struct {
	Method string
	URL    string                   // as the provider was given it
	Header func(name string) string // "": there is none
	Body   []byte
}

// Notice is a verified notice.
type Notice struct {
	// Accounts are ids of accounts whose grants may have ended; Groups are ids whose accounts are all meant: the id itself, and
	// those that begin with it and a colon.
	Accounts []string
	Groups   []string
	// Status and Answer are what the provider wants to hear.
	Status int
	Answer []byte // JSON, or empty
}

var (
	// ErrNoticeRefused: the notice has no signature that verifies, or is too old or too new.
	ErrNoticeRefused = errors.New("notice does not verify")
	// ErrNoNotices: the connector's provider sends none, or the connector lacks the secret that they are signed with.
	ErrNoNotices = errors.New("connector takes no notices")
)

const (
	// noticedMost bounds how many connections one notice makes the broker look at; the others show at their next refresh.
	noticedMost = 1000
	// noticedAtOnce is how many of them are looked at at the same time.
	noticedAtOnce = 4
	// noticedTries bounds how often a notice looks because others' refreshes were under way.
	noticedTries = 3
)

// HandleNotice verifies a provider's notice and looks at the grants that it is about, behind the answer. Errors: ErrNoNotices,
// ErrNoticeRefused, or anything else where the provider should send it again.
func (s *Service) HandleNotice(ctx context.Context, connector string, req NoticeRequest) (Notice, error) {
	ctx, end := s.telemetry.begin(ctx, "broker.HandleNotice", connector)
	notice, err := s.handleNotice(ctx, connector, req)
	end(err)
	return notice, err
}

func (s *Service) handleNotice(ctx context.Context, connector string, req NoticeRequest) (Notice, error) {
	notice, err := s.cfg.Upstream.ReadNotice(ctx, connector, req)
	if err != nil {
		return Notice{}, err
	}
	client := s.connector(connector).ClientKey
	var names []string
	for _, id := range notice.Accounts {
		names = append(names, noticeName("account", client, id))
	}
	for _, id := range notice.Groups {
		names = append(names, noticeName("group", client, id))
	}
	// Found before the answer: where the store can't tell, the provider comes again.
	seen := map[string]bool{}
	var conns []Connection
	for _, name := range names {
		readCtx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
		held, err := s.cfg.Shared.HeldBy(readCtx, name, noticedMost)
		cancel()
		if err != nil {
			return Notice{}, storeError("find the connections of a notice", err)
		}
		for _, conn := range held {
			if !seen[conn.ID] && len(conns) < noticedMost && conn.Status == ConnectionActive && s.connector(conn.Connector).ClientKey == client {
				seen[conn.ID] = true
				conns = append(conns, conn)
			}
		}
	}
	if len(conns) == 0 {
		return notice, nil
	}
	if !s.enter() {
		return Notice{}, &Error{Code: CodeTemporarilyUnavailable, Description: "this replica is shutting down; retry", RetryAfter: time.Second}
	}
	go func() {
		defer s.leave()
		s.lookAtNoticed(context.WithoutCancel(ctx), conns)
	}()
	return notice, nil
}

// lookAtNoticed refreshes the connections, a few at a time. One without a refresh token can't be asked about: it ends with its
// access token.
func (s *Service) lookAtNoticed(ctx context.Context, conns []Connection) {
	places := make(chan struct{}, noticedAtOnce)
	for _, conn := range conns {
		// A notice can come again for as long as its signature is believed.
		most, within := noticedOften, time.Minute
		if s.connector(conn.Connector).RefreshEndsAccess {
			most, within = 1, noticedAgain
		}
		if !s.noticed.allow(conn.ID, s.cfg.Now(), most, within) {
			continue
		}
		entry := s.entry(Caller{Client: Client{ID: conn.Client, Tenant: conn.Tenant}}, EventConnectionNoticed, conn.Subject, conn.Connector, conn.ID)
		entry.Outcome, entry.Reason = "ok", "the provider says that this grant may have ended"
		var err error
		if entry.Scopes, err = s.eventScopes(conn.Scopes, ScopeSet{}); err == nil {
			err = s.append(ctx, entry)
		}
		if err != nil {
			s.cfg.Log.WarnContext(ctx, "a provider's notice could not be put on record", "connection", conn.ID, "error", err)
		}
		if !conn.Renewable {
			continue
		}
		places <- struct{}{}
		if !s.enter() {
			<-places
			return // this replica is ending; the next refresh finds it
		}
		go func() {
			defer s.leave()
			defer func() { <-places }()
			s.lookAt(conn)
		}()
	}
}

// lookAt refreshes a connection. What a refresh finds that was under way when the notice came, here or in another replica, says
// nothing of what the notice says: then it looks again.
func (s *Service) lookAt(conn Connection) {
	for range noticedTries {
		result, sent := s.refresher.look(conn, "the provider gave notice")
		if result == nil {
			return // this replica is ending
		}
		r := <-result
		found, ok := r.Val.(Connection)
		if r.Err != nil || !ok || sent.Load() {
			return
		}
		conn = found
	}
}

// noticeName names the holders that a notice about that id means: of just that account, or of a group of accounts.
func noticeName(kind, client, id string) string {
	return "noticed " + kind + "\x00" + client + "\x00" + id
}

// noticeNames are those of the connection; none where its provider sends no notices.
func (s *Service) noticeNames(conn Connection) []string {
	c := s.connector(conn.Connector)
	if !c.Notices || conn.Account.ID == "" {
		return nil
	}
	id := conn.Account.ID
	names := []string{noticeName("account", c.ClientKey, id), noticeName("group", c.ClientKey, id)}
	for i, r := range id {
		if r == ':' {
			names = append(names, noticeName("group", c.ClientKey, id[:i]))
		}
	}
	return names
}

// listen makes the connection one that notices can find. What fails is tried again at its next refresh; what this process has
// done lately need not be done again, for the holders of a large workspace are many to read.
func (s *Service) listen(ctx context.Context, conn Connection) {
	names := s.noticeNames(conn)
	if len(names) == 0 || !s.listening.allow(conn.ID+"\x00"+conn.Account.ID, s.cfg.Now(), 1, listenAgain) {
		return
	}
	for _, name := range names {
		holdCtx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
		err := s.cfg.Shared.Hold(holdCtx, name, conn.holder())
		cancel()
		if err != nil {
			s.cfg.Log.WarnContext(ctx, "a connection can't be found by its provider's notices yet", "connection", conn.ID, "error", err)
			s.listening.forget(conn.ID + "\x00" + conn.Account.ID)
			return
		}
	}
}

const (
	// listenAgain is how long it is believed that the store still knows where a connection listens.
	listenAgain = time.Hour
	// noticedAgain is how long a notice about a grant is not looked at again where that has a price: a refresh there ends the
	// access token that somebody may be using.
	noticedAgain = 10 * time.Minute
	// noticedOften is how often in a minute a grant is looked at elsewhere.
	noticedOften = 5
	// latelyMost bounds what is remembered; beyond that everything is forgotten, which costs a little work.
	latelyMost = 50_000
)

// lately counts what was done within a while.
type lately struct {
	mu   sync.Mutex
	done map[string]lastTimes
}

type lastTimes struct {
	since time.Time
	n     int
}

// allow counts one more and tells whether it is among the first so many of that time.
func (l *lately) allow(what string, now time.Time, most int, within time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	times, known := l.done[what]
	if age := now.Sub(times.since); !known || age >= within || age < 0 {
		times = lastTimes{since: now}
	}
	if times.n++; times.n > most {
		return false
	}
	if l.done == nil || len(l.done) >= latelyMost {
		l.done = map[string]lastTimes{}
	}
	l.done[what] = times
	return true
}

func (l *lately) forget(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.done, what)
}

// listenNoMore ends that. What is left over finds a connection that is not active, and does nothing.
func (s *Service) listenNoMore(ctx context.Context, conn Connection) {
	s.listening.forget(conn.ID + "\x00" + conn.Account.ID)
	for _, name := range s.noticeNames(conn) {
		leaveCtx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
		_, err := s.cfg.Shared.Leave(leaveCtx, name, conn.holder())
		cancel()
		if err != nil {
			s.cfg.Log.DebugContext(ctx, "an ended connection is still found by notices", "connection", conn.ID, "error", err)
			return
		}
	}
}
