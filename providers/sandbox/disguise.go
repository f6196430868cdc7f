package sandbox

import (
	"encoding/json"
	"net/url"
	"strings"
)

// disguises are what KindDisguise does to a JSON answer: the new body, and what it is called.
var disguises = map[string]func(body string) (disguised, contentType string){
	"html":        func(body string) (string, string) { return body, "text/html; charset=utf-8" },
	"text":        func(body string) (string, string) { return body, "text/plain" },
	"mislabelled": func(body string) (string, string) { return body, "application/x-www-form-urlencoded" },
	"form":        func(body string) (string, string) { return asForm(body), "application/json" },
	"guarded":     func(body string) (string, string) { return ")]}'\n" + body, "application/json" },
	"bom":         func(body string) (string, string) { return "\ufeff" + body, "application/json" },
	"array":       func(body string) (string, string) { return "[" + body + "]", "application/json" },
	"trailing":    func(body string) (string, string) { return body + "\n<!-- served by node 7 -->", "application/json" },
	"repeated": func(body string) (string, string) {
		return strings.TrimSuffix(body, "}") + `,"access_token":"","refresh_token":null}`, "application/json"
	},
	"long": func(body string) (string, string) {
		return strings.TrimSuffix(body, "}") + `,"padding":"` + strings.Repeat("x", 1<<20) + `"}`, "application/json"
	},
	"dpop": func(body string) (string, string) { return body, "application/json" },
}

// disguise changes what the answer is called and its status, and returns the body as it then is.
func disguise(answer *buffered, f Fault, body []byte) []byte {
	answer.status = f.Status
	change, ok := disguises[f.Value]
	if !ok {
		return body
	}
	text, contentType := change(string(body))
	answer.header.Set("Content-Type", contentType)
	return []byte(text)
}

// asForm has the values of a flat JSON object as a form.
func asForm(body string) string {
	var fields map[string]any
	d := json.NewDecoder(strings.NewReader(body))
	d.UseNumber()
	if err := d.Decode(&fields); err != nil {
		return body
	}
	form := url.Values{}
	for name, value := range fields {
		switch v := value.(type) {
		case string:
			form.Set(name, v)
		case json.Number:
			form.Set(name, v.String())
		}
	}
	return form.Encode()
}
