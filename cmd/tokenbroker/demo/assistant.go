package demo

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"tokenbroker/broker"
)

// want is what the user asked the assistant for.
type want struct {
	kind string // files, note, disconnect, help
	note string
}

const (
	wantFiles      = "files"
	wantNote       = "note"
	wantDisconnect = "disconnect"
	wantHelp       = "help"
	maxText        = 2_000 // bytes
)

// understand stands in for a language model.
func understand(text string) want {
	lower := strings.ToLower(text)
	has := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(lower, w) {
				return true
			}
		}
		return false
	}
	switch {
	case has("disconnect", "forget my"):
		return want{kind: wantDisconnect}
	case has("note", "save", "remember"):
		_, note, found := strings.Cut(text, ":")
		if note = strings.TrimSpace(note); !found || note == "" {
			note = "Water the plants"
		}
		return want{kind: wantNote, note: note}
	case has("file", "document", "show"):
		return want{kind: wantFiles}
	}
	return want{kind: wantHelp}
}

// say takes a message of the user and lets the assistant answer.
func (d *Demo) say(w http.ResponseWriter, r *http.Request, sess *session) {
	text := strings.TrimSpace(r.PostFormValue("text"))
	if text == "" || len(text) > maxText || !utf8.ValidString(text) {
		changed(w, r)
		return
	}
	// Whoever reloads the page meanwhile still gets the answer: it is kept in the session. Every call inside has a deadline.
	ctx := context.WithoutCancel(r.Context())
	if id := d.waitsForCode(sess); id != "" && codeShape.MatchString(text) {
		sess.add(message{At: d.cfg.Now(), Mine: true, Text: "••••-••••"}) // a code is kept nowhere
		if problem := d.tryCode(ctx, sess, id, broker.NewSecret(text)); problem != "" {
			d.tell(sess, problem)
		}
		changed(w, r)
		return
	}
	sess.add(message{At: d.cfg.Now(), Mine: true, Text: text})
	d.do(ctx, sess, understand(text))
	changed(w, r)
}

// do does what the user wants, or asks for the consent that it takes.
func (d *Demo) do(ctx context.Context, sess *session, wanted want) {
	switch wanted.kind {
	case wantFiles:
		d.withToken(ctx, sess, wanted, d.cfg.ReadScope, "list_files", func(t token) error {
			list, err := d.platform.listFiles(ctx, t)
			if err != nil {
				return err
			}
			sess.add(message{At: d.cfg.Now(), Text: fmt.Sprintf("Here are the files of %s:", t.account.Label()), Files: list})
			return nil
		})
	case wantNote:
		d.withToken(ctx, sess, wanted, d.cfg.WriteScope, "save_note", func(t token) error {
			name := "Note " + d.cfg.Now().Local().Format("2006-01-02 15.04.05") + ".txt"
			saved, err := d.platform.saveFile(ctx, t, name, wanted.note)
			if err != nil {
				return err
			}
			sess.add(message{At: d.cfg.Now(), Text: "Saved as a new file of yours:", Files: []file{saved}})
			return nil
		})
	case wantDisconnect:
		d.disconnect(ctx, sess)
	default:
		d.tell(sess, "I can show your files, save a note (“note: buy milk”) or disconnect your account.")
	}
}

// withToken gets a token that carries the scope, for this one use. Without one it puts a card into the chat and remembers
// what was wanted.
func (d *Demo) withToken(ctx context.Context, sess *session, wanted want, scope, tool string, use func(token) error) {
	sess.mu.Lock()
	binding, chosen := sess.binding, sess.chosen
	sess.mu.Unlock()
	in := tokenRequest{
		Connector: d.cfg.Connector, Subject: sess.user.Subject, Scopes: []string{scope}, Connection: chosen,
		Actor: actor{Agent: "demo-assistant", Run: sess.conversation[:8], Tool: tool}, Reason: "asked in the chat",
	}
	if binding == "return" {
		in.ReturnTo, in.State = d.cfg.PublicURL+"/done", sess.conversation
	}
	t, err := d.platform.token(ctx, in)
	var refused *refusal
	switch {
	case err == nil:
		sess.mu.Lock()
		sess.replaced = d.cfg.Now().Add(t.life - leastLife + time.Second) // expires_in is in whole seconds
		sess.mu.Unlock()
		err = use(t)
	case errors.As(err, &refused) && refused.Code == "consent_required" && refused.Consent != nil:
		d.askConsent(ctx, sess, wanted, refused)
		return
	case errors.As(err, &refused) && refused.Code == "account_selection_required":
		d.askAccount(sess, wanted, refused)
		return
	case errors.As(err, &refused) && refused.Code == "not_found" && chosen != "":
		// The chosen connection is gone, so let the broker choose or ask anew.
		sess.mu.Lock()
		sess.chosen = ""
		sess.mu.Unlock()
		d.withToken(ctx, sess, wanted, scope, tool, use)
		return
	}
	if err != nil {
		d.excuse(sess, err)
	}
}

// askConsent puts the card of a consent into the chat.
func (d *Demo) askConsent(ctx context.Context, sess *session, wanted want, refused *refusal) {
	text := map[string]string{
		"never_connected": "To do that I need access to your files. You decide what I may see, and you can take it back at any time.",
		"scope_missing":   "I have access to your files, but not for this. May I do more?",
		"revoked":         "My access to your files was taken back. If you still want me to do that, connect again.",
		"expired":         "My access to your files has run out. Please connect again.",
	}[refused.Reason]
	if text == "" {
		text = "For that I need your consent."
	}
	c := &card{Kind: "consent", Consent: refused.Consent.ID, URL: broker.NewSecret(refused.Consent.URL), Binding: refused.Consent.Binding,
		State: "waiting", Scopes: d.words(ctx, refused.Missing)}
	if u, ok := d.other(sess.user); ok {
		c.Other = u.Name
	}
	if !strings.HasPrefix(refused.Consent.URL, d.cfg.BrokerURL+"/") {
		d.excuse(sess, errors.New("read the broker's answer: its link leads elsewhere"))
		return
	}
	id := sess.add(message{At: d.cfg.Now(), Text: text, Card: c})
	sess.mu.Lock()
	defer sess.mu.Unlock()
	if old := sess.pending; old != nil {
		sess.edit(old.card, func(c *card) { c.State = "moved" })
	}
	sess.pending = &pending{consent: c.Consent, binding: c.Binding, want: wanted, card: id, checked: d.cfg.Now()}
	sess.tick(stopAsk)
	if refused.Reason == "revoked" {
		sess.tick(stopAgain)
	}
}

// askAccount lets the user choose among several connected accounts.
func (d *Demo) askAccount(sess *session, wanted want, refused *refusal) {
	c := &card{Kind: "accounts", State: "waiting"}
	for _, a := range refused.Accounts {
		if a.Connection != nil {
			c.Accounts = append(c.Accounts, accountOption{*a.Connection, a.Account.Label()})
		}
	}
	id := sess.add(message{At: d.cfg.Now(), Text: "You have connected several accounts. Which one?", Card: c})
	sess.mu.Lock()
	defer sess.mu.Unlock()
	sess.pending = &pending{want: wanted, card: id}
}

// chooseAccount takes the answer to askAccount. The broker checks that the connection is the subject's.
func (d *Demo) chooseAccount(w http.ResponseWriter, r *http.Request, sess *session) {
	sess.mu.Lock()
	p := sess.pending
	if p == nil || p.consent != "" {
		sess.mu.Unlock()
		changed(w, r)
		return
	}
	sess.chosen, sess.pending = r.PostFormValue("connection"), nil
	sess.edit(p.card, func(c *card) { c.State = "done" })
	sess.mu.Unlock()
	d.do(context.WithoutCancel(r.Context()), sess, p.want)
	changed(w, r)
}

// disconnect ends the user's connections.
func (d *Demo) disconnect(ctx context.Context, sess *session) {
	ids, err := d.platform.connections(ctx, sess.user.Subject)
	if err != nil {
		d.excuse(sess, err)
		return
	}
	if len(ids) == 0 {
		d.tell(sess, "Nothing is connected.")
		return
	}
	told := true
	for _, id := range ids {
		revoked, err := d.platform.disconnect(ctx, id)
		if err != nil {
			d.excuse(sess, err)
			return
		}
		told = told && revoked == "done"
	}
	sess.mu.Lock()
	sess.chosen = ""
	sess.tick(stopEnd)
	sess.mu.Unlock()
	if told {
		d.tell(sess, "Disconnected. My access is gone here and at the provider.")
	} else {
		d.tell(sess, "Disconnected here. The provider could not be told, so please remove my access in its settings as well.")
	}
}

func (d *Demo) tell(sess *session, text string) { sess.add(message{At: d.cfg.Now(), Text: text}) }

// excuse says in plain words what went wrong; the details go to the log.
func (d *Demo) excuse(sess *session, err error) {
	var refused *refusal
	var files *filesError
	text := "I can't reach my token broker at the moment. Please try again."
	switch {
	case errors.As(err, &refused):
		d.cfg.Log.Warn("broker refuses", "status", refused.Status, "code", refused.Code, "broker_request_id", refused.RequestID)
		switch refused.Code {
		case "provider_unavailable":
			text = "The file service does not answer at the moment. Please try again in a minute."
		case "temporarily_unavailable", "slow_down":
			text = "That is too much at once. Please try again in a moment."
		case "access_denied", "invalid_scope":
			text = "I am not allowed to do that."
		case "provider_misconfigured":
			text = "My registration at the file service does not work. That is for my operator to mend, not for you."
		default:
			text = "Something went wrong (" + refused.Code + ", request " + refused.RequestID + ")."
		}
	case errors.As(err, &files):
		d.cfg.Log.Warn("files API refuses", "status", files.status)
		text = fmt.Sprintf("The file service refused (%d). Please try again.", files.status)
	default:
		d.cfg.Log.Warn("call fails", "error", err)
	}
	d.tell(sess, text)
}

// words puts scopes in plain words, as the broker knows them.
func (d *Demo) words(ctx context.Context, scopes []string) []string {
	known, err := d.platform.scopeWords(ctx)
	if err != nil {
		d.cfg.Log.Warn("read connectors", "error", err)
	}
	var out []string
	for _, s := range scopes {
		if w := known[s]; w != "" {
			s = w
		}
		out = append(out, s)
	}
	return out
}

// home is the chat, or the question who is there.
func (d *Demo) home(w http.ResponseWriter, r *http.Request) {
	sess, ok := d.sessions.find(r)
	if !ok {
		d.render(w, http.StatusOK, "who", d.whoView(""))
		return
	}
	d.feed.refresh(r.Context())
	messages, rev := sess.since(0)
	lines, seq := d.feed.since(0)
	sess.mu.Lock()
	binding := sess.binding
	sess.mu.Unlock()
	d.render(w, http.StatusOK, "chat", struct {
		User              User
		Messages          []message
		Rev, Seq          int
		Events            []line
		Binding, Broker   string
		Now               time.Time
		Connector, Origin string
		Tour              tourView
	}{sess.user, messages, rev, seq, lines, binding, d.cfg.BrokerURL, d.cfg.Now(), d.cfg.Connector, d.cfg.PublicURL, d.tour(sess)})
}

// setBinding switches between the bindings for consents to come.
func (d *Demo) setBinding(w http.ResponseWriter, r *http.Request, sess *session) {
	if b := r.PostFormValue("binding"); b == "return" || b == "code" {
		sess.mu.Lock()
		sess.binding = b
		sess.mu.Unlock()
	}
	changed(w, r)
}
