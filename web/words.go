package web

import (
	"encoding/json"
	"html/template"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"

	"tokenbroker/broker"
)

// consentPage is what the consent page shows, in words.
type consentPage struct {
	frame
	Client    string
	Connector string
	Provider  string
	Glyph     string // what the connector is for; empty: it has its letter alone
	Kind      string // connect, renew or more: which words its head has
	Account   *accountView
	Groups    []permissionGroup // what is asked; of a renewal that asks for more, only that
	Already   []permissionGroup // what a renewal that asks for more has already
	Had       int               // permissions in Already
	Exact     []exactScope
	Implied   bool // Exact holds scopes that nobody asked for: the broker adds them
	ByCode    bool // it ends with a code to type, else with a return to the client
	ByLogin   bool // it goes through a sign-in at the user's organisation first
	Minutes   int  // that the link still works
	Nonce     string
}

// permissionGroup is what one kind of access allows.
type permissionGroup struct {
	Access  string // read, change, send, delete or also: its icon and its words
	Heading string // Access, or alone: there is nothing that it would be said in addition to
	Items   []permission
	Care    bool // one of them is sensitive
}

// speaker is a page that has words.
type speaker interface {
	Say(key string, extra ...any) (template.HTML, error)
}

// permissionList is what the template of permissions shows: those asked for, or those that are there already.
type permissionList struct {
	Page   speaker
	Groups []permissionGroup
	New    bool
}

type permission struct {
	Text      string
	Lang      string // of Text, if not the page's
	Sensitive bool
}

// exactScope is a scope as the provider names it.
type exactScope struct {
	Name  string
	Added bool // by the broker, for every connection: to know whose account it is and to keep the access
}

// accessOrder are the kinds of access in the order of the page, mildest first; anything else comes last, as "also".
var accessOrder = []broker.Access{broker.AccessRead, broker.AccessChange, broker.AccessSend, broker.AccessDelete}

// consentView puts a page into words. left is how long the link still works.
func consentView(f frame, p broker.ConsentPage, left time.Duration, nonce broker.Secret) consentPage {
	v := consentPage{
		frame: f, Client: plain(p.ClientName), Connector: plain(p.Connector.Name), Provider: plain(p.Connector.Provider),
		Account: maskedAccount(p.Account), Glyph: glyphs[p.Connector.Category], Kind: "connect",
		ByCode: p.Binding == broker.BindingCode, ByLogin: p.Binding == broker.BindingLogin,
		Minutes: minutes(left), Nonce: nonce.Reveal(),
	}
	if v.Connector == "" {
		v.Connector = p.Connector.ID
	}
	if v.Provider == "" {
		v.Provider = v.Connector
	}
	v.Names = map[string]any{"Client": v.Client, "Connector": v.Connector, "Provider": v.Provider}
	asked := p.Scopes
	if p.Renewal {
		v.Kind = "renew"
		isNew := func(s broker.PageScope) bool { return s.New }
		if had := slices.DeleteFunc(slices.Clone(asked), isNew); len(had) < len(asked) {
			v.Kind, v.Had = "more", len(had)
			v.Already = groupsOf(f.Lang, had)
			asked = slices.DeleteFunc(slices.Clone(asked), func(s broker.PageScope) bool { return !s.New })
		}
	}
	v.Groups = groupsOf(f.Lang, asked)
	v.Title = v.title("consent.title." + v.Kind)
	known := map[string]bool{}
	for _, s := range p.Scopes {
		if known[s.Name] = true; s.Name == "" {
			continue // a whole grant, not a scope
		}
		v.Exact = append(v.Exact, exactScope{Name: plain(s.Name)})
	}
	for _, name := range p.Connector.Implied.All() {
		if !known[name] {
			v.Implied = true
			v.Exact = append(v.Exact, exactScope{Name: plain(name), Added: true})
		}
	}
	return v
}

// groupsOf sorts permissions by what they allow.
func groupsOf(l *lang, scopes []broker.PageScope) []permissionGroup {
	groups := make([]permissionGroup, len(accessOrder)+1)
	for i, access := range accessOrder {
		groups[i].Access = string(access)
	}
	groups[len(accessOrder)].Access = "also"
	for _, s := range scopes {
		at := slices.Index(accessOrder, s.Access)
		if at < 0 {
			at = len(accessOrder)
		}
		p := permission{Sensitive: s.Sensitive}
		if p.Text, p.Lang = l.described(s.Description); p.Text == "" || s.Description == s.Name {
			p.Text, p.Lang = s.Name, "" // in no language
		}
		p.Text = plain(p.Text)
		groups[at].Items = append(groups[at].Items, p)
		groups[at].Care = groups[at].Care || p.Sensitive
	}
	groups = slices.DeleteFunc(groups, func(g permissionGroup) bool { return len(g.Items) == 0 })
	for i := range groups {
		groups[i].Heading = groups[i].Access
	}
	if len(groups) == 1 && groups[0].Access == "also" {
		groups[0].Heading = "alone"
	}
	return groups
}

// finishPage is how a consent ended.
type finishPage struct {
	frame
	Key       string // of its words: title, and text and next where there is something to say
	Reason    string // key of the words for a failure
	Mood      string // good, wait, off or bad: the look
	Waiting   bool   // it goes on by itself: the script looks for news
	Connector string
	Account   *accountView
	Previous  *accountView // whose account it was before, if another came back
	Was       string       // Previous, in a sentence
	Code      string
	Asks      string // what the user has to decide here, as the form's keys name it: replace or retry; empty: nothing
	Nonce     string
	Consent   string
	Status    string
	Origins   string // JSON, for the script
}

// finishView puts the end of a consent into words.
func finishView(fr frame, f broker.Finish) finishPage {
	v := finishPage{
		frame: fr, Connector: plain(f.Connector.Name), Account: viewAccount(f.Account),
		Consent: f.ConsentID, Status: string(f.Status), Origins: originsJSON(f.Origins), Mood: "bad",
	}
	if v.Connector == "" {
		v.Connector = f.Connector.ID
	}
	v.Names = map[string]any{"Client": plain(f.ClientName), "Connector": v.Connector}
	switch f.Status {
	case broker.ConsentAwaitingCompletion:
		v.Mood, v.Waiting, v.Key = "wait", true, "finish.back"
		v.Previous, v.Account, v.Was = apart(f.Previous, f.Account)
		switch {
		case !f.UserCode.IsZero():
			v.Key, v.Code = "finish.code", f.UserCode.Reveal()
			// The code is not the proof until the chat has it: who came with a link of somebody else's must not learn whose it is.
			if v.Previous = maskedAccount(f.Previous); v.Previous != nil {
				v.Account, v.Was = viewAccount(f.Account), v.Previous.Main
			}
		case f.Undecided() && f.Previous != nil:
			v.Key, v.Asks = "finish.replace", "replace"
		case f.Undecided():
			v.Key, v.Asks = "finish.retry", "retry"
		}
	case broker.ConsentCompleted:
		v.Mood, v.Key = "good", "finish.completed"
	case broker.ConsentDenied:
		v.Mood, v.Key = "off", "finish.denied" // the user's own choice, and no error
	case broker.ConsentExpired:
		v.Key = "finish.expired"
	case broker.ConsentPending, broker.ConsentStarted:
		v.Mood, v.Waiting, v.Key = "wait", true, "finish.pending"
	default:
		// By our own codes. A provider's text is never shown: whoever makes the callback's address would be writing on our
		// page (CVE-2019-8400).
		v.Key, v.Reason = "finish.failed", "failure."+f.Error
		if !v.Lang.Has(v.Reason) {
			v.Reason = "failure.any"
		}
	}
	v.Title = v.title(v.Key + ".title")
	return v
}

// accountView is whose account it is, as the provider tells. The texts are a stranger's: any text may stand there.
type accountView struct {
	Main   string
	Detail string
}

// labelled is an account and what it is to the user.
type labelled struct {
	Label   template.HTML
	Account *accountView
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

// maskedAccount is for pages before anybody has proved who they are: its owner recognizes it, and whoever has only the link learns no
// name and no address. An address counts alone; of anything else the first letters are left.
func maskedAccount(a *broker.Account) *accountView {
	if a == nil {
		return nil
	}
	for _, s := range []string{a.Email, a.Name, a.ID} {
		if s = plain(s); s != "" {
			return &accountView{Main: masked(s)}
		}
	}
	return nil
}

func masked(s string) string {
	words := strings.Fields(s)
	if at := strings.LastIndex(s, "@"); at > 0 && len(words) == 1 { // names and ids may be addresses as well
		return firstLetter(s[:at]) + s[at:]
	}
	words = words[:min(len(words), maskedWords)]
	for i := range words {
		words[i] = firstLetter(words[i])
	}
	return strings.Join(words, " ")
}

// maskedWords bounds how many words of a name are left.
const maskedWords = 3

// firstLetter is the first letter of a word with the marks on it, and that there is more.
func firstLetter(word string) string {
	runes := []rune(word)
	end := 1
	for end < len(runes) && unicode.Is(unicode.M, runes[end]) {
		end++
	}
	return string(runes[:end]) + "…"
}

// apart are two accounts that a page shows together, and the first one in a sentence. What people call themselves may be the same,
// by chance or on purpose: a page that asks which of them is meant must not show the same twice.
func apart(before, now *broker.Account) (was, is *accountView, sentence string) {
	was, is = viewAccount(before), viewAccount(now)
	if was == nil {
		return was, is, ""
	}
	if is == nil || was.Main != is.Main {
		return was, is, was.Main
	}
	if was.Detail == is.Detail {
		was.Detail = strings.TrimSpace(was.Detail + " " + plain(before.ID))
		is.Detail = strings.TrimSpace(is.Detail + " " + plain(now.ID))
	}
	if was.Detail == "" {
		return was, is, was.Main
	}
	return was, is, was.Main + " (" + was.Detail + ")"
}

// maxShown bounds a name on a page, in runes.
const maxShown = 120

// plain takes out what could make a stranger's text look like something else: control characters, and those that are
// invisible or turn the direction of writing. html/template takes care of markup.
func plain(s string) string {
	s = plainWhole(s)
	if runes := []rune(s); len(runes) > maxShown {
		return string(runes[:maxShown-1]) + "…"
	}
	return s
}

// plainWhole is plain for what is bounded already, and must be seen whole.
func plainWhole(s string) string {
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
	return strings.Join(strings.Fields(s), " ")
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
