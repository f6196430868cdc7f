package api

import (
	"maps"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"tokenbroker/broker"
)

// appendToken writes the answer that encode(tokenAnswer) writes, to the byte (FuzzAppendToken), without looking at types. false: it must be
// encode, as a name of Extra is no valid UTF-8: two such names may become one.
func appendToken(to []byte, secret string, t broker.Token) ([]byte, bool) {
	to = appendText(append(to, `{"access_token":`...), secret)
	to = append(to, `,"token_type":"Bearer","expires_in":`...)
	to = strconv.AppendInt(to, wholeSeconds(t.ExpiresIn), 10)
	to = t.ExpiresAt.UTC().AppendFormat(append(to, `,"expires_at":"`...), stampLayout)
	to = append(to, `","scope":"`...)
	for i, scope := range t.Scopes.All() {
		if !plainASCII(scope) {
			return nil, false
		}
		if i > 0 {
			to = append(to, ' ')
		}
		to = append(to, scope...)
	}
	to = appendText(append(to, `","connector":`...), t.Connector)
	to = appendText(append(to, `,"connection":`...), t.Connection)
	to = appendText(append(to, `,"account":{"id":`...), t.Account.ID)
	to = appendText(append(to, `,"name":`...), t.Account.Name)
	to = appendText(append(to, `,"email":`...), t.Account.Email)
	to = append(to, `},"extra":{`...)
	for i, name := range extraNames(t.Extra) {
		if !utf8.ValidString(name) {
			return nil, false
		}
		if i > 0 {
			to = append(to, ',')
		}
		to = appendText(appendText(to, name, ':'), t.Extra[name])
	}
	to = append(to, '}')
	if t.Degraded {
		to = append(to, `,"degraded":true`...)
	}
	return append(to, '}'), true
}

// extraNames sorts them; most providers have none or one.
func extraNames(extra map[string]string) []string {
	switch len(extra) {
	case 0:
		return nil
	case 1:
		for name := range extra {
			return []string{name}
		}
	}
	return slices.Sorted(maps.Keys(extra))
}

// appendText writes a string as the JSON library does, and what follows it. What is no valid UTF-8 becomes U+FFFD.
func appendText(to []byte, s string, behind ...byte) []byte {
	if plainASCII(s) {
		to = append(append(append(to, '"'), s...), '"')
	} else {
		to, _ = jsontext.AppendQuote(to, s) // the error says no more than that something was not valid
	}
	return append(to, behind...)
}

// plainASCII tells that nothing in s needs to be looked at in JSON.
func plainASCII(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= 0x7f {
			return false
		}
	}
	return true
}
