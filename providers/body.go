package providers

import (
	"bytes"
	"encoding/json"
	"mime"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// This file reads token responses that are not what they say they are: a refresh token in one is not lost for that.

// readTree reads a body as what it looks like: JSON, in an array too, or a form (RFC 6749 section 5.1 asks for JSON; some do
// not care). What it says that it is decides only where it looks like neither.
func readTree(a answer) tree {
	body := unwrapped(a.body)
	switch kind, _, _ := mime.ParseMediaType(a.header.Get("Content-Type")); {
	case bytes.HasPrefix(body, []byte("{")):
		return jsonTree(body)
	case bytes.HasPrefix(body, []byte("[")):
		return jsonTree(bytes.TrimLeft(body, "[ \t\r\n"))
	case kind == "application/x-www-form-urlencoded" || looksLikeForm.Match(body):
		return formTree(body, a.broken != nil)
	}
	return tree{cut: true}
}

var (
	looksLikeForm = regexp.MustCompile(`^[A-Za-z0-9_.~%\[\]-]+=[^\s<>"]*$`)
	// What is put before JSON so that a page can't load it as a script.
	guards = [][]byte{[]byte(")]}',"), []byte(")]}'"), []byte(")]}"), []byte("while(1);"), []byte("for(;;);")}
)

// unwrapped takes off what stands around the value: white space, a byte order mark, a guard.
func unwrapped(body []byte) []byte {
	body = bytes.TrimSpace(bytes.TrimPrefix(bytes.TrimSpace(body), []byte("\xef\xbb\xbf")))
	for _, guard := range guards {
		if rest, ok := bytes.CutPrefix(body, guard); ok {
			return bytes.TrimSpace(rest)
		}
	}
	return body
}

// formTree reads a form. Of one that was cut short the last value may lack its end: it does not count.
func formTree(body []byte, cut bool) tree {
	if cut {
		body = body[:max(0, bytes.LastIndexByte(body, '&'))]
	}
	values, err := url.ParseQuery(string(body)) // what it could read comes back beside the error
	root := map[string]any{}
	for key, list := range values {
		for _, value := range list {
			if _, had := root[key]; value != "" || !had {
				root[key] = value
			}
		}
	}
	return tree{root: root, cut: cut || err != nil}
}

// fragment looks in JSON that can't be read to its end for the string at the path: whatever else is wrong there, strings and
// brackets tell where it lies. "" if it is not there. A number in the path is not understood.
func fragment(raw []byte, path string) string {
	want := strings.Split(path, ".")
	var around []string // the keys of the objects and arrays around, the outermost first, which has none
	key := ""           // the one whose value comes next
	for i := 0; i < len(raw); i++ {
		switch raw[i] {
		case '{', '[':
			around, key = append(around, key), ""
		case '}', ']':
			around, key = around[:max(0, len(around)-1)], ""
		case ',':
			key = ""
		case '"':
			end := i + 1
			for end < len(raw) && raw[end] != '"' {
				if raw[end] == '\\' {
					end++
				}
				end++
			}
			if end >= len(raw) {
				return "" // a value without its end is none
			}
			var text string
			readable := json.Unmarshal(raw[i:end+1], &text) == nil
			i = end
			if rest := bytes.TrimLeft(raw[end+1:], " \t\r\n"); bytes.HasPrefix(rest, []byte(":")) {
				key = text
				continue
			}
			if readable && text != "" && len(around) == len(want) && slices.Equal(around[1:], want[:len(want)-1]) && key == want[len(want)-1] {
				return text
			}
			key = ""
		}
	}
	return ""
}
