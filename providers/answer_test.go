package providers

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tokenbroker/broker"
)

// threats.md 46: every way to say how long a token lives, with and without a refresh token in the answer to a code.
func TestLifetimes(t *testing.T) {
	const never = -1
	for _, tt := range []struct {
		expires   string // raw JSON; "" leaves it out
		renewable time.Duration
		single    time.Duration // without a refresh token
	}{
		{`3600`, time.Hour, time.Hour},
		{`"3600"`, time.Hour, time.Hour},
		{`" 3600 "`, time.Hour, time.Hour},
		{`3599.9`, 3599 * time.Second, 3599 * time.Second},
		{`"3599.5"`, 3599 * time.Second, 3599 * time.Second},
		{`3.6e3`, time.Hour, time.Hour},
		{`5184000`, 60 * 24 * time.Hour, 60 * 24 * time.Hour},
		{`0`, shortLife, shortLife},
		{`0.4`, shortLife, shortLife},
		{`-5`, shortLife, shortLife},
		{`"soon"`, shortLife, shortLife},
		{`"NaN"`, shortLife, shortLife},
		{`true`, shortLife, shortLife},
		{`{"a":1}`, shortLife, never},
		{`""`, shortLife, never},
		{`null`, shortLife, never},
		{``, shortLife, never},
		{`1e30`, shortLife, never},
		{`1e400`, shortLife, never},
		{`99999999999999999999`, shortLife, never},
		{`315360000`, shortLife, never},
	} {
		for _, rt := range []bool{true, false} {
			want, body := tt.single, `{"access_token":"a"`
			if rt {
				want = tt.renewable
			}
			if tt.expires != "" {
				body += `,"expires_in":` + tt.expires
			}
			if rt {
				body += `,"refresh_token":"r"`
			}
			f := newFake(t)
			f.answers("/token", 200, body+"}")
			g, err := exchangeOnce(t, connect(t, setup{yaml: f.plain()}))
			if err != nil {
				t.Fatalf("expires_in %s: %v", tt.expires, err)
			}
			if want == never {
				if !g.Never || !g.ExpiresAt.IsZero() {
					t.Errorf("expires_in %s, refresh token %v: lifetime %v, want never", tt.expires, rt, g.Lifetime)
				}
				continue
			}
			if g.Never || g.Lifetime != want || !g.ExpiresAt.Equal(start.Add(want)) {
				t.Errorf("expires_in %s, refresh token %v: lifetime %v, never %v, want %v", tt.expires, rt, g.Lifetime, g.Never, want)
			}
			if (g.RefreshToken.Reveal() == "r") != rt {
				t.Errorf("expires_in %s: the refresh token is lost", tt.expires)
			}
		}
	}
}

func TestDefinitionSaysHowLongTokensLive(t *testing.T) {
	f := newFake(t)
	f.answers("/token", 200, `{"access_token":"a"}`)
	g, err := refreshOnce(t, connect(t, setup{yaml: f.plain("  access_token_ttl: 900")}))
	if err != nil || g.Lifetime != 15*time.Minute || g.Never {
		t.Errorf("lifetime %v, never %v, error %v", g.Lifetime, g.Never, err)
	}
}

// Expiry counts from the moment of sending, not of the answer.
func TestExpiryCountsFromSending(t *testing.T) {
	now := start
	f := newFake(t)
	f.mux.HandleFunc("/token", func(w http.ResponseWriter, _ *http.Request) {
		now = now.Add(20 * time.Second)
		_, _ = io.WriteString(w, `{"access_token":"a","expires_in":60,"refresh_token_expires_in":3600}`)
	})
	g, err := refreshOnce(t, connect(t, setup{yaml: f.plain(), config: Config{Now: func() time.Time { return now }}}))
	if err != nil || !g.ExpiresAt.Equal(start.Add(time.Minute)) || !g.RefreshExpiry.Equal(start.Add(time.Hour)) {
		t.Errorf("expires %v, refresh token %v, error %v", g.ExpiresAt, g.RefreshExpiry, err)
	}
}

// faults.md "Malformed success": whatever else is odd, a new refresh token is never lost.
func TestRefreshTokenIsNeverLost(t *testing.T) {
	const long = maxBody + 1000
	for name, tt := range map[string]struct {
		contentType, body string
		status            int // 0: 200
	}{
		"error beside":         {contentType: "", body: `{"error":"invalid_grant","access_token":"a","refresh_token":"new"}`},
		"no access token":      {contentType: "", body: `{"refresh_token":"new"}`},
		"cut in expires_in":    {contentType: "", body: `{"access_token":"a","refresh_token":"new","expires_in":36`},
		"cut in a string":      {contentType: "", body: `{"access_token":"a","refresh_token":"new","scope":"files.re`},
		"not JSON before":      {contentType: "", body: `{"access_token":"a","expires_in":NaN,"refresh_token":"new"}`},
		"comma missing":        {contentType: "", body: `{"access_token":"a" "refresh_token" : "new"}`},
		"trailing garbage":     {contentType: "", body: `{"access_token":"a","refresh_token":"new"}<!-- x -->`},
		"trailing comma":       {contentType: "", body: `{"access_token":"a","refresh_token":"new",}`},
		"repeated, last empty": {contentType: "", body: `{"access_token":"a","refresh_token":"new","refresh_token":""}`},
		"repeated":             {contentType: "", body: `{"access_token":"a","refresh_token":"old","refresh_token":"new"}`},
		"other case beside":    {contentType: "", body: `{"access_token":"a","refresh_token":"new","Refresh_Token":"wrong","REFRESH_TOKEN":"wrong"}`},
		"BOM":                  {contentType: "", body: "\xef\xbb\xbf" + `{"access_token":"a","refresh_token":"new"}`},
		"called HTML":          {contentType: "text/html", body: `{"access_token":"a","refresh_token":"new"}`},
		"form":                 {contentType: "application/x-www-form-urlencoded; charset=utf-8", body: `access_token=a&refresh_token=new&expires_in=60`},
		"broken form":          {contentType: "application/x-www-form-urlencoded", body: `access_token=a&refresh_token=new&x=%zz`},
		"deep":                 {contentType: "", body: `{"access_token":"a","x":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `,"refresh_token":"new"}`},
		"escaped":              {contentType: "", body: `{"access_token":"a","refresh_token":"n\u0065w"}`},
		"odd types":            {contentType: "", body: `{"access_token":"a","refresh_token":"new","scope":7,"expires_in":[],"id_token":{}}`},
		"BOM and space":        {body: "\xef\xbb\xbf\r\n " + `{"access_token":"a","refresh_token":"new"}`},
		"called plain text":    {contentType: "text/plain", body: `{"access_token":"a","refresh_token":"new"}`},
		"JSON called a form":   {contentType: "application/x-www-form-urlencoded", body: `{"access_token":"a","refresh_token":"new"}`},
		"form called JSON":     {contentType: "application/json", body: "access_token=a&refresh_token=new&token_type=bearer\n"},
		"form called nothing":  {body: `refresh_token=n%65w&access_token=a`},
		"guard":                {body: ")]}'\n" + `{"access_token":"a","refresh_token":"new"}`},
		"guard with a comma":   {body: ")]}',\n" + `{"access_token":"a","refresh_token":"new"}`},
		"in an array":          {body: `[ {"access_token":"a","refresh_token":"new"} ]`},
		"nothing but numbers":  {body: `{"access_token":7,"refresh_token":"new","expires_in":"x"}`},
		"called gzip":          {contentType: "gzip", body: `{"access_token":"a","refresh_token":"new"}`},
		"too long":             {body: `{"access_token":"a","refresh_token":"new","x":"` + strings.Repeat("x", long) + `"}`},
		"too long, a form":     {body: `access_token=a&refresh_token=new&x=` + strings.Repeat("x", long)},
		"error status":         {status: 400, body: `{"error":"invalid_grant","access_token":"a","refresh_token":"new"}`},
		"error status, alone":  {status: 401, body: `{"error":"invalid_client","refresh_token":"new"}`},
		"server error":         {status: 500, body: `{"access_token":"a","refresh_token":"new"}`},
		"unavailable":          {status: 503, body: `{"access_token":"a","refresh_token":"new"}`},
		"another redirect":     {status: 302, body: `{"access_token":"a","refresh_token":"new"}`},
		"created":              {status: 201, body: `{"access_token":"a","refresh_token":"new"}`},
		"line break in a text": {body: "{\"error_description\":\"a\nb \\\"refresh_token\\\":\\\"no\\\"\",\"refresh_token\":\"new\",\"access_token\":\"a\"}"},
		"another's beside it":  {body: `{"user":{"refresh_token":"no"},"x":NaN,"refresh_token":"new","access_token":"a"}`},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.mux.HandleFunc("/token", func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", tt.contentType)
				if tt.contentType == "gzip" {
					w.Header().Set("Content-Encoding", "gzip")
				}
				if tt.status > 0 {
					w.WriteHeader(tt.status)
				}
				_, _ = io.WriteString(w, tt.body)
			})
			g, err := refreshOnce(t, connect(t, setup{yaml: f.plain()}))
			if err != nil || g.RefreshToken.Reveal() != "new" {
				t.Fatalf("refresh token %q, error %v", g.RefreshToken.Reveal(), err)
			}
			if g.Never {
				t.Error("a token that was refreshed is taken for one without end")
			}
		})
	}
}

// What only looks like a refresh token is none: what was sent, repeated in a refusal; a text; another's; one without its end.
func TestWhatIsNoRefreshToken(t *testing.T) {
	const sent = canaryRefresh
	for name, tt := range map[string]struct {
		status int
		body   string
		class  broker.Class // "": it is a grant, without a refresh token
	}{
		"repeated in a refusal":        {400, `{"error":"invalid_grant","refresh_token":"` + sent + `"}`, broker.ClassGrantDead},
		"repeated with an old token":   {400, `{"error":"invalid_grant","access_token":"a","refresh_token":"` + sent + `"}`, broker.ClassGrantDead},
		"repeated in a refusal by 200": {200, `{"error":"invalid_grant","refresh_token":"` + sent + `"}`, broker.ClassGrantDead},
		"access token in a refusal":    {400, `{"error":"invalid_grant","access_token":"a"}`, broker.ClassGrantDead},
		"in a text":                    {400, `{"error":"invalid_grant","error_description":"{\"refresh_token\":\"no\"}"}`, broker.ClassGrantDead},
		"in a text that is cut":        {400, `{"error":"invalid_grant","error_description":"\"refresh_token\":\"no\" `, broker.ClassGrantDead},
		"in a page":                    {200, `<html><pre>{"refresh_token":"no"}</pre>refresh_token=no`, broker.ClassInDoubt},
		"another's":                    {200, `{"access_token":"a","user":{"refresh_token":"no"},"scope":"x`, ""},
		"without its end":              {200, `{"access_token":"a","refresh_token":"no`, ""},
		"a number without its end":     {200, `{"access_token":"a","refresh_token":12`, ""},
		"an object":                    {200, `{"access_token":"a","refresh_token":{"refresh_token":"no"}}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.answers("/token", tt.status, tt.body)
			g, err := refreshOnce(t, connect(t, setup{yaml: f.plain()}))
			if tt.class != "" {
				class(t, err, tt.class)
			} else if err != nil || !g.RefreshToken.IsZero() || g.AccessToken.Reveal() != "a" {
				t.Errorf("refresh token %q, error %v", g.RefreshToken.Reveal(), err)
			}
		})
	}
	cut := answer{status: 200, body: []byte("access_token=a&refresh_token=no"), broken: io.ErrUnexpectedEOF}
	if got := readTree(cut).secret("refresh_token"); got != "" {
		t.Errorf("a form that was cut short gave %q", got)
	}
}

// Of a nested token what the path says counts, also where the answer can't be read to its end.
func TestNestedRefreshTokenOfAFragment(t *testing.T) {
	for body, want := range map[string]string{
		`{"refresh_token":"bot","x":NaN,"user":{"a":[{"refresh_token":"no"}],"refresh_token":"new"},`: "new",
		`{"user":{"scope":"x","refresh_token":"new","y":`:                                             "new",
		`{"x":NaN,"user":{"deep":{"refresh_token":"no"}}}`:                                            "",
		`{"x":NaN,"user":{},"refresh_token":"bot"}`:                                                   "",
	} {
		if got := jsonTree([]byte(body)).secret("user.refresh_token"); got != want {
			t.Errorf("%s: %q, want %q", body, got, want)
		}
	}
}

// RFC 6749 section 7.1: a token whose type is not understood is not used. The refresh token beside it is kept.
func TestTokenTypes(t *testing.T) {
	for kind, ok := range map[string]bool{`"Bearer"`: true, `"bearer"`: true, `"BEARER"`: true, `""`: true, `null`: true, `"BOT"`: true, `"bot"`: true,
		`"DPoP"`: false, `"mac"`: false, `"N_A"`: false, `"user"`: false} {
		f := newFake(t)
		f.answers("/token", 200, `{"access_token":"a","refresh_token":"new","expires_in":60,"token_type":`+kind+`}`)
		r := connect(t, setup{yaml: f.plain("  token_types: [bot]")})
		g, err := refreshOnce(t, r)
		if err != nil || g.RefreshToken.Reveal() != "new" || g.AccessToken.IsZero() == ok || (g.Withheld == nil) != ok {
			t.Errorf("%s: refresh token %q, withheld %v, error %v", kind, g.RefreshToken.Reveal(), g.Withheld, err)
		}
		if !ok && (g.Withheld.Class != broker.ClassRefused || !strings.Contains(g.Withheld.Error(), "token_type") || g.Lifetime != 0) {
			t.Errorf("%s: %v, lifetime %v", kind, g.Withheld, g.Lifetime)
		}
		if _, err := exchangeOnce(t, r); !ok {
			class(t, err, broker.ClassRefused)
		} else if err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// The connection breaks in the middle of the answer, after the tokens.
func TestRefreshTokenOfABrokenConnection(t *testing.T) {
	f := newFake(t)
	f.mux.HandleFunc("/token", func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"+`{"access_token":"a","refresh_token":"new","expires_in":60,`)
		_ = conn.(*net.TCPConn).CloseWrite()
	})
	g, err := refreshOnce(t, connect(t, setup{yaml: f.plain()}))
	if err != nil || g.RefreshToken.Reveal() != "new" || g.Lifetime != time.Minute {
		t.Fatalf("refresh token %q, lifetime %v, error %v", g.RefreshToken.Reveal(), g.Lifetime, err)
	}
}

// An access token that would break out of a caller's header is not one (RFC 6749 appendix A.12); the refresh token beside
// it is kept.
func TestAccessTokenForHeaders(t *testing.T) {
	for _, bad := range []string{`a\r\nX-Evil: 1`, `a\u0000b`, `a\tb`, `tok\u00e9n`} {
		f := newFake(t)
		f.answers("/token", 200, `{"access_token":"`+bad+`","refresh_token":"new","expires_in":60}`)
		g, err := refreshOnce(t, connect(t, setup{yaml: f.plain()}))
		if err != nil || !g.AccessToken.IsZero() || g.RefreshToken.Reveal() != "new" {
			t.Errorf("%s: access token kept: %v, refresh token %q, error %v", bad, !g.AccessToken.IsZero(), g.RefreshToken.Reveal(), err)
		}
	}
}

// A code that brings no access token is no grant.
func TestExchangeWithoutAccessToken(t *testing.T) {
	f := newFake(t)
	f.answers("/token", 200, `{"refresh_token":"r","ACCESS_TOKEN":"a"}`)
	_, err := exchangeOnce(t, connect(t, setup{yaml: f.plain()}))
	class(t, err, broker.ClassInDoubt)
}

func TestScopes(t *testing.T) {
	for _, tt := range []struct {
		scope    string // raw JSON
		want     string
		reported bool
	}{
		{`"files.read files.write"`, "files.read files.write", true},
		{`" files.read  files.read "`, "files.read", true},
		{`["files.write","files.read"]`, "files.read files.write", true},
		{`"https://rig.example/files.read"`, "files.read", true},
		{`"rig:other"`, "other", true},
		{`"ROOT"`, "admin", true},
		{`""`, "", false},
		{`[]`, "", false},
		{`null`, "", false},
		{`"\u0000"`, "", false},
		{`7`, "", false},
	} {
		f := newFake(t)
		f.answers("/token", 200, `{"access_token":"a","scope":`+tt.scope+`}`)
		r := connect(t, setup{yaml: f.plain("  scope_aliases: {'https://rig.example/*': '*', 'rig:*': '*', ROOT: admin}")})
		g, err := refreshOnce(t, r)
		if err != nil || g.Scopes.String() != tt.want || g.ScopesReported != tt.reported {
			t.Errorf("scope %s: %q, reported %v, error %v", tt.scope, g.Scopes, g.ScopesReported, err)
		}
	}
}

// The configuration's spelling wins, so that what was asked and what was granted can be compared.
func TestScopesInTheSpellingOfTheConfiguration(t *testing.T) {
	f := newFake(t)
	f.answers("/token", 200, `{"access_token":"a","scope":"files.READ"}`)
	r := connect(t, setup{
		yaml:      f.plain("  scope_aliases: {'https://rig.example/*': '*'}", "  scopes_ignore_case: true"),
		connector: ConnectorConfig{Scopes: []string{"https://rig.example/Files.Read"}},
	})
	g, err := refreshOnce(t, r)
	if err != nil || g.Scopes.String() != "https://rig.example/Files.Read" {
		t.Errorf("scopes %q, error %v", g.Scopes, err)
	}
}

func exchangeOnce(t *testing.T, r *Registry) (broker.Grant, error) {
	t.Helper()
	a, err := r.AuthorizationURL(t.Context(), "files", broker.AuthorizationRequest{RedirectURI: "http://127.0.0.1/cb",
		State: broker.NewSecret("s"), Verifier: broker.NewSecret("v")})
	if err != nil {
		t.Fatal(err)
	}
	return r.Exchange(t.Context(), "files", broker.ExchangeRequest{RedirectURI: "http://127.0.0.1/cb", Code: broker.NewSecret(canaryCode),
		Verifier: broker.NewSecret("v"), Fingerprint: a.Fingerprint})
}

// Whatever bytes come after a refresh token, and wherever an answer is cut behind it, it is found.
func TestAnyAnswerKeepsItsRefreshToken(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		token := rapid.StringMatching(`[A-Za-z0-9._~+/!"\\-]{1,40}`).Draw(t, "token")
		quoted, err := json.Marshal(token)
		if err != nil {
			t.Fatal(err)
		}
		head := `{"access_token":"a","refresh_token":` + string(quoted)
		tail := rapid.StringMatching(`,"[a-z]{1,9}":[0-9a-z"{}\[\],:\\ ]{0,30}`).Draw(t, "tail")
		body := head + tail[:rapid.IntRange(0, len(tail)).Draw(t, "cut")]
		if got := jsonTree([]byte(body)).secret("refresh_token"); got != token {
			t.Fatalf("%s: got %q", body, got)
		}
	})
}
