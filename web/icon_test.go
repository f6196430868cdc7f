package web

import (
	"io/fs"
	"strings"
	"testing"
)

// A drawing that the template does not know comes out as the last one, which is for everything and nothing.
func TestEveryGlyphIsDrawn(t *testing.T) {
	text, err := fs.ReadFile(templateFiles, "templates/icons.html")
	if err != nil {
		t.Fatal(err)
	}
	_, drawings, _ := strings.Cut(string(text), `{{define "glyph"}}`)
	for category, glyph := range glyphs {
		if glyph != "grid" && !strings.Contains(drawings, `eq . "`+glyph+`"`) {
			t.Errorf("nothing draws %s, for %s", glyph, category)
		}
	}
}
