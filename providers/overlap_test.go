package providers

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"io"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"tokenbroker/broker"
)

const canaryOld = "canary-old-secret"

// overlapping answers by the client secret that it is sent.
func overlapping(t *testing.T, answers map[string]func(http.ResponseWriter)) (f *fakeProvider, sent func() []string) {
	f = newFake(t)
	var mu sync.Mutex
	var tried []string
	f.mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		_, secret, _ := r.BasicAuth()
		mu.Lock()
		tried = append(tried, secret)
		mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		answers[secret](w)
	})
	return f, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(tried)
	}
}

func gives(status int, body string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// cuts breaks the connection off in the middle of the answer.
func cuts(w http.ResponseWriter) {
	w.Header().Set("Content-Length", "1000")
	w.WriteHeader(401)
	_, _ = io.WriteString(w, `{"error":"invalid_client"}`)
}

// hangsUp ends the connection without an answer.
func hangsUp(w http.ResponseWriter) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		_ = conn.Close()
	}
}

// The earlier client secret is tried once, where the provider says that it does not know the new one, and nowhere else: what
// may have been done is not sent twice.
func TestEarlierSecretIsTriedOnRefusalAlone(t *testing.T) {
	good := gives(200, `{"access_token":"at","refresh_token":"rt2","expires_in":3600}`)
	unknown := gives(401, `{"error":"invalid_client"}`)
	for name, test := range map[string]struct {
		now, before func(http.ResponseWriter)
		sent        int
		generation  int64
		class       broker.Class // "": it works
	}{
		"new one known":                 {now: good, before: good, sent: 1, generation: 2},
		"new one not known yet":         {now: unknown, before: good, sent: 2, generation: 1},
		"refused with 400":              {now: gives(400, `{"error":"invalid_client"}`), before: good, sent: 2, generation: 1},
		"refused without a body":        {now: gives(401, ``), before: good, sent: 2, generation: 1},
		"neither known":                 {now: unknown, before: unknown, sent: 2, class: broker.ClassClientRefused},
		"not known, and the grant dead": {now: unknown, before: gives(400, `{"error":"invalid_grant"}`), sent: 2, class: broker.ClassGrantDead},
		"not known, then in doubt":      {now: unknown, before: gives(500, ``), sent: 2, class: broker.ClassInDoubt},
		"not known, then no answer":     {now: unknown, before: hangsUp, sent: 2, class: broker.ClassInDoubt},
		"in doubt":                      {now: gives(500, `{"error":"invalid_client"}`), before: good, sent: 1, class: broker.ClassInDoubt},
		"throttled":                     {now: gives(429, `{"error":"invalid_client"}`), before: good, sent: 1, class: broker.ClassThrottled},
		"cut off":                       {now: cuts, before: good, sent: 1, class: broker.ClassClientRefused},
		"dead":                          {now: gives(400, `{"error":"invalid_grant"}`), before: good, sent: 1, class: broker.ClassGrantDead},
		"may not refresh":               {now: gives(400, `{"error":"unauthorized_client"}`), before: good, sent: 1, class: broker.ClassClientRefused},
		"redirect URI":                  {now: gives(400, `{"error":"redirect_uri_mismatch"}`), before: good, sent: 1, class: broker.ClassClientRefused},
		"token beside the refusal":      {now: gives(200, `{"error":"invalid_client","access_token":"at","refresh_token":"rt2","expires_in":60}`), before: good, sent: 1, generation: 2},
	} {
		t.Run(name, func(t *testing.T) {
			f, sent := overlapping(t, map[string]func(http.ResponseWriter){canarySecret: test.now, canaryOld: test.before})
			r := connect(t, setup{yaml: f.plain(), connector: ConnectorConfig{Previous: broker.NewSecret(canaryOld), Generation: 2}})
			grant, err := refreshOnce(t, r)
			if test.class != "" {
				class(t, err, test.class)
			} else if err != nil || grant.ClientGeneration != test.generation {
				t.Errorf("generation %d, %v; want %d", grant.ClientGeneration, err, test.generation)
			}
			if tried := sent(); len(tried) != test.sent || tried[0] != canarySecret {
				t.Errorf("%d requests, the first with the new secret: %t; want %d", len(tried), tried[0] == canarySecret, test.sent)
			}
		})
	}
}

// The overlap has an end, and a code is under the same rule as a refresh token.
func TestOverlapEnds(t *testing.T) {
	f, sent := overlapping(t, map[string]func(http.ResponseWriter){
		canarySecret: gives(401, `{"error":"invalid_client"}`), canaryOld: gives(200, `{"access_token":"at","refresh_token":"rt","expires_in":60}`)})
	now := start
	r := connect(t, setup{yaml: f.plain(), config: Config{Now: func() time.Time { return now }},
		connector: ConnectorConfig{Previous: broker.NewSecret(canaryOld), PreviousUntil: start.Add(time.Hour), Generation: 7}})
	a, err := r.AuthorizationURL(t.Context(), "files", broker.AuthorizationRequest{RedirectURI: "https://b.example/cb", State: broker.NewSecret("s"), Verifier: broker.NewSecret("v")})
	if err != nil {
		t.Fatal(err)
	}
	exchange := func() (broker.Grant, error) {
		return r.Exchange(t.Context(), "files", broker.ExchangeRequest{RedirectURI: "https://b.example/cb", Code: broker.NewSecret(canaryCode), Verifier: broker.NewSecret("v"), Fingerprint: a.Fingerprint})
	}
	if grant, err := exchange(); err != nil || grant.ClientGeneration != 6 || len(sent()) != 2 {
		t.Errorf("within the overlap: generation %d, %v, %d requests", grant.ClientGeneration, err, len(sent()))
	}
	now = start.Add(time.Hour)
	_, err = exchange()
	class(t, err, broker.ClassClientRefused)
	if after := len(sent()) - 2; after != 1 {
		t.Errorf("%d requests after the overlap", after)
	}
}

// Revocation follows the overlap too.
func TestOverlapElsewhere(t *testing.T) {
	f := newFake(t)
	f.mux.HandleFunc("/revoke", func(w http.ResponseWriter, r *http.Request) {
		if _, secret, _ := r.BasicAuth(); secret != canaryOld {
			gives(401, `{"error":"invalid_client"}`)(w)
		}
	})
	r := connect(t, setup{yaml: f.plain(), connector: ConnectorConfig{Previous: broker.NewSecret(canaryOld), Generation: 2}})
	if err := r.Revoke(t.Context(), "files", broker.RevokeRequest{RefreshToken: broker.NewSecret(canaryRefresh)}); err != nil || f.count("/revoke") != 2 {
		t.Errorf("revoke: %v, %d requests", err, f.count("/revoke"))
	}
}

// What the provider signs with the client secret verifies with either, while the overlap lasts: callbacks and notices.
func TestSignaturesInTheOverlap(t *testing.T) {
	const body = `{"id":55813,"name":"Acme Teas"}`
	for until, good := range map[time.Time]bool{noticeClock.Add(time.Hour): true, noticeClock: false} {
		r := noticed(t, "shopify", func(c *ConnectorConfig) {
			c.Vars = map[string]string{"shop": "acme.myshopify.com"}
			c.ClientSecret, c.Previous, c.PreviousUntil = broker.NewSecret("newer"), broker.NewSecret("client-secret"), until
		})
		for _, key := range []string{"newer", "client-secret", "another"} {
			want := key == "newer" || good && key == "client-secret"
			_, err := r.ReadNotice(t.Context(), "it", noticeOf("POST", body, map[string]string{
				"X-Shopify-Topic": "app/uninstalled", "X-Shopify-Hmac-Sha256": base64.StdEncoding.EncodeToString(macOf(key, body))}))
			if (err == nil) != want {
				t.Errorf("a notice signed with %q: %v", key, err)
			}
			params := map[string]broker.Secret{"shop": broker.NewSecret("acme.myshopify.com"), "hmac": broker.NewSecret(hex.EncodeToString(macOf(key, "shop=acme.myshopify.com")))}
			if err := r.VerifyCallback("it", params); (err == nil) != want {
				t.Errorf("a callback signed with %q: %v", key, err)
			}
		}
	}
}

// The earlier secret is tried only with a whole request's time: an answer that came too late would have spent the refresh token.
func TestOverlapTakesTime(t *testing.T) {
	for name, test := range map[string]struct {
		left time.Duration
		sent int
	}{"enough": {time.Hour, 2}, "too little": {9 * time.Second, 1}} {
		t.Run(name, func(t *testing.T) {
			f, tried := overlapping(t, map[string]func(http.ResponseWriter){
				canarySecret: gives(401, `{"error":"invalid_client"}`), canaryOld: gives(200, `{"access_token":"at","refresh_token":"rt","expires_in":60}`)})
			r := connect(t, setup{yaml: f.plain("  timeout: 10"), connector: ConnectorConfig{Previous: broker.NewSecret(canaryOld), Generation: 2}})
			ctx, cancel := context.WithTimeout(t.Context(), test.left)
			defer cancel()
			_, err := r.Refresh(ctx, "files", broker.RefreshRequest{RefreshToken: broker.NewSecret(canaryRefresh)})
			if n := len(tried()); n != test.sent || (err == nil) != (test.sent == 2) {
				t.Errorf("%d requests, %v; want %d", n, err, test.sent)
			}
		})
	}
}
