package web

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"
)

// Theme is how the pages look for one client's users. The zero Theme is our own look.
type Theme struct {
	Accent Accent
	Logo   Logo
}

// Accent is a client's own colour. Make it with ParseAccent; the zero Accent is ours.
type Accent struct {
	set   bool
	light scheme
	dark  scheme
}

// rgb is a colour in sRGB, each part from 0 to 1.
type rgb [3]float64

var accentShape = regexp.MustCompile(`^#[0-9A-Fa-f]{6}$`)

// The colours of site.css that an accent stands on or beside.
var (
	white, black         = rgb{1, 1, 1}, rgb{}
	lightCard, lightBack = white, hexColour("#f1f3f7")
	darkCard, darkBack   = hexColour("#161a21"), hexColour("#0d1015")
)

// enough is the least contrast of text (WCAG 2.2, 1.4.3), and what we ask of drawings and focus rings too. A little more than
// the rule, since colours are rounded to 256 steps.
const enough = 4.55

// ParseAccent reads #rrggbb. Every colour will do: what a button is filled with is that colour, and its words are white or black,
// one of which can always be read on it; where the colour is itself text, a drawing or a focus ring it is made darker (or, in the dark,
// lighter) until it can be read. Refusing pale brands would help nobody.
func ParseAccent(text string) (Accent, error) {
	if !accentShape.MatchString(text) {
		return Accent{}, fmt.Errorf("must be a colour as #rrggbb, such as \"#2257c9\" (in quotes: # begins a comment)")
	}
	brand := hexColour(text)
	return Accent{
		set:   true,
		light: schemeOf(brand, lightCard, black, .09, lightCard, lightBack),
		dark:  schemeOf(brand, darkCard, white, .16, darkCard, darkBack),
	}, nil
}

// scheme are the colours of one client in light or in dark, by the variables of site.css.
type scheme struct{ accent, fill, hover, onFill, tint rgb }

// schemeOf makes them. Text in the accent stands on each of grounds and on the tint: it is mixed with toward until it can be read.
func schemeOf(brand, card, toward rgb, breath float64, grounds ...rgb) scheme {
	s := scheme{fill: brand, onFill: white, tint: card.mix(brand, breath)}
	if contrast(brand, white) < enough {
		s.onFill = black
	}
	// Away from the words on it, so that they can be read the better.
	s.hover = brand.mix(rgb{1 - s.onFill[0], 1 - s.onFill[1], 1 - s.onFill[2]}, .14)
	for step := 0.; step <= 1; step += .02 {
		s.accent = brand.mix(toward, step)
		least := contrast(s.accent, s.tint)
		for _, g := range grounds {
			least = math.Min(least, contrast(s.accent, g))
		}
		if least >= enough {
			break
		}
	}
	return s
}

func hexColour(text string) rgb {
	n, err := strconv.ParseUint(text[1:], 16, 32)
	if err != nil { // the shape was checked, or it is one of ours
		return rgb{}
	}
	return rgb{float64(n>>16) / 255, float64(n>>8&255) / 255, float64(n&255) / 255}
}

// mix is c with so much of the other.
func (c rgb) mix(other rgb, share float64) rgb {
	for i := range c {
		c[i] += (other[i] - c[i]) * share
	}
	return c.rounded()
}

// rounded is the colour that a browser makes of it.
func (c rgb) rounded() rgb {
	for i := range c {
		c[i] = math.Round(c[i]*255) / 255
	}
	return c
}

func (c rgb) String() string {
	return fmt.Sprintf("#%02x%02x%02x", int(math.Round(c[0]*255)), int(math.Round(c[1]*255)), int(math.Round(c[2]*255)))
}

// luminance as WCAG 2.2 defines it.
func (c rgb) luminance() float64 {
	linear := func(v float64) float64 {
		if v <= 0.04045 {
			return v / 12.92
		}
		return math.Pow((v+0.055)/1.055, 2.4)
	}
	return 0.2126*linear(c[0]) + 0.7152*linear(c[1]) + 0.0722*linear(c[2])
}

// contrast as WCAG 2.2 defines it, from 1 to 21.
func contrast(a, b rgb) float64 {
	x, y := a.luminance(), b.luminance()
	return (math.Max(x, y) + .05) / (math.Min(x, y) + .05)
}

// css sets the variables of site.css.
func (s scheme) css() string {
	return fmt.Sprintf("--accent:%s;--fill:%s;--fill-hover:%s;--on-fill:%s;--tint:%s", s.accent, s.fill, s.hover, s.onFill, s.tint)
}

func (a Accent) css() string {
	return ":root{" + a.light.css() + "}\n@media (prefers-color-scheme:dark){:root{" + a.dark.css() + "}}\n"
}

// look is a theme as the pages name it: addresses, empty where there is nothing.
type look struct{ style, logo string }

// themes are the looks by client, and what is served at their addresses.
type themes struct {
	looks map[string]look
	files assets
}

// loadThemes gives every part of every theme an address that is made of its content alone: it tells nothing about the client, and may
// be kept for good.
func loadThemes(byClient map[string]Theme) themes {
	t := themes{looks: map[string]look{}, files: assets{}}
	for client, theme := range byClient {
		var l look
		if theme.Accent.set {
			l.style = t.add([]byte(theme.Accent.css()), ".css", "text/css; charset=utf-8")
		}
		if theme.Logo.data != nil {
			l.logo = t.add(theme.Logo.data, theme.Logo.ending, theme.Logo.contentType)
		}
		t.looks[client] = l
	}
	return t
}

func (t themes) add(body []byte, ending, contentType string) string {
	sum := sha256.Sum256(body)
	version := hex.EncodeToString(sum[:12])
	t.files[version+ending] = asset{body: body, contentType: contentType, version: version}
	return "/theme/" + version + ending
}

// themed gives a page the look of that client.
func (w *Web) themed(f frame, client string) frame {
	l := w.themes.looks[client]
	f.Style, f.Logo = l.style, l.logo
	return f
}

// theme is GET /theme/FILE. A logo is a picture of somebody else's making: opened by itself it may do nothing.
func (w *Web) theme(c echo.Context) error {
	f, ok := w.themes.files[c.Param("file")]
	if !ok {
		return w.show(c, areaStatic, noSuchPage)
	}
	h := c.Response().Header()
	if !strings.HasPrefix(f.contentType, "text/css") {
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; sandbox; frame-ancestors 'none'")
	}
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	return c.Blob(http.StatusOK, f.contentType, f.body)
}
