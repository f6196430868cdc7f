package demo

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// This file is the tour beside the chat: what there is to see, in the order in which it explains the product. Nothing has to be
// done in that order: each stop is ticked off when it has been seen, whatever led there.

// The stops of the tour.
const (
	stopAsk     = "ask"
	stopConsent = "consent"
	stopRefresh = "refresh"
	stopForward = "forward"
	stopMore    = "more"
	stopSee     = "see"
	stopEnd     = "end"
	stopAgain   = "again"
)

// stop is a part of the tour.
type stop struct {
	Key   string
	Title string
	Text  string
	// Say is what to send to the assistant, or Open a page to open, with the words of the button; both are empty where something in
	// the chat is to be pressed.
	Say, Open, Button string
	Done              bool
	Next              bool // the first that is not done
	// Until is when the token at hand will be replaced, where this stop is about that.
	Until time.Time
}

// leastLife is how long a token that the assistant gets lives at least: the broker's default of min_ttl.
const leastLife = time.Minute

func stops(other string) []stop {
	return []stop{
		{Key: stopAsk, Title: "Ask for something", Say: "Show my files", Button: "Show my files",
			Text: "Fern may not see your files yet. The broker answers its request for a token with a link, and Fern puts it into the chat."},
		{Key: stopConsent, Title: "Say yes",
			Text: "Press Connect. The broker says who asks and for what; the file service asks you to sign in. Fern gets neither your password nor the refresh token."},
		{Key: stopRefresh, Title: "See a token replaced", Say: "Show my files", Button: "Show my files again",
			Text: "Fern gets a fresh token for each task, one that lives for another minute at least. Ask again when this one is too old: the broker refreshes it, and nobody notices."},
		{Key: stopForward, Title: "Send the link to somebody else", Say: "Save a note: buy milk", Button: "Save a note",
			Text: "A note takes one more permission, so there is a new link. Send it to " + other + " from its card: " + other +
				" signs in with an account of their own, says yes, and is refused. No chat ever gets somebody else's account."},
		{Key: stopMore, Title: "Allow more, later", Say: "Save a note: buy milk", Button: "Save a note",
			Text: "Now say yes yourself. The page tells what is new from what Fern has already."},
		{Key: stopSee, Title: "See who did what", Open: "/connections", Button: "My connections",
			Text: "A page of the broker's for you alone: what is connected, which assistant got which permission when and why, and a way to end it. Its link is bound to you, as a consent's is."},
		{Key: stopEnd, Title: "Take it back", Say: "Disconnect", Button: "Disconnect",
			Text: "The broker erases what it keeps and revokes it at the file service, and Fern tells you what that one answered."},
		{Key: stopAgain, Title: "Be asked again", Say: "Show my files", Button: "Show my files",
			Text: "Without access Fern has to ask again, and the answer says why: revoked, not new."},
	}
}

// tourView is what the page shows of the tour.
type tourView struct {
	Stops []stop
	Done  int
	// Key changes with what is shown, so that a page asks for news only.
	Key string
}

// tour is how far this chat is with it.
func (d *Demo) tour(sess *session) tourView {
	refreshed := d.feed.happened("token.refreshed", sess.user.Subject, sess.created)
	ended := d.feed.happened("connection.revoked", sess.user.Subject, sess.created) // in the chat or on "My connections"
	sess.mu.Lock()
	defer sess.mu.Unlock()
	if refreshed {
		sess.tick(stopRefresh)
	}
	if ended {
		sess.tick(stopEnd)
	}
	other := "somebody else"
	if u, ok := d.other(sess.user); ok {
		other = u.Name
	}
	v := tourView{Stops: stops(other)}
	var key strings.Builder
	for i := range v.Stops {
		s := &v.Stops[i]
		if s.Done = sess.seen[s.Key]; s.Done {
			v.Done++
			key.WriteString(s.Key + ",")
		}
		if s.Key == stopRefresh && !s.Done && sess.seen[stopConsent] {
			s.Until = sess.replaced
			key.WriteString(strconv.FormatInt(sess.replaced.Unix(), 10) + ",")
		}
	}
	for i := range v.Stops {
		if !v.Stops[i].Done {
			v.Stops[i].Next = true
			break
		}
	}
	v.Key = key.String()
	return v
}

// tick says that a stop of the tour was seen. The caller holds the lock.
func (s *session) tick(key string) {
	if s.seen == nil {
		s.seen = map[string]bool{}
	}
	s.seen[key] = true
}

// ticked is tick for who does not hold it.
func (s *session) ticked(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tick(key)
}

// left tells in words how long it is until then.
func left(now, until time.Time) string {
	if n := int(until.Sub(now).Round(time.Second) / time.Second); n > 0 {
		return fmt.Sprintf("in %d s", n)
	}
	return "with your next question"
}

// other is somebody else than that user.
func (d *Demo) other(than User) (User, bool) {
	for _, u := range d.cfg.Users {
		if u.Subject != than.Subject {
			return u, true
		}
	}
	return User{}, false
}
