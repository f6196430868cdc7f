package web

import (
	"html/template"
	"time"

	"github.com/labstack/echo/v4"
	"golang.org/x/text/language"
)

const (
	// languageCookie keeps a choice made by ?lang= through the flow, over the provider and back.
	languageCookie = "tb_lang"
	languageKept   = 180 * 24 * time.Hour
	// maxAccept bounds the header Accept-Language, in bytes; browsers send some dozens.
	maxAccept = 1 << 10
)

// frame is what every page has around it; the pages' views embed it.
type frame struct {
	Lang      *lang
	Title     string // plain text
	Dashboard bool
	Style     string         // address of the client's own colours, if it has a theme
	Logo      string         // address of the client's logo, if it has one
	Languages []languageLink // at the foot; none where loading the page anew would not show the same
	// Names are values that any text of the page may name: Client, Connector, Provider.
	Names map[string]any
}

// languageLink is this page in another language.
type languageLink struct {
	*lang
	Address string
	Current bool
}

// Say is a text as part of the page; extra values as name and value. Strings among the values are set apart as foreign names.
func (f frame) Say(key string, extra ...any) (template.HTML, error) {
	values, err := pairs(f.Names, extra)
	if err != nil {
		return "", err
	}
	return f.Lang.html(key, values)
}

// Text is a text for an attribute.
func (f frame) Text(key string, extra ...any) (string, error) {
	values, err := pairs(f.Names, extra)
	if err != nil {
		return "", err
	}
	return f.Lang.make(key, values)
}

// title is a text with the page's names in it, for the window's title.
func (f frame) title(key string) string {
	text, err := f.Text(key)
	if err != nil {
		return f.Lang.text(key) // says which
	}
	return text
}

// frame begins a page of that area, in the language of whoever asks. What ?lang= chooses is kept in a cookie.
func (w *Web) frame(c echo.Context, a area) frame {
	f := frame{Lang: w.languages.list[0], Dashboard: a == areaDashboard || a == areaLive || a == areaOperatorCallback}
	if f.Dashboard { // for operators, in English
		return f
	}
	chosen, ok := w.chosen(c.QueryParam("lang"))
	if ok {
		// Tags have no character that a cookie can't hold.
		_ = w.setCookie(c.Response(), languageCookie, chosen.Tag, languageKept)
	} else if chosen, ok = w.chosen(w.cookie(c.Request())(languageCookie).Reveal()); !ok {
		chosen = w.accepted(c.Request().Header.Get("Accept-Language"))
	}
	f.Lang = chosen
	c.Response().Header().Set("Content-Language", f.Lang.Tag)
	if a == areaCallback || a == areaSignIn || a == areaVisitSignIn || a == areaEntrance || a == areaVisitEnd {
		return f // what is at the end of a provider's redirect is there once
	}
	for _, l := range w.languages.list {
		f.Languages = append(f.Languages, languageLink{lang: l, Address: "?lang=" + l.Tag, Current: l == f.Lang})
	}
	return f
}

// chosen is the language that a tag names, or a close relative of it: pt-BR is pt here.
func (w *Web) chosen(tag string) (*lang, bool) {
	if tag == "" || len(tag) > 35 { // RFC 5646 section 4.4.1
		return nil, false
	}
	want, err := language.Parse(tag)
	if err != nil {
		return nil, false
	}
	_, i, sure := w.languages.matcher.Match(want)
	if sure < language.High {
		return nil, false
	}
	return w.languages.list[i], true
}

// accepted is the language that fits a browser's settings best (RFC 9110 section 12.5.4), else English.
func (w *Web) accepted(header string) *lang {
	if len(header) > maxAccept {
		return w.languages.list[0]
	}
	// An unreadable part leaves what was read before it.
	want, _, _ := language.ParseAcceptLanguage(header)
	_, i, sure := w.languages.matcher.Match(want...)
	if sure == language.No {
		return w.languages.list[0]
	}
	return w.languages.list[i]
}
