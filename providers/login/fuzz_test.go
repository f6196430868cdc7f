package login_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// FuzzIDToken has an OpenID Provider say anything: as a token, and as the claims of one that it signed. Only what another
// reader of JSON finds right too is taken, and never what nobody signed. Operators sign in by the same check.
func FuzzIDToken(f *testing.F) {
	for _, seed := range []string{
		`{"iss":"ISS","sub":"user-42","aud":"abc","nonce":"the-nonce","iat":NOW,"exp":LATER}`, `{"iss":"ISS","sub":"user-42","aud":["abc","def"],"azp":"abc","nonce":"the-nonce","iat":NOW,"exp":LATER}`,
		`{"iss":"ISS","sub":"user-42","sub":"user-43","aud":"abc","nonce":"the-nonce","iat":NOW,"exp":LATER}`, `{"iss":"ISS","Sub":"user-42","aud":"abc","nonce":"the-nonce","iat":NOW,"exp":1e300}`,
		`{"iss":"ISS","sub":42,"aud":"abc","nonce":"the-nonce","iat":NOW,"exp":"LATER"}`, `{"iss":["ISS"],"aud":{"abc":1}}`, `[]`, `null`, ``, "{\"iss\":\"ISS\",\"sub\":\"\\ud800\"}",
	} {
		f.Add(seed, "k1", "JWT")
	}
	f.Add("eyJhbGciOiJub25lIn0.e30.", "", "none")
	fixed := newForger(f)
	c := fixed.client(f, nil)
	f.Fuzz(func(t *testing.T, text, kid, kind string) {
		fixed.token = text
		if who, err := redeem(t, c); err == nil {
			t.Fatalf("%q signed in %+v", text, who)
		} else if strings.Contains(err.Error(), "canary") || len(err.Error()) > 600 {
			t.Fatalf("error is %v", err)
		}
		now := fixed.clock.Unix()
		stamp := func(n int64) string { b, _ := json.Marshal(n); return string(b) }
		payload := strings.NewReplacer("ISS", fixed.URL, "NOW", stamp(now), "LATER", stamp(now+300)).Replace(text)
		fixed.token = sign(t, fixed.key, jose.RS256, kid, map[jose.HeaderKey]any{jose.HeaderType: kind}, payload)
		who, err := redeem(t, c)
		if err != nil {
			return
		}
		var claims struct {
			Iss, Sub, Nonce string
			Exp, Iat        float64
		}
		if err := json.Unmarshal([]byte(payload), &claims); err != nil || claims.Iss != fixed.URL || claims.Sub != who.Subject || claims.Nonce != "the-nonce" || claims.Exp < float64(now-120) || !strings.Contains(payload, `"abc"`) {
			t.Fatalf("%s signed in %+v: %v", payload, who, err)
		}
	})
}
