package demo

import (
	"context"
	"errors"
	"net/http"
	"regexp"
	"strings"
	"time"

	"tokenbroker/broker"
)

// checkEvery is how often a conversation that waits asks the broker how its consent stands. The browser's own signals come
// first; this is for consents that end elsewhere (another tab without an opener, another browser, never).
const checkEvery = 2 * time.Second

// consentReturned is the return_to of binding "return": the browser comes here from the broker with a code. Who is logged in
// here, and not whom the link was for, is what the broker must hear; it refuses if they differ, and that is the whole
// protection against a link that was sent on to somebody else.
func (d *Demo) consentReturned(w http.ResponseWriter, r *http.Request) {
	sess, ok := d.sessions.find(r)
	if !ok {
		d.render(w, http.StatusOK, "who", d.whoView(r.URL.RequestURI()))
		return
	}
	query := r.URL.Query()
	id, code := query.Get("consent"), broker.NewSecret(query.Get("code"))
	ctx := context.WithoutCancel(r.Context())
	switch {
	case id == "":
		d.conclude(w, r, sess, outcome{Title: "There is nothing here", Text: "Go back to the chat and ask again."})
	case code.IsZero(): // the user said no, or it failed
		if d.check(ctx, sess, id) == "failed" {
			d.conclude(w, r, sess, outcome{Title: "That did not work", Text: "Nothing was connected. Close this window and ask again in the chat."})
			return
		}
		d.conclude(w, r, sess, outcome{Mood: "calm", Title: "Nothing was connected", Text: "You can close this window and go on chatting."})
	default:
		d.conclude(w, r, sess, d.completed(ctx, sess, id, code, false))
	}
}

// completed makes the completing call and lets the conversation go on.
func (d *Demo) completed(ctx context.Context, sess *session, id string, code broker.Secret, replace bool) outcome {
	account, err := d.platform.complete(ctx, id, sess.user.Subject, code, replace)
	if err == nil {
		d.settle(ctx, sess, id, "done", "Thank you! "+account.Label()+" is connected.")
		return outcome{Mood: "good", Title: "Connected", Text: account.Label() + " is connected. You can close this window and go on chatting."}
	}
	var refused *refusal
	if !errors.As(err, &refused) {
		d.cfg.Log.Warn("complete consent", "error", err)
		return outcome{Title: "That did not work", Text: "The broker could not be reached. Go back to the chat and ask again."}
	}
	d.cfg.Log.Warn("complete consent: broker refuses", "status", refused.Status, "code", refused.Code, "broker_request_id", refused.RequestID)
	switch refused.Code {
	case "subject_mismatch":
		return outcome{Title: notMadeForYou, Text: "You are " + sess.user.Name + " here, but somebody else asked for " +
			"this connection. Nothing was connected, and nobody got access to your account. If somebody sent you the link, do not use it."}
	case "account_changed":
		d.changedAccount(sess, id, code, refused)
		return outcome{Mood: "calm", Title: "Another account than before", Text: "You signed in with another account than the one that is connected. Decide in the chat whether that was meant."}
	case "expired", "not_found":
		d.settle(ctx, sess, id, "expired", "")
		return outcome{Title: "That took too long", Text: "The link is no longer good. Go back to the chat and ask again."}
	}
	d.settle(ctx, sess, id, "failed", "")
	return outcome{Title: "That did not work", Text: "Nothing was connected (" + refused.Code + "). Go back to the chat and ask again."}
}

// notMadeForYou is what somebody reads to whom a link was sent on.
const notMadeForYou = "This link was not made for you"

// settle ends the waiting for a consent, once: whoever of the returning browser, the entered code and the poll comes first.
func (d *Demo) settle(ctx context.Context, sess *session, id, state, text string) {
	sess.mu.Lock()
	p := sess.pending
	if p == nil || p.consent != id {
		sess.mu.Unlock()
		return
	}
	sess.pending = nil
	sess.edit(p.card, func(c *card) { c.State, c.Problem, c.URL = state, "", broker.Secret{} })
	if state == "done" {
		sess.tick(stopConsent)
		if p.want.kind == wantNote {
			sess.tick(stopMore)
		}
	}
	sess.mu.Unlock()
	if text != "" {
		d.tell(sess, text)
	}
	if state == "done" {
		d.do(ctx, sess, p.want)
	}
}

// conclude shows the outcome at a clean address, so that the code is in no history and a reload completes nothing again.
func (d *Demo) conclude(w http.ResponseWriter, r *http.Request, sess *session, o outcome) {
	sess.mu.Lock()
	sess.outcome = &o
	sess.mu.Unlock()
	http.Redirect(w, r, "/finished", http.StatusSeeOther)
}

func (d *Demo) finished(w http.ResponseWriter, _ *http.Request, sess *session) {
	sess.mu.Lock()
	o := sess.outcome
	sess.mu.Unlock()
	if o == nil {
		o = &outcome{Title: "There is nothing here", Text: "Go back to the chat."}
	}
	d.render(w, http.StatusOK, "finished", o)
}

// enterCode is binding "code": the broker's page showed a short code, the user types it into the card.
func (d *Demo) enterCode(w http.ResponseWriter, r *http.Request, sess *session) {
	id, code := r.PostFormValue("consent"), broker.NewSecret(strings.TrimSpace(r.PostFormValue("code")))
	if d.waitsForCode(sess) == id && id != "" && !code.IsZero() {
		d.tryCode(context.WithoutCancel(r.Context()), sess, id, code)
	}
	changed(w, r)
}

// codeShape is what a code looks like however it is typed: eight letters without vowels (RFC 8628 section 6.1), so that
// hardly any word is taken for one.
var codeShape = regexp.MustCompile(`^(?i:[bcdfghj-np-tv-xz][\s\p{Pd}]*){8}$`)

// waitsForCode returns the consent whose code is awaited in this chat, or "".
func (d *Demo) waitsForCode(sess *session) string {
	sess.mu.Lock()
	defer sess.mu.Unlock()
	if p := sess.pending; p != nil && p.binding == "code" && p.code.IsZero() {
		return p.consent
	}
	return ""
}

// tryCode makes the completing call with a typed code. What was wrong stands on the card afterwards, and is returned.
func (d *Demo) tryCode(ctx context.Context, sess *session, id string, code broker.Secret) (problem string) {
	account, err := d.platform.complete(ctx, id, sess.user.Subject, code, false)
	var refused *refusal
	switch {
	case err == nil:
		d.settle(ctx, sess, id, "done", "Thank you! "+account.Label()+" is connected.")
	case errors.As(err, &refused) && refused.Code == "invalid_code":
		problem = "That code is not right. Look at the other window again; after five wrong ones you must start over."
		d.problem(sess, id, "code", problem)
	case errors.As(err, &refused) && refused.Code == "account_changed":
		d.changedAccount(sess, id, code, refused)
	case errors.As(err, &refused) && refused.Code == "expired":
		d.settle(ctx, sess, id, "expired", "")
	case errors.As(err, &refused) && refused.Code == "subject_mismatch":
		d.settle(ctx, sess, id, "failed", "This link was not made for you, so nothing was connected.")
	default:
		problem = "That did not work. Finish in the other window first, then try again."
		d.problem(sess, id, "", problem)
		d.cfg.Log.Warn("complete consent", "error", err)
	}
	return problem
}

// problem puts onto the card what was wrong. state "": the card stays as it is.
func (d *Demo) problem(sess *session, id, state, text string) {
	sess.mu.Lock()
	defer sess.mu.Unlock()
	if p := sess.pending; p != nil && p.consent == id {
		sess.edit(p.card, func(c *card) {
			c.Problem = text
			if state != "" {
				c.State = state
			}
		})
	}
}

// askAgain starts over while a code is awaited: the window with it may be closed, and its link works no more.
func (d *Demo) askAgain(w http.ResponseWriter, r *http.Request, sess *session) {
	var wanted want
	sess.mu.Lock()
	p := sess.pending
	waits := p != nil && p.binding == "code" && p.code.IsZero() && p.consent == r.PostFormValue("consent")
	if waits {
		wanted = p.want
	}
	sess.mu.Unlock()
	if waits {
		d.do(context.WithoutCancel(r.Context()), sess, wanted)
	}
	changed(w, r)
}

// changedAccount asks whether the other account was meant. The code is kept for the answer.
func (d *Demo) changedAccount(sess *session, id string, code broker.Secret, refused *refusal) {
	sess.mu.Lock()
	defer sess.mu.Unlock()
	p := sess.pending
	if p == nil || p.consent != id {
		return
	}
	p.code = code
	sess.edit(p.card, func(c *card) {
		c.State, c.Accounts = "changed", nil
		for _, a := range refused.Accounts {
			label := a.Account.Label()
			if a.Connection != nil {
				label += ", connected until now"
			}
			c.Accounts = append(c.Accounts, accountOption{Label: label})
		}
	})
}

// replaceAccount takes the answer: yes replaces, no leaves everything as it was.
func (d *Demo) replaceAccount(w http.ResponseWriter, r *http.Request, sess *session) {
	sess.mu.Lock()
	var p pending
	if sess.pending != nil {
		p = *sess.pending
	}
	sess.mu.Unlock()
	ctx := context.WithoutCancel(r.Context())
	switch {
	case p.code.IsZero():
	case r.PostFormValue("answer") == "yes":
		d.completed(ctx, sess, p.consent, p.code, true)
	default:
		d.settle(ctx, sess, p.consent, "failed", "Good, everything stays as it was.")
	}
	changed(w, r)
}

// check asks the broker how a consent stands, acts on it, and returns it; "": not known.
func (d *Demo) check(ctx context.Context, sess *session, id string) string {
	status, _, err := d.platform.consentStatus(ctx, id)
	if err != nil {
		var refused *refusal
		if errors.As(err, &refused) && refused.Code == "not_found" {
			d.settle(ctx, sess, id, "expired", "")
		}
		return ""
	}
	switch status {
	case "completed":
		d.settle(ctx, sess, id, "done", "Thank you, that worked.")
	case "denied":
		d.settle(ctx, sess, id, "denied", "All right, I leave your files alone. Just ask again if you change your mind.")
	case "failed":
		d.settle(ctx, sess, id, "failed", "Connecting did not work. Shall we try again?")
	case "expired":
		d.settle(ctx, sess, id, "expired", "")
	case "awaiting_completion":
		sess.mu.Lock()
		if p := sess.pending; p != nil && p.consent == id && p.binding == "code" {
			sess.edit(p.card, func(c *card) {
				if c.State == "waiting" {
					c.State, c.Problem = "code", ""
				}
			})
		}
		sess.mu.Unlock()
	}
	return status
}

// checkPending does so for the conversation's consent, where it is time to.
func (d *Demo) checkPending(ctx context.Context, sess *session, now bool) {
	sess.mu.Lock()
	p := sess.pending
	if p == nil || p.consent == "" || !p.code.IsZero() || (!now && d.cfg.Now().Before(p.checked.Add(checkEvery))) {
		sess.mu.Unlock()
		return
	}
	p.checked = d.cfg.Now()
	id := p.consent
	sess.mu.Unlock()
	d.check(ctx, sess, id)
}
