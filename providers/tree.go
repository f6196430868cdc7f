package providers

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"tokenbroker/broker"
)

// maxDepth of a JSON answer; deeper is cut off.
const maxDepth = 32

// tree is a provider's answer. Keys are compared exactly, unlike in encoding/json's structs; of repeated keys the last
// that is not empty counts. cut: the rest of it could not be read, what came before counts.
type tree struct {
	root map[string]any
	raw  []byte
	cut  bool
}

func jsonTree(body []byte) tree {
	body = unwrapped(body)
	if len(body) == 0 || body[0] != '{' {
		return tree{cut: true}
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	value, whole := readValue(dec, int64(len(body)), 0)
	root, _ := value.(map[string]any)
	return tree{root: root, raw: body, cut: !whole}
}

// readValue reads as far as it can: an answer that ends in the middle still gives what it had said.
func readValue(dec *json.Decoder, end int64, depth int) (any, bool) {
	tok, err := dec.Token()
	if err != nil || depth > maxDepth {
		return nil, false
	}
	if _, number := tok.(json.Number); number && dec.InputOffset() == end {
		return nil, false // more digits may have been to come
	}
	switch tok {
	case json.Delim('{'):
		m := map[string]any{}
		for dec.More() {
			name, err := dec.Token()
			key, ok := name.(string)
			if err != nil || !ok {
				return m, false
			}
			value, whole := readValue(dec, end, depth+1)
			if _, had := m[key]; value != nil && value != "" || !had {
				m[key] = value
			}
			if !whole {
				return m, false
			}
		}
		_, err := dec.Token()
		return m, err == nil
	case json.Delim('['):
		list := []any{}
		for dec.More() {
			value, whole := readValue(dec, end, depth+1)
			if list = append(list, value); !whole {
				return list, false
			}
		}
		_, err := dec.Token()
		return list, err == nil
	}
	return tok, true
}

// listTree reads an answer that may be an array: it is at items then.
func listTree(body []byte) tree {
	body = unwrapped(body)
	if len(body) == 0 || body[0] != '[' {
		return jsonTree(body)
	}
	return jsonTree(slices.Concat([]byte(`{"items":`), body, []byte("}")))
}

// at returns the value at the path, nil where there is none or it is null.
func (t tree) at(path string) any {
	for _, alternative := range strings.Split(path, "|") {
		if alternative == "none" {
			continue
		}
		if value := descend(t.root, strings.Split(alternative, ".")); value != nil && value != "" {
			return value
		}
	}
	return nil
}

// descend follows keys of objects and numbers of arrays, from 0 on; * is every element, joined by commas.
func descend(value any, keys []string) any {
	for i, key := range keys {
		switch v := value.(type) {
		case map[string]any:
			value = v[key]
		case []any:
			if key == "*" {
				var all []string
				for _, item := range v {
					if text, ok := scalar(descend(item, keys[i+1:])); ok {
						all = append(all, text)
					}
				}
				return strings.Join(all, ",")
			}
			n, err := strconv.Atoi(key)
			if err != nil || n < 0 || n >= len(v) {
				return nil
			}
			value = v[n]
		default:
			return nil
		}
	}
	return value
}

// text is the string, number or boolean at the path; "" where there is none. "a+b" joins values that must all be there.
func (t tree) text(path string) string {
	for _, alternative := range strings.Split(path, "|") {
		var parts []string
		for _, part := range strings.Split(alternative, "+") {
			text, ok := scalar(t.at(part))
			if !ok {
				parts = nil
				break
			}
			parts = append(parts, text)
		}
		if len(parts) > 0 {
			return strings.Join(parts, ":")
		}
	}
	return ""
}

// words is text for what people read: "a+b" joins those values that are there by a space.
func (t tree) words(path string) string {
	for _, alternative := range strings.Split(path, "|") {
		var words []string
		for _, part := range strings.Split(alternative, "+") {
			if text, ok := scalar(t.at(part)); ok && strings.TrimSpace(text) != "" {
				words = append(words, strings.TrimSpace(text))
			}
		}
		if len(words) > 0 {
			return strings.Join(words, " ")
		}
	}
	return ""
}

// secret is the token at the path. Where the answer could not be read to its end it is looked for in the rest as well:
// what makes an answer odd must not cost a refresh token.
func (t tree) secret(path string) string {
	switch v := t.at(path).(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	}
	if !t.cut {
		return ""
	}
	for _, alternative := range strings.Split(path, "|") {
		if found := fragment(t.raw, alternative); found != "" {
			return found
		}
	}
	return ""
}

func (t tree) account(paths AccountPaths) broker.Account {
	a := broker.Account{Name: printable(t.words(paths.Name)), Email: printable(t.text(paths.Email))}
	// An id is compared: it is taken as it is or not at all.
	if id := t.text(paths.ID); len(id) <= 512 && utf8.ValidString(id) && strings.IndexFunc(id, unicode.IsControl) < 0 {
		a.ID = id
	}
	return a
}

func (t tree) extras(into map[string]string, list []Extra) map[string]string {
	for _, x := range list {
		if value := t.text(x.Path); x.accepts(value) {
			into = set(into, x.Name, value)
		}
	}
	return into
}

func (x Extra) accepts(value string) bool {
	return value != "" && len(value) <= maxExtra && utf8.ValidString(value) && (x.Pattern == "" || matchesWhole(x.Pattern, value))
}

// scalar gives strings, numbers and booleans as text. Numbers keep their digits.
func scalar(value any) (string, bool) {
	switch v := value.(type) {
	case string:
		return v, v != ""
	case json.Number:
		return v.String(), true
	case bool:
		if v {
			return "true", true
		}
		return "false", true
	}
	return "", false
}

// printable drops what does not print (control characters, marks that turn the direction of text) and cuts at 200
// characters: names are shown to people.
func printable(s string) string {
	var b strings.Builder
	n := 0
	for _, r := range s {
		if unicode.IsPrint(r) && r != utf8.RuneError && n < 200 {
			b.WriteRune(r)
			n++
		}
	}
	return strings.TrimSpace(b.String())
}
