package web

import (
	"bytes"
	"image"
	"image/png"
	"strings"
	"testing"
)

func pngOf(t *testing.T, w, h int) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := png.Encode(&b, image.NewGray(image.Rect(0, 0, w, h))); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

const goodSVG = `<?xml version="1.0" encoding="UTF-8"?>
<!-- drawn by hand -->
<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 8 8" role="img">
<style>.a{fill:url(#g)}</style><defs><linearGradient id="g"><stop offset="0" stop-color="#f00"/></linearGradient><path id="p" d="M0 0h8v8z"/></defs>
<use xlink:href="#p" class="a" style="stroke: none" fill="url( '#g' )"/><text>A &amp; B</text></svg>`

func TestLogos(t *testing.T) {
	webp := func(kind string, rest ...byte) []byte {
		return append([]byte("RIFF\x00\x00\x00\x00WEBP"+kind), rest...)
	}
	for name, tt := range map[string]struct {
		data   []byte
		ending string
	}{
		"png":            {pngOf(t, 112, 112), ".png"},
		"lossy webp":     {webp("VP8 ", 0, 0, 0, 0, 0, 0, 0, 0x9d, 1, 0x2a, 112, 0, 112, 0), ".webp"},
		"lossless webp":  {webp("VP8L", 0, 0, 0, 0, 0x2f, 111, 0xc0, 27, 0), ".webp"},
		"extended webp":  {webp("VP8X", 10, 0, 0, 0, 0, 0, 0, 0, 111, 0, 0, 111, 0, 0), ".webp"},
		"svg":            {[]byte(goodSVG), ".svg"},
		"svg with a BOM": {[]byte("\ufeff\n" + goodSVG[strings.Index(goodSVG, "<svg"):]), ".svg"},
	} {
		l, err := ParseLogo(tt.data)
		if err != nil || l.ending != tt.ending {
			t.Errorf("%s: %q, %v", name, l.ending, err)
		}
	}
	for name, data := range map[string][]byte{
		"nothing": nil, "text": []byte("hello"), "jpeg": []byte("\xff\xd8\xff\xe0"), "gif": []byte("GIF89a"), "html": []byte("<!doctype html><p>x"),
		"too large": append(pngOf(t, 8, 8), make([]byte, MaxLogo)...), "huge png": pngOf(t, 1025, 8), "cut png": pngOf(t, 8, 8)[:20],
		"huge webp": webp("VP8X", 10, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 1, 0, 0), "cut webp": webp("VP8X", 10), "other webp": webp("ALPH", make([]byte, 30)...),
	} {
		if _, err := ParseLogo(data); err == nil {
			t.Errorf("%s is a logo", name)
		}
	}
}

// An SVG draws and does nothing else.
func TestHostileSVG(t *testing.T) {
	wrap := func(inner string) string {
		return `<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">` + inner + `</svg>`
	}
	for _, svg := range []string{
		wrap(`<script>alert(1)</script>`), wrap(`<SCRIPT>alert(1)</SCRIPT>`), wrap(`<script xmlns="http://www.w3.org/1999/xhtml">x</script>`),
		wrap(`<foreignObject><p>x</p></foreignObject>`), wrap(`<iframe/>`), wrap(`<image href="https://evil.example/x.png"/>`), wrap(`<image href="data:image/svg+xml,x"/>`),
		wrap(`<a href="https://evil.example"><path/></a>`), wrap(`<animate attributeName="href" to="x"/>`), wrap(`<set attributeName="onload" to="x"/>`),
		wrap(`<path onload="x"/>`), wrap(`<path ONCLICK="x"/>`), strings.Replace(wrap(""), "<svg ", `<svg onload="x" `, 1), wrap(`<p:path xmlns:p="http://www.w3.org/2000/svg" p:onload="x"/>`),
		wrap(`<use href="https://evil.example/x.svg#a"/>`), wrap(`<use xlink:href="//evil.example/x.svg#a"/>`), wrap(`<use href="javascript:x"/>`), wrap(`<use href="  https://evil.example"/>`),
		wrap(`<path fill="url(https://evil.example/x#a)"/>`), wrap(`<path style="fill:URL ( 'https://evil.example')"/>`), wrap(`<path style="fill:u\72l(x)"/>`), wrap(`<path fill="url(&#x68;ttps://evil.example)"/>`),
		wrap(`<style>@import "https://evil.example/x.css";</style>`), wrap(`<style><![CDATA[@import url(https://evil.example)]]></style>`), wrap(`<style>@im<!-- -->port "x";</style>`),
		wrap(`<style>@font-face{src:url(https://evil.example)}</style>`), wrap(`<style>a{background:image-set("x" 1x)}</style>`), wrap(`<style>@\69mport "x"</style>`), wrap(`<style>a<g/>b</style>`),
		wrap(`<path xml:base="https://evil.example/"/>`), wrap(`<metadata>x</metadata>`), wrap(`<title><b xmlns="http://www.w3.org/1999/xhtml">x</b></title>`),
		`<!DOCTYPE svg [<!ENTITY x "y">]>` + wrap("&x;"), `<!DOCTYPE svg>` + wrap(""), `<?xml-stylesheet href="https://evil.example/x.css"?>` + wrap(""),
		`<html xmlns="http://www.w3.org/1999/xhtml"/>`, `<svg/>`, `<path xmlns="http://www.w3.org/2000/svg"/>`, wrap("<g>"), wrap("&nbsp;"), "<", "<!-- -->",
		`<?xml version="1.0" encoding="UTF-16"?>` + wrap(""), wrap("\xff"),
	} {
		if _, err := ParseLogo([]byte(svg)); err == nil {
			t.Errorf("taken: %s", svg)
		}
	}
}

func FuzzLogo(f *testing.F) {
	f.Add([]byte(goodSVG))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := ParseLogo(data)
		if err == nil && l.ending == ".svg" && bytes.Contains(bytes.ToLower(data), []byte("<script")) && !bytes.Contains(data, []byte("<!--")) && !bytes.Contains(data, []byte("CDATA")) {
			t.Errorf("taken: %q", data)
		}
	})
}
