package demo

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"tokenbroker/broker"
)

// This file is the attack that every consent link invites, in one press: the link is sent on to somebody else, who uses it in
// good faith. Nothing is pretended: the other person's browser (visitor.go) opens the broker's and the provider's real pages.

// forwardTimeout bounds the other person's way through all pages, in which nobody has to think.
const forwardTimeout = 30 * time.Second

// forward sends the link of the chat's card to somebody else, lets them use it, and tells in the chat how that ended.
func (d *Demo) forward(w http.ResponseWriter, r *http.Request, sess *session) {
	id := r.PostFormValue("consent")
	other, there := d.other(sess.user)
	sess.mu.Lock()
	p := sess.pending
	var link broker.Secret
	if p != nil && p.consent == id {
		for _, m := range sess.messages {
			if m.ID == p.card && m.Card != nil && m.Card.State == "waiting" {
				link = m.Card.URL
			}
		}
	}
	binding := ""
	if p != nil {
		binding = p.binding
	}
	sess.mu.Unlock()
	if !there || link.IsZero() {
		changed(w, r)
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), forwardTimeout)
	defer cancel()
	refused, err := d.useAs(ctx, other, link, id, binding)
	if err != nil {
		d.cfg.Log.Warn("forwarded link", "error", err)
		d.problem(sess, id, "", other.Name+" could not use the link: it may be used up, or the broker could not be reached. Ask me again.")
		changed(w, r)
		return
	}
	if !refused { // this would be a hole in the broker, and no demo should talk it away
		d.tell(sess, other.Name+" used your link, and the broker did not refuse it. That must never happen; please report it.")
		changed(w, r)
		return
	}
	sess.ticked(stopForward)
	d.settle(ctx, sess, id, "forwarded", forwardedText(other.Name, binding))
	changed(w, r)
}

func forwardedText(name, binding string) string {
	text := name + " opened your link in a browser of their own, signed in there with their own account and said yes. "
	if binding == "return" {
		return text + "Then they came back to this platform, where it is " + name + " who is logged in and not you: the broker answered 403 subject_mismatch " +
			"and never redeemed the consent. I have no access to " + name + "'s files, and the link is used up."
	}
	return text + "At the end their page showed a code. Typed in their own chat it got 403 subject_mismatch, and as long as you don't type it in yours nothing " +
		"is connected: in ten minutes the broker revokes what " + name + " gave. The link is used up."
}

// useAs uses a consent link as that user, in a browser of their own, up to the completing call; refused: that was refused because of
// who they are.
func (d *Demo) useAs(ctx context.Context, user User, link broker.Secret, consent, binding string) (refused bool, err error) {
	v, err := newVisitor(d.cfg, user)
	if err != nil {
		return false, err
	}
	if err := v.signIn(ctx); err != nil {
		return false, err
	}
	end, err := v.walk(ctx, link)
	if err != nil {
		return false, err
	}
	if binding == "return" {
		// Our own page, to which the broker sent them: consentReturned has made the call for whoever is logged in.
		if !strings.HasPrefix(end.address, d.cfg.PublicURL+"/") {
			return false, errors.New("walk through the pages: they end elsewhere")
		}
		return end.title == notMadeForYou, nil
	}
	if end.code.IsZero() {
		return false, errors.New("walk through the pages: the last one shows no code")
	}
	_, err = d.platform.complete(ctx, consent, user.Subject, end.code, false)
	var answer *refusal
	if errors.As(err, &answer) {
		return answer.Code == "subject_mismatch", nil
	}
	if err != nil {
		return false, fmt.Errorf("complete as somebody else: %w", err)
	}
	return false, nil
}
