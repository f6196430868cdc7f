package web

import (
	"cmp"
	"net/url"
	"strings"
	"time"

	"tokenbroker/broker"
)

// portalLinkPage is what a link to "My connections" shows.
type portalLinkPage struct {
	frame
	Client  string
	Binding string // return, code or login: which words say what happens next
	Minutes int    // that the link still works
	Nonce   string
}

func portalLinkView(f frame, p broker.PortalPage, left time.Duration, nonce broker.Secret) portalLinkPage {
	v := portalLinkPage{frame: f, Client: plain(p.ClientName), Binding: string(p.Binding), Minutes: minutes(left), Nonce: nonce.Reveal()}
	v.Names = map[string]any{"Client": v.Client}
	v.Title = v.title("portal.link.title")
	return v
}

// minutes rounds, and is never none: what is over is not shown.
func minutes(left time.Duration) int { return max(1, int((left+30*time.Second)/time.Minute)) }

// portalWaitPage is a visit whose user has still to show who they are.
type portalWaitPage struct {
	frame
	Code    string
	Address string
}

func portalWaitView(f frame, p broker.PortalVisit) portalWaitPage {
	v := portalWaitPage{frame: f, Code: p.Code.Reveal(), Address: visitAddress(p.ID)}
	v.Names = map[string]any{"Client": plain(p.ClientName)}
	v.Title = v.title("portal.wait.title")
	return v
}

// portalPage is an open visit.
type portalPage struct {
	frame
	Address string
	Nonce   string
	Minutes int
	Rows    []portalRow
	Uses    []portalLine
	Unknown bool   // what happened can't be read just now
	Older   string // address of what happened earlier
	Newest  string // address of the newest, on earlier pages
}

// portalRow is a connection in words.
type portalRow struct {
	ID        string
	Connector string
	Provider  string
	Glyph     string
	Account   *accountView
	Status    string // active or needs_consent
	Groups    []permissionGroup
	Since     moment
	Used      moment
	Managed   bool // the operator's, not the user's to end
}

func rowOfVisit(l *lang, c broker.PortalConnection) portalRow {
	connector := cmp.Or(plain(c.Connector.Name), c.Connector.ID)
	return portalRow{
		ID: c.Connection.ID, Connector: connector, Provider: cmp.Or(plain(c.Connector.Provider), connector), Glyph: glyphs[c.Connector.Category],
		Account: viewAccount(&c.Connection.Account), Status: string(c.Connection.Status), Groups: groupsOf(l, c.Scopes),
		Since: utc(c.Connection.CreatedAt), Used: utc(c.Connection.LastIssued), Managed: c.Connection.Direct,
	}
}

// utc is a moment for who can't be asked for a time zone; portal.js shows the reader's own.
func utc(t time.Time) moment {
	m := momentOf(t)
	if m.Machine != "" {
		m.Shown += " UTC"
	}
	return m
}

// portalLine is what somebody did, in words.
type portalLine struct {
	Key       string // of its sentence, under portal.use.
	Mood      string // its icon
	Who       string // the assistant, or the chat where it names none
	Chat      string
	Tool      string
	Connector string
	Account   string
	Items     []permission
	Reasons   []string
	Count     int
	At        moment
}

func lineOf(l *lang, u broker.PortalUse) portalLine {
	v := portalLine{
		Key: useKey(u), Mood: "off", Chat: plain(u.ClientName), Who: plain(u.Actor.Agent), Tool: plain(u.Actor.Tool), Count: u.Count, At: utc(u.Last),
		Connector: cmp.Or(plain(u.Connector.Name), u.Connector.ID),
	}
	v.Who = cmp.Or(v.Who, v.Chat)
	if a := viewAccount(&u.Account); a != nil {
		v.Account = a.Main
	}
	switch u.Type {
	case broker.EventTokenIssued, broker.EventTokenRefused, broker.EventConsentCompleted:
		for _, g := range groupsOf(l, u.Scopes) {
			v.Items = append(v.Items, g.Items...)
		}
	}
	switch u.Type {
	case broker.EventTokenIssued, broker.EventTokenRefused:
		v.Mood = "key"
		for _, reason := range u.Reasons {
			v.Reasons = append(v.Reasons, plain(reason))
		}
	case broker.EventConsentCompleted:
		v.Mood = "good"
	}
	if u.Type == broker.EventTokenRefused {
		v.Mood = "off"
	}
	return v
}

// needsConsent tells whether a request was refused only because the user had to be asked first. The outcome goes on with the reason.
func needsConsent(outcome string) bool {
	code, _, _ := strings.Cut(outcome, ":")
	return broker.Code(code) == broker.CodeConsentRequired
}

func useKey(u broker.PortalUse) string {
	switch {
	case u.Type == broker.EventTokenIssued:
		return "portal.use.issued"
	case u.Type == broker.EventTokenRefused && needsConsent(u.Outcome):
		return "portal.use.needed"
	case u.Type == broker.EventTokenRefused:
		return "portal.use.refused"
	case u.Type == broker.EventConsentCompleted:
		return "portal.use.allowed"
	case u.Type == broker.EventConnectionNeedsConsent:
		return "portal.use.lapsed"
	case u.Outcome != "ok":
		return "portal.use.unconfirmed"
	case u.ByUser:
		return "portal.use.ended_by_you"
	}
	return "portal.use.ended"
}

// portalView puts an open visit into words. left is how long it lasts.
func portalView(f frame, p broker.PortalVisit, earlier bool, left time.Duration, nonce broker.Secret) portalPage {
	v := portalPage{frame: f, Address: visitAddress(p.ID), Nonce: nonce.Reveal(), Minutes: minutes(left)}
	v.Names = map[string]any{"Client": plain(p.ClientName)}
	v.Title = v.title("portal.title")
	for _, c := range p.Connections {
		v.Rows = append(v.Rows, rowOfVisit(f.Lang, c))
	}
	v.Unknown = p.UsesUnknown
	for _, u := range p.Uses {
		v.Uses = append(v.Uses, lineOf(f.Lang, u))
	}
	if p.Older != "" {
		v.Older = v.Address + "?" + url.Values{"cursor": {p.Older}}.Encode() + "#uses"
	}
	if earlier {
		v.Newest = v.Address + "#uses"
	}
	return v
}

// portalAskPage asks whether an account shall be disconnected.
type portalAskPage struct {
	frame
	Address string
	Row     portalRow
	Nonce   string
}

func portalAskView(f frame, id string, c broker.PortalConnection, nonce broker.Secret) portalAskPage {
	v := portalAskPage{frame: f, Address: visitAddress(id), Row: rowOfVisit(f.Lang, c), Nonce: nonce.Reveal()}
	v.Names = map[string]any{"Connector": v.Row.Connector, "Provider": v.Row.Provider}
	v.Title = v.title("portal.ask.title")
	return v
}

// portalEndPage is how disconnecting ended, or the visit.
type portalEndPage struct {
	frame
	Key     string
	Mood    string
	Address string // of the list; empty: the visit is over
}

func portalEndView(f frame, id string, c broker.PortalConnection, key, mood string) portalEndPage {
	v := portalEndPage{frame: f, Key: key, Mood: mood}
	if id != "" {
		row := rowOfVisit(f.Lang, c)
		v.Address = visitAddress(id)
		v.Names = map[string]any{"Connector": row.Connector, "Provider": row.Provider}
	}
	v.Title = v.title(key + ".title")
	return v
}
