package demo

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"tokenbroker/broker"
)

// This file sends users to the broker's page "My connections". It is bound as a consent is: the browser comes back here with a code,
// and whoever is logged in here is whose connections are shown. A link that was sent on shows nobody else's.

// portalPath is where the broker sends the browser back to; the client's return_to lists it.
const portalPath = "/portal"

// myConnections makes a link for the user and leads there.
func (d *Demo) myConnections(w http.ResponseWriter, r *http.Request, sess *session) {
	link, err := d.platform.portal(r.Context(), sess.user.Subject, d.cfg.PublicURL+portalPath, sess.conversation)
	if err == nil && !d.ofBroker(link) {
		err = errors.New("read the broker's answer: its link leads elsewhere")
	}
	if err != nil {
		d.excuse(sess, err)
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	http.Redirect(w, r, link.Reveal(), http.StatusSeeOther)
}

// portalReturned is where the browser comes back with a code: the broker hears who is logged in here, and says where the list is.
func (d *Demo) portalReturned(w http.ResponseWriter, r *http.Request) {
	sess, ok := d.sessions.find(r)
	if !ok {
		d.render(w, http.StatusOK, "who", d.whoView(r.URL.RequestURI()))
		return
	}
	query := r.URL.Query()
	id, code := query.Get("portal"), broker.NewSecret(query.Get("code"))
	if id == "" || code.IsZero() {
		d.conclude(w, r, sess, outcome{Mood: "calm", Title: "Nothing was opened", Text: "Close this window and go on chatting."})
		return
	}
	entrance, err := d.platform.enter(context.WithoutCancel(r.Context()), id, sess.user.Subject, code)
	var refused *refusal
	switch {
	case errors.As(err, &refused) && refused.Code == "subject_mismatch":
		d.conclude(w, r, sess, outcome{Title: notMadeForYou, Text: "You are " + sess.user.Name + " here, but somebody else asked for this page. " +
			"Nothing of theirs is shown to you, and nothing of yours to them."})
		return
	case err == nil && !d.ofBroker(entrance):
		err = errors.New("read the broker's answer: its link leads elsewhere")
		fallthrough
	case err != nil:
		d.cfg.Log.Warn("complete portal session", "error", err)
		d.conclude(w, r, sess, outcome{Title: "That did not work", Text: "Go back to the chat and open the page again."})
		return
	}
	sess.ticked(stopSee)
	http.Redirect(w, r, entrance.Reveal(), http.StatusSeeOther)
}

// ofBroker tells whether an address is one of the broker's pages.
func (d *Demo) ofBroker(address broker.Secret) bool {
	return strings.HasPrefix(address.Reveal(), d.cfg.BrokerURL+"/")
}

// portal asks for a link to "My connections".
func (p *platform) portal(ctx context.Context, subject, returnTo, state string) (broker.Secret, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	in := struct {
		Subject  string `json:"subject"`
		ReturnTo string `json:"return_to"`
		State    string `json:"state"`
	}{subject, returnTo, state}
	var out struct {
		URL string `json:"url"`
	}
	err := p.call(ctx, http.MethodPost, "/v1/portal-sessions", in, &out)
	return broker.NewSecret(out.URL), err
}

// enter tells the broker who is logged in here, and hears where the list is.
func (p *platform) enter(ctx context.Context, id, subject string, code broker.Secret) (broker.Secret, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	in := struct {
		Subject string `json:"subject"`
		Code    string `json:"code"`
	}{subject, code.Reveal()}
	var out struct {
		URL string `json:"url"`
	}
	err := p.call(ctx, http.MethodPost, "/v1/portal-sessions/"+url.PathEscape(id)+"/complete", in, &out)
	return broker.NewSecret(out.URL), err
}
