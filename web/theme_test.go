package web

import (
	"fmt"
	"math"
	"testing"
)

// Whatever colour a client has, everything that is written in it or on it can be read, light and dark.
func TestEveryAccentCanBeRead(t *testing.T) {
	var tried int
	for r := 0; r <= 255; r += 17 {
		for g := 0; g <= 255; g += 17 {
			for b := 0; b <= 255; b += 17 {
				a, err := ParseAccent(fmt.Sprintf("#%02x%02x%02x", r, g, b))
				if err != nil {
					t.Fatal(err)
				}
				tried++
				for name, s := range map[string]scheme{"light": a.light, "dark": a.dark} {
					grounds := map[string]rgb{"card": lightCard, "back": lightBack, "tint": s.tint}
					text := hexColour("#14181f")
					if name == "dark" {
						grounds, text = map[string]rgb{"card": darkCard, "back": darkBack, "tint": s.tint}, hexColour("#eceff4")
					}
					for ground, c := range grounds {
						if got := contrast(s.accent, c); got < 4.5 {
							t.Fatalf("#%02x%02x%02x, %s: accent %s on %s has %.2f", r, g, b, name, s.accent, ground, got)
						}
					}
					// The code stands on the tint in the colour of text; buttons have theirs.
					if least := math.Min(contrast(text, s.tint), math.Min(contrast(s.onFill, s.fill), contrast(s.onFill, s.hover))); least < 4.5 {
						t.Fatalf("#%02x%02x%02x, %s: %+v has %.2f", r, g, b, name, s, least)
					}
				}
			}
		}
	}
	if tried != 16*16*16 {
		t.Errorf("tried %d", tried)
	}
}

func TestAccentStaysWhatItIs(t *testing.T) {
	for text, want := range map[string]string{
		"#2257c9": "--accent:#2257c9;--fill:#2257c9;--fill-hover:#1d4bad;--on-fill:#ffffff;--tint:#ebf0fa",
		"#FFCC00": "--accent:#856a00;--fill:#ffcc00;--fill-hover:#ffd324;--on-fill:#000000;--tint:#fffae8",
	} {
		a, err := ParseAccent(text)
		if err != nil || a.light.css() != want {
			t.Errorf("%s: %s, %v", text, a.light.css(), err)
		}
	}
	for _, text := range []string{"", "blue", "#fff", "2257c9", "#2257c9;}body{", "#22 57c", "#2257C9FF", "#gggggg"} {
		if _, err := ParseAccent(text); err == nil {
			t.Errorf("%q is a colour", text)
		}
	}
	for _, tt := range []struct {
		a, b string
		want float64
	}{{"#000000", "#ffffff", 21}, {"#777777", "#ffffff", 4.48}, {"#2257c9", "#ffffff", 6.41}} {
		if got := contrast(hexColour(tt.a), hexColour(tt.b)); math.Abs(got-tt.want) > .02 {
			t.Errorf("contrast of %s and %s: %.2f", tt.a, tt.b, got)
		}
	}
}
