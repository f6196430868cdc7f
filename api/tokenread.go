package api

import (
	"strings"
	"unicode/utf8"
)

// maxPlain is how long a plain body may be. Most have 200 to 400 bytes.
const maxPlain = 2 << 10

// readTokenBody reads the body of a token request. Plain ones, which is nearly all, are read by plainToken; everything else, right or wrong, by
// decode, which alone refuses.
func readTokenBody(text []byte) (tokenBody, error) {
	if body, ok := plainToken(text); ok {
		return body, nil
	}
	var body tokenBody
	err := decode(text, &body)
	return body, err
}

// plainToken reads a body that is plain throughout: an object of known names, each at most once, whose values have the expected types, with
// no escape in any text. It accepts nothing that decode refuses, and reads it to the same values (FuzzPlainToken); it does so in one pass
// and by one allocation for all texts, and one for scopes. false: decode must look at it.
func plainToken(text []byte) (tokenBody, bool) {
	// All texts share one allocation, so whoever keeps one keeps all: they must not be large.
	if len(text) > maxPlain || !utf8.Valid(text) {
		return tokenBody{}, false
	}
	p := plainText{text: string(text), ok: true}
	var body tokenBody
	seen := 0
	p.object(func(name string) {
		bit := 0
		switch name {
		case "connector":
			bit, body.Connector = 1, p.string()
		case "subject":
			bit, body.Subject = 2, p.string()
		case "scopes":
			bit, body.Scopes.names = 4, p.scopes()
		case "connection":
			bit, body.Connection = 8, p.string()
		case "min_ttl":
			seconds := p.integer()
			bit, body.MinTTL = 16, &seconds
		case "actor":
			bit, body.Actor = 32, p.actor()
		case "reason":
			bit, body.Reason = 64, p.string()
		case "return_to":
			bit, body.ReturnTo = 128, p.string()
		case "state":
			bit, body.State = 256, p.string()
		}
		p.once(&seen, bit)
	})
	p.space()
	return body, p.ok && p.at == len(p.text)
}

// plainText goes through a text. What it meets that is not plain makes ok false, and then its results mean nothing.
type plainText struct {
	text string
	at   int
	ok   bool
}

// once demands that bit is a known name's, and new.
func (p *plainText) once(seen *int, bit int) {
	p.ok = p.ok && bit != 0 && *seen&bit == 0
	*seen |= bit
}

func (p *plainText) space() {
	for p.at < len(p.text) {
		switch p.text[p.at] {
		case ' ', '\t', '\n', '\r':
			p.at++
		default:
			return
		}
	}
}

// take passes over c, and space before it; false: something else is there.
func (p *plainText) take(c byte) bool {
	p.space()
	if p.at < len(p.text) && p.text[p.at] == c {
		p.at++
		return true
	}
	return false
}

func (p *plainText) expect(c byte) { p.ok = p.take(c) && p.ok }

// object calls member for each name, behind its colon. It must read the value.
func (p *plainText) object(member func(name string)) {
	p.expect('{')
	if p.take('}') {
		return
	}
	for p.ok {
		name := p.string()
		p.expect(':')
		member(name)
		if !p.take(',') {
			p.expect('}')
			return
		}
	}
}

// string reads one without escapes; it is part of the whole text.
func (p *plainText) string() string {
	p.expect('"')
	for i := p.at; p.ok && i < len(p.text); i++ {
		switch c := p.text[i]; {
		case c == '"':
			s := p.text[p.at:i]
			p.at = i + 1
			return s
		case c == '\\' || c < ' ':
			p.ok = false
		}
	}
	p.ok = false
	return ""
}

// integer reads one of at most nine digits: min_ttl is a day at most, and others are for decode.
func (p *plainText) integer() int64 {
	p.space()
	n, from := int64(0), p.at
	for ; p.at < len(p.text) && '0' <= p.text[p.at] && p.text[p.at] <= '9'; p.at++ {
		if p.at-from == 9 {
			p.ok = false
			return 0
		}
		n = n*10 + int64(p.text[p.at]-'0')
	}
	digits := p.at - from
	p.ok = p.ok && digits > 0 && (digits == 1 || p.text[from] != '0')
	return n
}

// scopes reads either form of scopeList.
func (p *plainText) scopes() []string {
	p.space()
	if p.at < len(p.text) && p.text[p.at] == '"' {
		return splitScopes(p.string())
	}
	p.expect('[')
	if p.take(']') {
		return nil
	}
	// Rarely more than that; maxScopes is for who asks.
	names := make([]string, 0, 4)
	for p.ok {
		names = append(names, p.string())
		if !p.take(',') {
			p.expect(']')
			break
		}
	}
	return names
}

// splitScopes reads the space-separated list of RFC 6749 section 3.3.
func splitScopes(list string) (names []string) {
	for name := range strings.SplitSeq(list, " ") {
		if name != "" {
			names = append(names, name)
		}
	}
	return names
}

func (p *plainText) actor() actorBody {
	var actor actorBody
	seen := 0
	p.object(func(name string) {
		bit := 0
		switch name {
		case "agent":
			bit, actor.Agent = 1, p.string()
		case "run":
			bit, actor.Run = 2, p.string()
		case "tool":
			bit, actor.Tool = 4, p.string()
		}
		p.once(&seen, bit)
	})
	return actor
}
