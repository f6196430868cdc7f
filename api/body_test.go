package api

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
)

const goodBody = `{"connector":"files","subject":"u"}`

// Threat 49: what another parser might read differently is refused.
func TestSmuggledJSON(t *testing.T) {
	b := newBench(t)
	for name, body := range map[string]string{
		"repeated name":              `{"connector":"files","subject":"u","subject":"v"}`,
		"repeated name, escaped":     `{"connector":"files","subject":"u","\u0073ubject":"v"}`,
		"repeated unknown name":      `{"connector":"files","subject":"u","CANARY1":1,"CANARY1":2}`,
		"repeated name in actor":     `{"connector":"files","subject":"u","actor":{"run":"a","run":"b"}}`,
		"name in capitals":           `{"connector":"files","Subject":"u"}`,
		"name in capitals beside it": `{"connector":"files","subject":"u","SUBJECT":"v"}`,
		"name with a Kelvin sign":    `{"connector":"files","subject":"u","to` + "\u212a" + `en":"v"}`,
		"unknown name":               `{"connector":"files","subject":"u","tenant":"other"}`,
		"unknown name, a secret":     `{"connector":"files","subject":"u","tbk_CANARY_1":1}`,
		"prototype":                  `{"connector":"files","subject":"u","__proto__":{}}`,
		"second object":              goodBody + goodBody,
		"second object, new line":    goodBody + "\n" + goodBody,
		"trailing text":              goodBody + "x",
		"trailing NUL":               goodBody + "\x00",
		"trailing bracket":           goodBody + "}",
		"trailing comma":             `{"connector":"files","subject":"u",}`,
		"comment":                    `{"connector":"files",/* x */"subject":"u"}`,
		"single quotes":              `{'connector':'files','subject':'u'}`,
		"no quotes":                  `{connector:"files",subject:"u"}`,
		"byte order mark":            "\ufeff" + goodBody,
		"UTF-16":                     "\xff\xfe{\x00}\x00",
		"invalid UTF-8":              "{\"connector\":\"files\",\"subject\":\"\xff\"}",
		"overlong UTF-8":             "{\"connector\":\"files\",\"subject\":\"\xc0\xaf\"}",
		"lone surrogate":             `{"connector":"files","subject":"\ud800"}`,
		"raw control":                "{\"connector\":\"files\",\"subject\":\"a\nb\"}",
		"NaN":                        `{"connector":"files","subject":"u","min_ttl":NaN}`,
		"hex":                        `{"connector":"files","subject":"u","min_ttl":0x10}`,
		"leading zero":               `{"connector":"files","subject":"u","min_ttl":060}`,
		"array":                      `[` + goodBody + `]`,
		"text":                       `"connector"`,
		"null":                       `null`,
		"number":                     `7`,
		"half":                       `{"connector":"files","sub`,
		"blank":                      " \n",
		"deep array":                 `{"connector":"files","subject":"u","scopes":` + strings.Repeat("[", 17) + strings.Repeat("]", 17) + `}`,
		"very deep":                  strings.Repeat(`{"actor":`, 5000),
		"deep where unknown":         `{"x":` + strings.Repeat("[", 30000) + strings.Repeat("]", 30000) + `}`,
		"form in disguise":           `connector=files&subject=u`,
	} {
		t.Run(name, func(t *testing.T) {
			r := b.call("POST", "/v1/tokens", body)
			r.refused(t, http.StatusBadRequest, broker.CodeInvalidRequest)
			if strings.Contains(r.text, "CANARY") {
				t.Errorf("the answer repeats what was sent: %s", r.text)
			}
		})
	}
	b.call("POST", "/v1/tokens", "", "Content-Type", "application/json").refused(t, 400, broker.CodeInvalidRequest)
	if n := b.service.calls(); n != 0 {
		t.Errorf("the service was called %d times", n)
	}
}

func TestMessagesSayWhatToDo(t *testing.T) {
	for body, says := range map[string]string{
		``:                             "the body is empty; send a JSON object",
		`[]`:                           "must be one JSON object",
		`{"a":1} {}`:                   "goes on after its JSON object",
		`{"subject":1,"subject":2}`:    "field subject is there more than once",
		`{"conector":"files"}`:         "field conector is unknown; known are connector, subject, scopes",
		`{"x1":"files"}`:               "field (not shown) is unknown",
		`{"subject":["a"]}`:            "field subject must be a string",
		`{"actor":{"run":{}}}`:         "field actor.run must be a string",
		`{"actor":[]}`:                 "field actor must be an object",
		`{"subject":"a`:                "not valid JSON in UTF-8, from about byte",
		strings.Repeat(`{"a":`, 20000): "nested deeper than 16 levels",
	} {
		var body2 tokenBody
		err := decode([]byte(body), &body2)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%.40q: %v does not say %q", body, err, says)
		}
	}
	var c completeBody
	if err := decode([]byte(`{"replace":1}`), &c); err == nil || !strings.Contains(err.Error(), "replace must be true or false") {
		t.Error(err)
	}
}

func TestContentType(t *testing.T) {
	b := newBench(t)
	b.service.issueToken = func(broker.TokenRequest) (broker.Token, error) { return sampleToken(), nil }
	for _, good := range []string{"application/json", "Application/JSON", "application/json; charset=utf-8", "application/json;charset=UTF-8", `application/json; charset="utf-8"`} {
		if r := b.call("POST", "/v1/tokens", goodBody, "Content-Type", good); r.status != 200 {
			t.Errorf("%s: %d %s", good, r.status, r.text)
		}
	}
	calls := b.service.calls()
	for _, bad := range []string{"", "text/plain", "text/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/json; charset=utf-16",
		"application/json; charset=iso-8859-1", "application/json; x=y", "application/json, text/plain", "application/problem+json", "application/json;", "json", "*/*", "application/jsonx"} {
		r := b.call("POST", "/v1/tokens", goodBody, "Content-Type", bad)
		if bad == "application/json;" { // an empty parameter is allowed by RFC 9110 section 5.6.6
			if r.status != 200 {
				t.Errorf("%s: %d", bad, r.status)
			}
			calls = b.service.calls()
			continue
		}
		r.refused(t, http.StatusUnsupportedMediaType, broker.CodeInvalidRequest)
	}
	for _, coding := range []string{"gzip", "deflate", "br", "identity, gzip"} {
		b.call("POST", "/v1/tokens", goodBody, "Content-Encoding", coding).refused(t, http.StatusUnsupportedMediaType, broker.CodeInvalidRequest)
	}
	r := b.raw("POST /v1/tokens HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + acmeKey +
		"\r\nContent-Type: application/json\r\nContent-Type: text/plain\r\nContent-Length: 35\r\n\r\n" + goodBody)
	r.refused(t, http.StatusUnsupportedMediaType, broker.CodeInvalidRequest)
	if b.service.calls() != calls {
		t.Error("the service was called with a wrong content type")
	}
}

func TestBodySize(t *testing.T) {
	b := newBench(t)
	b.service.issueToken = func(broker.TokenRequest) (broker.Token, error) { return sampleToken(), nil }
	filled := func(n int) string { return goodBody + strings.Repeat(" ", n-len(goodBody)) }
	if r := b.call("POST", "/v1/tokens", filled(64<<10)); r.status != 200 {
		t.Errorf("64 KiB: %d %s", r.status, r.text)
	}
	b.call("POST", "/v1/tokens", filled(64<<10+1)).refused(t, 413, broker.CodeInvalidRequest)
	head := "POST /v1/tokens HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + acmeKey + "\r\nContent-Type: application/json\r\n"
	// Refused by what it announces, before any of it is there.
	b.raw(head+"Content-Length: 1000000000000\r\n\r\n").refused(t, 413, broker.CodeInvalidRequest)
	big := filled(64<<10 + 1)
	r := b.raw(fmt.Sprintf("%sTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", head, len(big), big))
	r.refused(t, 413, broker.CodeInvalidRequest)
	if !r.closed {
		t.Error("the connection stays open behind half a body")
	}
	if n := b.service.calls(); n != 1 {
		t.Errorf("the service was called %d times, want 1", n)
	}
}

// A body that drips in ends by its own deadline; with it unread or unwanted too, and without one for the answer.
func TestSlowBody(t *testing.T) {
	b := newBench(t, func(c *Config) { c.BodyTimeout = 50 * time.Millisecond })
	const head = " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 35\r\nAuthorization: Bearer "
	b.raw("POST /v1/tokens"+head+acmeKey+"\r\n\r\n{").refused(t, 400, broker.CodeInvalidRequest)
	b.raw("POST /v1/tokens"+head+"wrong\r\n\r\n{").refused(t, 401, broker.CodeInvalidClient)
	b.raw("POST /v1/none"+head+acmeKey+"\r\n\r\n{").refused(t, 404, broker.CodeNotFound)
	b.raw("DELETE /v1/connections/c1"+head+acmeKey+"\r\n\r\n{").refused(t, 400, broker.CodeInvalidRequest)
	if b.service.calls() != 0 {
		t.Error("the service was called")
	}
	// The deadline ended with the body: an answer that takes longer is not cut off, and the connection serves again.
	b.service.issueToken = func(broker.TokenRequest) (broker.Token, error) {
		select {
		case <-b.service.ctx.Done():
			return broker.Token{}, b.service.ctx.Err()
		case <-time.After(150 * time.Millisecond): // three times the deadline: what is tested is that nothing happens meanwhile
			return sampleToken(), nil
		}
	}
	b.service.getConnection = func(string) (broker.Connection, error) { return sampleConnection(), nil }
	for range 2 {
		if r := b.call("POST", "/v1/tokens", goodBody); r.status != 200 {
			t.Errorf("answer is %d %s", r.status, r.text)
		}
		if r := b.call("GET", "/v1/connections/c1", ""); r.status != 200 {
			t.Errorf("answer is %d %s", r.status, r.text)
		}
	}
}

// A caller that goes away in the middle of its body reaches nothing.
func TestBodyThatEndsEarly(t *testing.T) {
	b := newBench(t)
	conn, err := net.Dial("tcp", b.server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, "POST /v1/tokens HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\nAuthorization: Bearer "+acmeKey+"\r\n\r\n"+goodBody)
	_ = conn.(*net.TCPConn).CloseWrite()
	defer conn.Close()
	eventually(t, "the request is logged", func() bool { return len(b.logs.lines(t, "request")) == 1 })
	if got := b.logs.lines(t, "request")[0]["status"]; got != 400.0 || b.service.calls() != 0 {
		t.Errorf("status %v, %d calls", got, b.service.calls())
	}
}

func TestNoBodyWhereNoneBelongs(t *testing.T) {
	b := newBench(t)
	b.service.disconnect = func(string) (broker.RevokedUpstream, error) { return broker.RevokedDone, nil }
	head := "DELETE /v1/connections/c1 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer " + acmeKey + "\r\n"
	if r := b.raw(head + "Content-Length: 0\r\n\r\n"); r.status != 200 {
		t.Errorf("empty: %d", r.status)
	}
	if r := b.raw(head + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"); r.status != 200 {
		t.Errorf("empty, chunked: %d", r.status)
	}
	b.raw(head+"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n\r\n").refused(t, 400, broker.CodeInvalidRequest)
	b.raw(head+"Content-Length: 2\r\n\r\n{}").refused(t, 400, broker.CodeInvalidRequest)
}
