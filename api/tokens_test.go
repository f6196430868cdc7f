package api

import (
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
)

func sampleToken() broker.Token {
	return broker.Token{
		AccessToken: broker.NewSecret("at-CANARY"), ExpiresAt: testTime.Add(time.Hour), ExpiresIn: time.Hour - time.Millisecond,
		Scopes: broker.NewScopeSet("files.write", "files.read"), Connector: "files", Connection: "c1",
		Account: broker.Account{ID: "1007", Name: "Ada", Email: "ada@example.com"},
	}
}

func TestIssueToken(t *testing.T) {
	b := newBench(t)
	var got broker.TokenRequest
	b.service.issueToken = func(r broker.TokenRequest) (broker.Token, error) { got = r; return sampleToken(), nil }

	r := b.call("POST", "/v1/tokens", `{"connector":"files","subject":"u"}`)
	want := map[string]any{
		"access_token": "at-CANARY", "token_type": "Bearer", "expires_in": 3599.0, "expires_at": "2026-11-24T12:00:00.123Z",
		"scope": "files.read files.write", "connector": "files", "connection": "c1",
		"account": map[string]any{"id": "1007", "name": "Ada", "email": "ada@example.com"}, "extra": map[string]any{},
	}
	if r.status != http.StatusOK || !reflect.DeepEqual(r.object, want) {
		t.Errorf("answer is %d %v, want %v", r.status, r.object, want)
	}
	if !reflect.DeepEqual(got, broker.TokenRequest{Connector: "files", Subject: "u", Scopes: broker.NewScopeSet()}) {
		t.Errorf("the least request became %+v", got)
	}
	caller := b.service.lastCaller()
	if caller.Client.ID != "acme-chat" || caller.Client.Tenant != "acme" || caller.RequestID != r.header.Get("Request-Id") {
		t.Errorf("caller is %+v", caller)
	}

	r = b.call("POST", "/v1/tokens", `{"connector":"files","subject":"a{b}/ü😀","scopes":["w","r","w"],"connection":"c-1_x","min_ttl":0,
		"actor":{"agent":"a","run":"r","tool":"t"},"reason":"why","return_to":"http://127.0.0.1/x?y=1","state":"s"}`)
	zero := time.Duration(0)
	wantReq := broker.TokenRequest{
		Connector: "files", Subject: "a{b}/ü😀", Scopes: broker.NewScopeSet("r", "w"), Connection: "c-1_x", MinTTL: &zero,
		Actor: broker.Actor{Agent: "a", Run: "r", Tool: "t"}, Reason: "why", ReturnTo: "http://127.0.0.1/x?y=1", State: "s",
	}
	if r.status != http.StatusOK || !reflect.DeepEqual(got, wantReq) {
		t.Errorf("answer %d; the full request became %+v", r.status, got)
	}

	// What is null or an empty text is left out; a space-separated list is understood.
	b.call("POST", "/v1/tokens", `{"connector":"files","subject":"u","scopes":"r w","connection":null,"min_ttl":86400,"actor":null,"reason":"","state":null}`)
	day := 24 * time.Hour
	wantReq = broker.TokenRequest{Connector: "files", Subject: "u", Scopes: broker.NewScopeSet("r", "w"), MinTTL: &day}
	if !reflect.DeepEqual(got, wantReq) {
		t.Errorf("the lenient request became %+v", got)
	}
}

func TestIssueTokenOptionalFields(t *testing.T) {
	b := newBench(t)
	b.service.issueToken = func(broker.TokenRequest) (broker.Token, error) {
		token := sampleToken()
		token.Degraded, token.Extra, token.ExpiresIn = true, map[string]string{"instance_url": "https://x.example"}, -time.Second
		token.Account.Name = "bad \xff utf-8"
		return token, nil
	}
	r := b.call("POST", "/v1/tokens", `{"connector":"files","subject":"u"}`)
	if r.status != 200 || r.object["degraded"] != true || r.object["expires_in"] != 0.0 ||
		r.object["extra"].(map[string]any)["instance_url"] != "https://x.example" {
		t.Errorf("answer is %d %s", r.status, r.text)
	}
}

// Every field that a request can get wrong, over both calls that share them.
func TestBadFields(t *testing.T) {
	b := newBench(t)
	for name, row := range map[string]struct {
		fields string // beside a good connector and subject, or instead of one that it names itself
		code   broker.Code
		says   string
	}{
		"connector empty":       {`"connector":""`, broker.CodeInvalidRequest, "connector is missing"},
		"connector null":        {`"connector":null`, broker.CodeInvalidRequest, "connector is missing"},
		"connector odd":         {`"connector":"a/b"`, broker.CodeInvalidRequest, "connector must"},
		"connector long":        {`"connector":"` + strings.Repeat("x", 129) + `"`, broker.CodeInvalidRequest, "connector must"},
		"connector number":      {`"connector":7`, broker.CodeInvalidRequest, "connector must be a string"},
		"subject empty":         {`"subject":""`, broker.CodeInvalidRequest, "subject is missing"},
		"subject NUL":           {`"subject":"a\u0000b"`, broker.CodeInvalidRequest, "subject must"},
		"subject CRLF":          {`"subject":"a\r\nb"`, broker.CodeInvalidRequest, "subject must"},
		"subject DEL":           {"\"subject\":\"a\x7fb\"", broker.CodeInvalidRequest, "subject must"},
		"subject C1":            {`"subject":"a\u0085b"`, broker.CodeInvalidRequest, "subject must"},
		"subject 257":           {`"subject":"` + strings.Repeat("x", 257) + `"`, broker.CodeInvalidRequest, "subject must"},
		"subject 10 kB":         {`"subject":"` + strings.Repeat("x", 10<<10) + `"`, broker.CodeInvalidRequest, "subject must"},
		"subject wide":          {`"subject":"` + strings.Repeat("ü", 129) + `"`, broker.CodeInvalidRequest, "subject must"},
		"connection odd":        {`"connection":"../x"`, broker.CodeInvalidRequest, "connection must"},
		"scopes number":         {`"scopes":7`, broker.CodeInvalidRequest, "scopes must be an array"},
		"scopes object":         {`"scopes":{}`, broker.CodeInvalidRequest, "scopes must be an array"},
		"scopes mixed":          {`"scopes":["a",7]`, broker.CodeInvalidRequest, "scopes.1 must be a string"},
		"scope empty":           {`"scopes":[""]`, broker.CodeInvalidScope, "scopes must"},
		"scope null":            {`"scopes":[null]`, broker.CodeInvalidScope, "scopes must"},
		"scope with space":      {`"scopes":["a b"]`, broker.CodeInvalidScope, "scopes must"},
		"scope with quote":      {`"scopes":["a\"b"]`, broker.CodeInvalidScope, "scopes must"},
		"scope with backslash":  {`"scopes":["a\\b"]`, broker.CodeInvalidScope, "scopes must"},
		"scope not ASCII":       {`"scopes":["ü"]`, broker.CodeInvalidScope, "scopes must"},
		"scope list with tab":   {`"scopes":"a\tb"`, broker.CodeInvalidScope, "scopes must"},
		"too many scopes":       {`"scopes":[` + strings.Repeat(`"a",`, 256) + `"a"]`, broker.CodeInvalidRequest, "scopes may"},
		"min_ttl negative":      {`"min_ttl":-1`, broker.CodeInvalidRequest, "min_ttl must"},
		"min_ttl a day and 1 s": {`"min_ttl":86401`, broker.CodeInvalidRequest, "min_ttl must"},
		"min_ttl fraction":      {`"min_ttl":1.5`, broker.CodeInvalidRequest, "min_ttl must be an integer"},
		"min_ttl text":          {`"min_ttl":"60"`, broker.CodeInvalidRequest, "min_ttl must be an integer"},
		"min_ttl huge":          {`"min_ttl":99999999999999999999`, broker.CodeInvalidRequest, "min_ttl must be an integer"},
		"actor text":            {`"actor":"me"`, broker.CodeInvalidRequest, "actor must be an object"},
		"actor unknown":         {`"actor":{"user":"x"}`, broker.CodeInvalidRequest, "field user is unknown"},
		"actor number":          {`"actor":{"run":7}`, broker.CodeInvalidRequest, "actor.run must be a string"},
		"actor control":         {`"actor":{"run":"a\nb"}`, broker.CodeInvalidRequest, "actor.run must"},
		"actor long":            {`"actor":{"tool":"` + strings.Repeat("x", 257) + `"}`, broker.CodeInvalidRequest, "actor.tool must"},
		"reason long":           {`"reason":"` + strings.Repeat("x", 513) + `"`, broker.CodeInvalidRequest, "reason must"},
		"reason control":        {`"reason":"a\u001bb"`, broker.CodeInvalidRequest, "reason must"},
		"return_to CRLF":        {`"return_to":"http://x/\r\nSet-Cookie: a=b"`, broker.CodeInvalidRequest, "return_to must"},
		"state long":            {`"state":"` + strings.Repeat("x", 1025) + `"`, broker.CodeInvalidRequest, "state must"},
		"state NUL":             {`"state":"\u0000"`, broker.CodeInvalidRequest, "state must"},
	} {
		t.Run(name, func(t *testing.T) {
			body := row.fields
			for field, value := range map[string]string{"connector": "files", "subject": "u"} {
				if !strings.HasPrefix(body, `"`+field+`"`) {
					body += `,"` + field + `":"` + value + `"`
				}
			}
			for _, path := range []string{"/v1/tokens", "/v1/consents"} {
				if path == "/v1/consents" && (strings.HasPrefix(name, "min_ttl") || strings.HasPrefix(name, "reason")) {
					continue
				}
				r := b.call("POST", path, "{"+body+"}")
				r.refused(t, http.StatusBadRequest, row.code)
				if !strings.Contains(r.text, row.says) {
					t.Errorf("%s: %s does not say %q", path, r.text, row.says)
				}
			}
		})
	}
	if n := b.service.calls(); n != 0 {
		t.Errorf("the service was called %d times", n)
	}
}

// A token of the tenant's own has no subject; every other request needs one, also about a connector that there is not.
func TestTokenWithoutSubject(t *testing.T) {
	b := newBench(t)
	var got broker.TokenRequest
	b.service.issueToken = func(r broker.TokenRequest) (broker.Token, error) {
		got = r
		return broker.Token{AccessToken: broker.NewSecret("at"), Connector: r.Connector, Connection: "c1", ExpiresAt: testTime}, nil
	}
	for _, body := range []string{`{"connector":"robot","scopes":["r"]}`, `{"connector":"robot","subject":"","scopes":["r"]}`} {
		got = broker.TokenRequest{}
		if r := b.call("POST", "/v1/tokens", body); r.status != 200 || got.Connector != "robot" || got.Subject != "" || !got.Scopes.Has("r") {
			t.Errorf("answer is %d %s for %+v", r.status, r.text, got)
		}
	}
	calls := b.service.calls()
	for _, body := range []string{`{"connector":"files"}`, `{"connector":"files","subject":""}`, `{"connector":"nothing"}`, `{}`, `{"connector":"robot","connection":"a b"}`} {
		b.call("POST", "/v1/tokens", body).refused(t, http.StatusBadRequest, broker.CodeInvalidRequest)
	}
	for _, body := range []string{`{"connector":"robot"}`} {
		b.call("POST", "/v1/consents", body).refused(t, http.StatusBadRequest, broker.CodeInvalidRequest)
	}
	if n := b.service.calls(); n != calls {
		t.Errorf("the service was called %d times", n-calls)
	}
}

func TestTokensHasNoGet(t *testing.T) {
	b := newBench(t)
	for _, method := range []string{"GET", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "BREW"} {
		r := b.call(method, "/v1/tokens", "")
		r.refused(t, http.StatusMethodNotAllowed, broker.CodeInvalidRequest)
		if allow := r.header.Get("Allow"); allow != "POST" {
			t.Errorf("%s: Allow is %q", method, allow)
		}
	}
	r := b.call("POST", "/v1/connections/c1", `{}`)
	if allow := r.header.Get("Allow"); r.status != http.StatusMethodNotAllowed || allow != "DELETE, GET" {
		t.Errorf("answer is %d, Allow %q", r.status, allow)
	}
}
