package web

import (
	"bytes"
	"encoding/binary"
	"encoding/xml"
	"errors"
	"fmt"
	"image/png"
	"io"
	"regexp"
	"slices"
	"strings"
)

const (
	// MaxLogo bounds a logo, in bytes: every user of the client loads it, some of them over a slow line.
	MaxLogo = 20 << 10
	// maxLogoSide bounds what a small file may unpack to, in pixels.
	maxLogoSide = 1024
)

// Logo is a picture that is shown beside a client's name. Make it with ParseLogo.
type Logo struct {
	data        []byte
	ending      string
	contentType string
}

// ParseLogo takes a PNG, a WebP or an SVG, told apart by what is in it. An SVG may draw, and nothing else. The error says what to do.
func ParseLogo(data []byte) (Logo, error) {
	l := Logo{data: data}
	if len(data) > MaxLogo {
		return Logo{}, fmt.Errorf("has %d bytes, more than the %d that a logo may have; make it smaller: 112 by 112 pixels are enough", len(data), MaxLogo)
	}
	var err error
	switch {
	case bytes.HasPrefix(data, []byte("\x89PNG\r\n\x1a\n")):
		l.ending, l.contentType = ".png", "image/png"
		err = checkPNG(data)
	case len(data) > 16 && string(data[:4]) == "RIFF" && string(data[8:12]) == "WEBP":
		l.ending, l.contentType = ".webp", "image/webp"
		err = checkWebP(data)
	case bytes.HasPrefix(bytes.TrimLeft(bytes.TrimPrefix(data, []byte("\ufeff")), " \t\r\n"), []byte("<")):
		l.ending, l.contentType = ".svg", "image/svg+xml"
		err = checkSVG(data)
	default:
		err = errors.New("is none of PNG, WebP and SVG, by its content")
	}
	if err != nil {
		return Logo{}, err
	}
	return l, nil
}

func checkSides(w, h int) error {
	if w <= 0 || h <= 0 || w > maxLogoSide || h > maxLogoSide {
		return fmt.Errorf("is %d by %d pixels; a logo has at most %d by %d", w, h, maxLogoSide, maxLogoSide)
	}
	return nil
}

func checkPNG(data []byte) error {
	c, err := png.DecodeConfig(bytes.NewReader(data))
	if err != nil {
		return errors.New("is a broken PNG; save it again")
	}
	return checkSides(c.Width, c.Height)
}

// checkWebP reads the sides from the first chunk (RFC 9649 sections 2.5 to 2.7); the standard library knows no WebP.
func checkWebP(data []byte) error {
	kind, chunk := string(data[12:16]), data[16:]
	switch {
	case kind == "VP8X" && len(chunk) >= 14: // size, flags, then the sides less one in 24 bits each
		return checkSides(1+int(uint32(chunk[8])|uint32(chunk[9])<<8|uint32(chunk[10])<<16), 1+int(uint32(chunk[11])|uint32(chunk[12])<<8|uint32(chunk[13])<<16))
	case kind == "VP8L" && len(chunk) >= 9 && chunk[4] == 0x2f:
		bits := binary.LittleEndian.Uint32(chunk[5:])
		return checkSides(1+int(bits&0x3fff), 1+int(bits>>14&0x3fff))
	case kind == "VP8 " && len(chunk) >= 14 && string(chunk[7:10]) == "\x9d\x01\x2a":
		return checkSides(int(binary.LittleEndian.Uint16(chunk[10:])&0x3fff), int(binary.LittleEndian.Uint16(chunk[12:])&0x3fff))
	}
	return errors.New("is a broken WebP; save it again")
}

// svgElements are what may be in an SVG: shapes, text, gradients and the like. Nothing that runs, loads or embeds is among them, and
// no animation, which could change an address after it was checked.
var svgElements = []string{
	"svg", "g", "path", "rect", "circle", "ellipse", "line", "polyline", "polygon", "text", "tspan", "textPath", "defs", "symbol", "use", "title", "desc",
	"linearGradient", "radialGradient", "stop", "clipPath", "mask", "pattern", "marker", "style",
	"filter", "feGaussianBlur", "feOffset", "feBlend", "feColorMatrix", "feComposite", "feFlood", "feMerge", "feMergeNode", "feDropShadow",
}

const svgNamespace = "http://www.w3.org/2000/svg"

var (
	svgReference = regexp.MustCompile(`(?i)url\s*\(\s*['"]?\s*([^)]?)`)
	// What styles can load, or hide from the eye of this check: escapes, imports, fonts, image sets.
	svgStyle = regexp.MustCompile(`(?i)\\|@import|@font-face|image-set|expression|-moz-binding|javascript:|src\s*\(`)
)

// checkSVG refuses whatever is not drawing. The browser would not run it either, in an img and under its policy; but what is not there
// can't be let in by a mistake.
func checkSVG(data []byte) error {
	d := xml.NewDecoder(bytes.NewReader(data))
	d.Strict = true
	var inStyle, rooted bool
	var style strings.Builder // whole: a comment in between takes apart what the browser reads as one
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return errors.New("is a broken SVG, or not in UTF-8; save it again as plain SVG")
		}
		switch token := token.(type) {
		case xml.Directive:
			return errors.New("is an SVG with a DOCTYPE or an entity; save it as plain SVG")
		case xml.ProcInst:
			if token.Target != "xml" {
				return fmt.Errorf("is an SVG with <?%s; remove that", token.Target)
			}
		case xml.StartElement:
			if token.Name.Space != svgNamespace || !slices.Contains(svgElements, token.Name.Local) {
				return fmt.Errorf("is an SVG with <%s>, which no logo needs and some of which could run; save it as plain SVG, or remove it", token.Name.Local)
			}
			if inStyle {
				return fmt.Errorf("is an SVG with <%s> in a style; save it as plain SVG", token.Name.Local)
			}
			if !rooted && token.Name.Local != "svg" {
				return errors.New("is XML, but no SVG")
			}
			rooted, inStyle = true, token.Name.Local == "style"
			for _, a := range token.Attr {
				if err := checkSVGAttribute(a); err != nil {
					return err
				}
			}
		case xml.EndElement:
			if inStyle {
				if err := checkSVGStyle(style.String()); err != nil {
					return err
				}
				style.Reset()
			}
			inStyle = false
		case xml.CharData:
			if inStyle {
				style.Write(token)
			}
		}
	}
	if !rooted {
		return errors.New("is XML, but no SVG")
	}
	return nil
}

func checkSVGAttribute(a xml.Attr) error {
	name := strings.ToLower(a.Name.Local)
	switch {
	case strings.HasPrefix(name, "on"):
		return fmt.Errorf("is an SVG with the event handler %s; remove it", a.Name.Local)
	case name == "href" || name == "src" || name == "base":
		if !strings.HasPrefix(a.Value, "#") {
			return fmt.Errorf("is an SVG with %s=%.40q; a logo refers to nothing outside itself: only to #ID", a.Name.Local, a.Value)
		}
	case a.Name.Space == "xmlns" || name == "xmlns":
		return nil // the name of a vocabulary, which nothing loads
	}
	return checkSVGStyle(a.Value)
}

// checkSVGStyle holds for whatever may be a style: attributes such as fill take url() too.
func checkSVGStyle(text string) error {
	if bad := svgStyle.FindString(text); bad != "" {
		return fmt.Errorf("is an SVG with %s in a style; a logo loads nothing: remove it", bad)
	}
	for _, m := range svgReference.FindAllStringSubmatch(text, -1) {
		if m[1] != "#" {
			return errors.New("is an SVG with url() of something outside itself; only url(#ID) is taken")
		}
	}
	return nil
}
