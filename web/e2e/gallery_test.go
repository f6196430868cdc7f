package e2e

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"tokenbroker/broker"
	"tokenbroker/web/webtest"
)

// languages of the pages; the test of package web holds the list.
var languages = []string{"en", "ar", "de", "es", "fr", "ja", "pt"}

// state is one page in one state, at an address of the gallery.
type state struct {
	name, path string
	message    string // key of its words under outcome., for the pages that are one template and differ in these
}

// in is the state's address in a language.
func (st state) in(lang string) string {
	if strings.Contains(st.path, "?") {
		return st.path + "&lang=" + lang
	}
	return st.path + "?lang=" + lang
}

// newGallery is a site on which every state of every page that users see has an address of its own.
func newGallery(t *testing.T) (*site, []state) {
	t.Helper()
	s := newSite(t)
	began := time.Now()
	consents, ends := webtest.ConsentStates(began), webtest.FinishStates()
	themed, light := webtest.Page(time.Now(), broker.BindingCode), webtest.Page(time.Now(), broker.BindingReturn)
	themed.ClientID, light.ClientID = "acme-chat", "light-chat"
	consents["themed"], consents["pale"] = themed, light
	s.service.Open = func(link broker.Secret) (broker.ConsentPage, error) {
		p, ok := consents[link.Reveal()]
		if !ok {
			return broker.ConsentPage{}, broker.Errorf(broker.CodeNotFound, "x")
		}
		p.Expires = p.Expires.Add(time.Since(began)) // the pictures say the same whenever they are made
		return p, nil
	}
	s.service.Again = func(id string, _ func(string) broker.Secret) (broker.Finish, error) {
		f, ok := ends[strings.ReplaceAll(id, "_in_", " ")]
		if !ok {
			return broker.Finish{}, broker.Errorf(broker.CodeNotFound, "x")
		}
		return f, nil
	}
	var states []state
	for _, name := range slices.Sorted(maps.Keys(consents)) {
		states = append(states, state{name: "consent-" + name, path: "/connect/" + name})
	}
	for _, name := range slices.Sorted(maps.Keys(ends)) {
		if !strings.Contains(name, " ") { // those differ in one sentence
			states = append(states, state{name: "finish-" + name, path: "/consent/" + name})
		}
	}
	states = append(states, portalStates(s)...)
	return s, append(states, messageStates(s)...)
}

// TestGallery looks at every state on a phone and on a desk, and keeps the pictures.
func TestGallery(t *testing.T) {
	s, states := newGallery(t)
	b := openTab(t, startBrowser(t))
	for _, st := range states {
		if st.message != "" && !slices.Contains(pictured, st.message) {
			continue
		}
		b.do(t, chromedp.Navigate(s.url+st.path), chromedp.WaitVisible(chromedp.CSS("h1")))
		b.wellMade(t)
		b.shoot(t, st.name, phone)
		if st.message == "" || st.message == pictured[0] {
			b.shoot(t, st.name, desktop)
		}
	}
	for _, more := range []struct{ name, path string }{
		{"consent-full-ar", "/connect/full?lang=ar"}, {"consent-more-ja", "/connect/more?lang=ja"}, {"finish-code-de", "/consent/code?lang=de"},
	} {
		b.do(t, chromedp.Navigate(s.url+more.path), chromedp.WaitVisible(chromedp.CSS("h1")))
		b.shoot(t, more.name, phone)
	}
	b.do(t, chromedp.Navigate(s.url+"/connect/full?lang=en"), chromedp.WaitVisible(chromedp.CSS("h1")))
	b.shoot(t, "consent-full", phoneDark)
	b.shoot(t, "consent-full", desktopDark)
	b.do(t, chromedp.Navigate(s.url+"/consent/code"), chromedp.WaitVisible(chromedp.CSS("h1")))
	b.shoot(t, "finish-code", phoneDark)
	b.quiet(t)
}
