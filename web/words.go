package web

import (
	"encoding/json"
	"net/url"
	"strings"
	"time"
	"unicode"

	"tokenbroker/broker"
)

// consentPage is what the consent page shows, in words.
type consentPage struct {
	Title     string
	Dashboard bool
	Client    string
	Connector string
	Provider  string
	Account   *accountView
	Renewal   bool
	Groups    []permissionGroup
	Exact     []exactScope
	Implied   bool // Exact holds scopes that nobody asked for: the broker adds them
	ByCode    bool // it ends with a code to type, else with a return to the client
	Minutes   int  // that the link still works
	Nonce     string
}

// permissionGroup is what one kind of access allows.
type permissionGroup struct {
	Access string
	Title  string
	Items  []permission
}

type permission struct {
	Text      string
	Sensitive bool
	New       bool
}

// exactScope is a scope as the provider names it.
type exactScope struct {
	Name  string
	Added bool // by the broker, for every connection: to know whose account it is and to keep the access
}

// The kinds of access in the order of the page, mildest first.
var accessTitles = []struct {
	access broker.Access
	title  string
}{
	{broker.AccessRead, "See"},
	{broker.AccessChange, "Change"},
	{broker.AccessSend, "Send on your behalf"},
	{broker.AccessDelete, "Delete"},
	{broker.AccessOther, "Also"},
}

// consentView puts a page into words. left is how long the link still works.
func consentView(p broker.ConsentPage, left time.Duration, nonce broker.Secret) consentPage {
	v := consentPage{
		Client: plain(p.ClientName), Connector: plain(p.Connector.Name), Provider: plain(p.Connector.Provider),
		Account: viewAccount(p.Account), Renewal: p.Renewal, ByCode: p.Binding == broker.BindingCode,
		Minutes: max(1, int((left+30*time.Second)/time.Minute)), Nonce: nonce.Reveal(),
	}
	if v.Connector == "" {
		v.Connector = p.Connector.ID
	}
	if v.Provider == "" {
		v.Provider = v.Connector
	}
	v.Title = "Connect " + v.Connector + " to " + v.Client
	if v.Renewal {
		v.Title = "Renew " + v.Connector + " for " + v.Client
	}
	known := map[broker.Access]bool{}
	for _, a := range accessTitles {
		known[a.access] = true
	}
	for _, a := range accessTitles {
		g := permissionGroup{Access: string(a.access), Title: a.title}
		for _, s := range p.Scopes {
			if s.Access != a.access && (a.access != broker.AccessOther || known[s.Access]) {
				continue
			}
			text := plain(s.Description)
			if text == "" {
				text = plain(s.Name)
			}
			g.Items = append(g.Items, permission{Text: text, Sensitive: s.Sensitive, New: s.New && p.Renewal})
		}
		if len(g.Items) > 0 {
			v.Groups = append(v.Groups, g)
		}
	}
	asked := map[string]bool{}
	for _, s := range p.Scopes {
		if asked[s.Name] = true; s.Name == "" {
			continue // a whole grant, not a scope
		}
		v.Exact = append(v.Exact, exactScope{Name: plain(s.Name)})
	}
	for _, name := range p.Connector.Implied.All() {
		if !asked[name] {
			v.Implied = true
			v.Exact = append(v.Exact, exactScope{Name: plain(name), Added: true})
		}
	}
	return v
}

// finishPage is how a consent ended.
type finishPage struct {
	Title     string
	Dashboard bool
	Mood      string // good, wait, off or bad: the look
	Waiting   bool   // it goes on by itself: the script looks for news
	Text      string
	Next      string
	Client    string
	Connector string
	Account   *accountView
	Code      string
	Consent   string
	Status    string
	Origins   string // JSON, for the script
}

// finishView puts the end of a consent into words.
func finishView(f broker.Finish) finishPage {
	v := finishPage{
		Client: plain(f.ClientName), Connector: plain(f.Connector.Name), Account: viewAccount(f.Account),
		Consent: f.ConsentID, Status: string(f.Status), Origins: originsJSON(f.Origins), Mood: "bad",
	}
	if v.Connector == "" {
		v.Connector = f.Connector.ID
	}
	switch f.Status {
	case broker.ConsentAwaitingCompletion:
		v.Mood, v.Waiting = "wait", true
		v.Title = "One last step"
		if f.UserCode.IsZero() {
			v.Text = "Go back to " + v.Client + " to finish."
			break
		}
		v.Code = f.UserCode.Reveal()
	case broker.ConsentCompleted:
		v.Mood = "good"
		v.Title = v.Connector + " is connected"
		v.Text = "You can close this page and go back to " + v.Client + "."
	case broker.ConsentDenied:
		v.Mood = "off" // the user's own choice, and no error
		v.Title = "Nothing was connected"
		v.Text = v.Client + " got no access to your " + v.Connector + " account."
		v.Next = "You can close this page. If you change your mind, ask for a new link in the chat."
	case broker.ConsentExpired:
		v.Title = "That took too long"
		v.Text = "Nothing was connected."
		v.Next = "Go back to the chat and ask for a new link."
	case broker.ConsentPending, broker.ConsentStarted:
		v.Mood, v.Waiting = "wait", true
		v.Title = "Not finished yet"
		v.Text = "The sign-in for " + v.Connector + " is still under way."
		v.Next = "Finish it in the window where you began it, or load this page again in a moment."
	default:
		v.Title = "Connecting " + v.Connector + " didn't work"
		v.Text = failureTexts[f.Error]
		if v.Text == "" {
			v.Text = "The sign-in ended with an error. Nothing was connected."
		}
		v.Next = "Go back to the chat and ask for a new link to try again."
	}
	return v
}

// failureTexts are the words for a failed consent, by our own codes. A provider's text is never shown: whoever makes the
// callback's address would be writing on our page (CVE-2019-8400).
var failureTexts = map[string]string{
	string(broker.CodeAccessDenied):           "The other service didn't allow it, or you chose not to. Nothing was connected.",
	string(broker.CodeInvalidScope):           "The other service doesn't offer these permissions for your account. Nothing was connected.",
	string(broker.CodeProviderUnavailable):    "The other service can't be reached right now. Nothing was connected.",
	string(broker.CodeTemporarilyUnavailable): "We could not keep the connection just now. Nothing was connected.",
	string(broker.CodeProviderMisconfigured):  "The other service refuses ours: its settings must be mended by whoever runs the chat. Nothing was connected.",
	string(broker.CodeExpired):                "It took too long or was cut off, so the other service's answer could no longer be used. Nothing was connected.",
	string(broker.CodeAccountChanged):         "You signed in with another account than before. Nothing was connected.",
	// Reasons of the consent's own, which are no answers of the API.
	"too_many_attempts": "Too many wrong codes were entered, so we stopped here for your safety. Nothing was connected.",
	"subject_erased":    "Your data in the chat was deleted meanwhile, and this with it. Nothing was connected.",
	"issuer_mismatch":   "The answer didn't come from the service that was asked, so we didn't use it. Nothing was connected.",
}

// accountView is whose account it is, as the provider tells. The texts are a stranger's: any text may stand there.
type accountView struct {
	Main   string
	Detail string
}

func viewAccount(a *broker.Account) *accountView {
	if a == nil {
		return nil
	}
	var parts []string
	for _, s := range []string{a.Name, a.Email, a.ID} {
		if s = plain(s); s != "" {
			parts = append(parts, s)
		}
	}
	switch {
	case len(parts) == 0:
		return nil
	case len(parts) == 1:
		return &accountView{Main: parts[0]}
	case a.Name != "" && a.Email != "":
		parts = parts[:2] // the id says nothing to people who have the other two
	}
	return &accountView{Main: parts[0], Detail: strings.Join(parts[1:], " ")}
}

// maxShown bounds a name on a page, in runes.
const maxShown = 120

// plain takes out what could make a stranger's text look like something else: control characters, and those that are
// invisible or turn the direction of writing. html/template takes care of markup.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\u200d' || r == '\u200c':
			return r // joiners are part of ordinary text in several scripts
		case unicode.IsSpace(r):
			return ' '
		case r == unicode.ReplacementChar, unicode.IsControl(r), unicode.Is(unicode.Cf, r), unicode.Is(unicode.Co, r):
			return -1
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	if runes := []rune(s); len(runes) > maxShown {
		return string(runes[:maxShown-1]) + "…"
	}
	return s
}

// originsJSON is the list for the script. Only exact web origins are in it, never "*" (RFC 9700 section 4.17).
func originsJSON(origins []string) string {
	exact := []string{}
	for _, o := range origins {
		u, err := url.Parse(o)
		if err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && u.Scheme+"://"+u.Host == o && !strings.Contains(o, "*") {
			exact = append(exact, o)
		}
	}
	b, err := json.Marshal(exact)
	if err != nil { // strings always encode
		return "[]"
	}
	return string(b)
}
