package broker

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// What limits refuse is counted, and leaves one event for each limit, client and minute in each process, however much it is: a flood
// must not fill the trail, and must show in it.

// refusalsEvery is the least time between two events of the same limit and client.
const refusalsEvery = time.Minute

// refusalsKept bounds what waits to be recorded. Keys are of the configuration and of our own lists, so there are few; beyond that many, a
// limit's refusals are counted together.
const refusalsKept = 4096

// refusalKey is whose refusals are counted together.
type refusalKey struct {
	limit          limitKind
	tenant, client string
}

type limitRefusals struct {
	mu  sync.Mutex
	all map[refusalKey]*refusalCount
}

type refusalCount struct {
	n        int64
	since    time.Time // of the first of them
	subject  string    // of the first of them: an event names one
	recorded time.Time // when there was an event last
}

func (r *limitRefusals) note(key refusalKey, subject string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all == nil {
		r.all = map[refusalKey]*refusalCount{}
	}
	one := r.of(key)
	if one.n == 0 {
		one.since, one.subject = now, subject
	}
	one.n++
}

func (r *limitRefusals) of(key refusalKey) *refusalCount {
	one := r.all[key]
	if one == nil && len(r.all) >= refusalsKept {
		key = refusalKey{limit: key.limit}
		one = r.all[key]
	}
	if one == nil {
		one = &refusalCount{}
		r.all[key] = one
	}
	return one
}

// takenRefusals are on their way into the trail.
type takenRefusals struct {
	refusalKey
	n       int64
	since   time.Time
	subject string
}

// take takes those that may be recorded now; all of them at the end.
func (r *limitRefusals) take(now time.Time, all bool) []takenRefusals {
	r.mu.Lock()
	defer r.mu.Unlock()
	var taken []takenRefusals
	for key, one := range r.all {
		age := now.Sub(one.recorded)
		switch {
		case one.n > 0 && (all || age >= refusalsEvery || age < 0):
			taken = append(taken, takenRefusals{refusalKey: key, n: one.n, since: one.since, subject: one.subject})
			one.n, one.recorded, one.subject = 0, now, ""
		case one.n == 0 && age >= refusalsEvery:
			delete(r.all, key)
		}
	}
	return taken
}

// putBack counts what could not be recorded among what comes next.
func (r *limitRefusals) putBack(t takenRefusals) {
	r.mu.Lock()
	defer r.mu.Unlock()
	one := r.of(t.refusalKey)
	one.n += t.n
	one.since, one.subject, one.recorded = t.since, t.subject, time.Time{}
}

// tooMany is the error of a limit, counted. The subject is that of a limit of subjects.
func (s *Service) tooMany(caller Caller, limit limitKind, subject string, wait time.Duration, what string) *Error {
	s.limitRefused(caller, limit, subject)
	return &Error{Code: CodeSlowDown, RetryAfter: wait, Limited: true, Description: "too many " + what + "; come again after Retry-After"}
}

func (s *Service) limitRefused(caller Caller, limit limitKind, subject string) {
	s.telemetry.limited(context.Background(), limit)
	s.refusals.note(refusalKey{limit: limit, tenant: caller.Client.Tenant, client: caller.Client.ID}, subject, s.cfg.Now())
}

// Guessing is something that can be guessed on a page.
type Guessing string

// What can be guessed.
const (
	GuessedLinks   Guessing = "wrong_links"    // of consents and visits, their pages and callbacks
	GuessedSignIns Guessing = "wrong_sign_ins" // of operators
	BegunSignIns   Guessing = "begun_sign_ins" // of operators at their provider
)

// NoteGuessing counts that somebody was sent away who guessed too often.
func (s *Service) NoteGuessing(what Guessing) { s.limitRefused(Caller{}, limitKind(what), "") }

// recordRefusals writes the events that are due. Where the store does not take one, the others have their turn later: it is asked once a
// round then, also at the end.
func (s *Service) recordRefusals(ctx context.Context, all bool) {
	taken := s.refusals.take(s.cfg.Now(), all)
	for i, one := range taken {
		entry := Entry{
			Type: EventTokenRefused, Time: s.cfg.Now().UTC(), Tenant: one.tenant, Client: one.client, Subject: one.subject, Outcome: string(CodeSlowDown),
			Reason: fmt.Sprintf("limit %s: %d refused since %s", one.limit, one.n, one.since.UTC().Format(time.RFC3339)),
		}
		var err error
		if entry.Scopes, err = s.eventScopes(ScopeSet{}, ScopeSet{}); err == nil {
			err = s.append(ctx, entry)
		}
		if err != nil {
			for _, left := range taken[i:] {
				s.refusals.putBack(left)
			}
			s.cfg.Log.DebugContext(ctx, "what limits refused is not on record yet", "limit", string(one.limit), "error", err)
			return
		}
	}
}
