package demo

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// event is an audit event as the broker tells it.
type event struct {
	ID      string    `json:"id"`
	Time    time.Time `json:"time"`
	Type    string    `json:"type"`
	Subject string    `json:"subject"`
	Actor   actor     `json:"actor"`
	Scope   string    `json:"scope"`
	Outcome string    `json:"outcome"`
	Reason  string    `json:"reason"`
	Request string    `json:"request_id"`
	// Connection tells two apart that one request ended.
	Connection string `json:"connection"`
}

// line is what one operation left in the trail, for people: there is one event for each scope, and all else is the same.
type line struct {
	event
	Scopes []string
	Seq    int
	What   string
	Who    string
	Tone   string // good, bad, calm
}

const (
	maxLines     = 300
	refreshEvery = 700 * time.Millisecond
	overlap      = 5 * time.Second // replicas' clocks may differ, so what is read again is told apart by its id
)

// feed follows the audit trail for as long as somebody looks: it reads when it is asked, not by itself.
type feed struct {
	cfg      Config
	platform *platform

	reading sync.Mutex // held while the broker is asked: one at a time

	mu    sync.Mutex
	lines []line // oldest first
	seen  map[string]bool
	order []string // ids in seen, oldest first
	from  time.Time
	last  time.Time
	seq   int
}

func newFeed(cfg Config, p *platform) *feed {
	return &feed{cfg: cfg, platform: p, seen: map[string]bool{}, from: cfg.Now().Add(-overlap)}
}

// refresh reads what is new, unless somebody just did or is doing it. What fails is tried again next time.
func (f *feed) refresh(ctx context.Context) {
	if !f.reading.TryLock() {
		return
	}
	defer f.reading.Unlock()
	f.mu.Lock()
	since, fresh := f.from, f.cfg.Now().Before(f.last.Add(refreshEvery))
	f.mu.Unlock()
	if fresh {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, eventTimeout)
	defer cancel()
	cursor := ""
	var all []event // taken at once, so that the events of one operation are not torn apart between two pages
	for range 20 {  // pages
		page, next, err := f.platform.events(ctx, since, cursor)
		if err != nil {
			f.cfg.Log.Debug("read events", "error", err)
			f.take(all)
			return
		}
		all = append(all, page...)
		if next == "" || next == cursor {
			break
		}
		cursor = next
	}
	f.take(all)
	f.mu.Lock()
	f.last = f.cfg.Now()
	f.mu.Unlock()
}

func (f *feed) take(page []event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var fresh []line
	of := map[event]int{} // place in fresh, by all that the events of one operation share
	for _, e := range page {
		if f.seen[e.ID] {
			continue
		}
		f.seen[e.ID] = true
		f.order = append(f.order, e.ID)
		same := e
		same.ID, same.Scope = "", ""
		i, ok := of[same]
		if !ok {
			f.seq++
			i = len(fresh)
			of[same] = i
			fresh = append(fresh, describe(e, f.seq))
		}
		if e.Scope != "" {
			fresh[i].Scopes = append(fresh[i].Scopes, e.Scope)
		}
		if since := e.Time.Add(-overlap); since.After(f.from) {
			f.from = since
		}
	}
	f.lines = append(f.lines, fresh...)
	if len(f.lines) > maxLines {
		f.lines = slices.Delete(f.lines, 0, len(f.lines)-maxLines)
	}
	for len(f.order) > 10*maxLines {
		delete(f.seen, f.order[0])
		f.order = f.order[1:]
	}
}

// since returns the lines after a sequence number, newest first, and the newest number.
func (f *feed) since(seq int) ([]line, int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []line
	for _, l := range slices.Backward(f.lines) {
		if l.Seq <= seq {
			break
		}
		out = append(out, l)
	}
	return out, f.seq
}

// happened tells whether there was such an event of the subject after that time.
func (f *feed) happened(kind, subject string, after time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(f.lines, func(l line) bool {
		return l.Type == kind && l.Subject == subject && l.Time.After(after)
	})
}

func describe(e event, seq int) line {
	l := line{event: e, Seq: seq, Who: e.Subject, Tone: "calm"}
	if e.Actor.Tool != "" {
		l.Who += " via " + e.Actor.Tool
	}
	l.What = map[string]string{
		"consent.created": "Consent asked for", "consent.started": "Consent started", "consent.signed_in": "Signed in at the organisation", "consent.granted": "Provider granted",
		"consent.denied": "User said no", "consent.failed": "Consent failed", "consent.completed": "Consent completed",
		"portal.created": "My connections: link made", "portal.opened": "My connections opened", "portal.refused": "My connections refused",
		"token.issued": "Token handed out", "token.refused": "Token refused", "token.refreshed": "Token refreshed",
		"token.refresh_failed": "Refresh failed", "connection.scope_reduced": "Scope lost", "connection.needs_consent": "Needs consent again",
		"connection.revoked": "Disconnected", "subject.erased": "User erased", "integrity.failed": "Stored data was tampered with",
	}[e.Type]
	if l.What == "" {
		l.What = e.Type
	}
	switch {
	case e.Type == "token.issued" || e.Type == "consent.completed" || e.Type == "consent.granted":
		l.Tone = "good"
	case strings.HasSuffix(e.Type, "failed") || strings.HasSuffix(e.Type, "refused") ||
		e.Type == "connection.needs_consent":
		l.Tone = "bad"
	}
	return l
}

// updates tells the page what changed since it last asked.
func (d *Demo) updates(w http.ResponseWriter, r *http.Request, sess *session) {
	rev, _ := strconv.Atoi(r.URL.Query().Get("rev"))
	seq, _ := strconv.Atoi(r.URL.Query().Get("seq"))
	d.checkPending(context.WithoutCancel(r.Context()), sess, r.URL.Query().Has("check"))
	d.feed.refresh(r.Context())
	type part struct {
		ID   int    `json:"id"`
		HTML string `json:"html"`
	}
	var out struct {
		Rev    int    `json:"rev"`
		Seq    int    `json:"seq"`
		Chat   []part `json:"chat"`
		Events []part `json:"events"` // oldest first
		Tour   string `json:"tour,omitempty"`
	}
	messages, now := sess.since(rev)
	out.Rev = now
	for _, m := range messages {
		if html, err := d.fragment("message", m); err == nil {
			out.Chat = append(out.Chat, part{m.ID, html})
		}
	}
	lines, newest := d.feed.since(seq)
	out.Seq = newest
	for _, l := range slices.Backward(lines) {
		if html, err := d.fragment("event", l); err == nil {
			out.Events = append(out.Events, part{l.Seq, html})
		}
	}
	if tour := d.tour(sess); tour.Key != r.URL.Query().Get("tour") {
		out.Tour, _ = d.fragment("tour", tour)
	}
	writeJSON(w, out)
}
