package e2e

import (
	"testing"

	"github.com/chromedp/chromedp"
)

// boardPage opens a page of the dashboard and looks at it in every look, light and dark, as axe does too; shown: its screenshots are
// kept.
func (b *tab) boardPage(t *testing.T, s *site, name, path string, shown bool) {
	t.Helper()
	b.do(t, chromedp.Navigate(s.url+path), chromedp.WaitVisible(chromedp.CSS("h1")))
	b.wellMade(t)
	b.with(t, desktop)
	b.axe(t, name)
	b.scheme(t, "dark")
	b.axeWith(t, axeColours, name+", dark")
	if shown {
		b.shoot(t, "board-"+name, desktop)
		b.shoot(t, "board-"+name, phone)
	}
}
