package api

import (
	"crypto/sha256"
	"net/http"
	"strings"
	"testing"

	"tokenbroker/broker"
)

func TestKeys(t *testing.T) {
	b := newBench(t)
	b.service.listConnectors = func() []broker.Connector { return nil }
	for key, client := range map[string]string{acmeKey: "acme-chat", acmeNew: "acme-chat", otherKey: "other-chat"} {
		for _, scheme := range []string{"Bearer ", "bearer ", "BEARER  "} {
			r := b.send("GET", "/v1/connectors", "", http.Header{"Authorization": {scheme + key}})
			if r.status != 200 || b.service.lastCaller().Client.ID != client {
				t.Errorf("%s: %d, client %q", client, r.status, b.service.lastCaller().Client.ID)
			}
		}
	}
	calls := b.service.calls()
	for name, values := range map[string][]string{
		"none": nil, "empty": {""}, "scheme alone": {"Bearer"}, "no key": {"Bearer "}, "no scheme": {acmeKey}, "other scheme": {"Basic " + acmeKey},
		"token": {"Token " + acmeKey}, "unknown": {"Bearer CANARY"}, "prefix": {"Bearer " + acmeKey[:len(acmeKey)-1]}, "longer": {"Bearer " + acmeKey + "x"},
		"other case": {"Bearer " + strings.ToUpper(acmeKey)}, "two keys": {"Bearer " + acmeKey + " " + acmeKey}, "comma": {"Bearer " + acmeKey + ", Bearer " + acmeKey},
		"same twice": {"Bearer " + acmeKey, "Bearer " + acmeKey}, "wrong and right": {"Bearer x", "Bearer " + acmeKey}, "right and wrong": {"Bearer " + acmeKey, "Bearer x"},
		"two clients": {"Bearer " + acmeKey, "Bearer " + otherKey}, "quoted": {`Bearer "` + acmeKey + `"`}, "digest": {"Bearer " + hexDigest(acmeKey)},
		"huge": {"Bearer " + strings.Repeat("x", 100<<10)}, "tab": {"Bearer\t" + acmeKey},
	} {
		r := b.send("GET", "/v1/connectors", "", http.Header{"Authorization": values})
		r.refused(t, http.StatusUnauthorized, broker.CodeInvalidClient)
		if r.header.Get("WWW-Authenticate") != `Bearer realm="tokenbroker"` {
			t.Errorf("%s: WWW-Authenticate is %q", name, r.header.Get("WWW-Authenticate"))
		}
		if strings.Contains(r.text, "CANARY") {
			t.Errorf("%s: the key is in the answer", name)
		}
	}
	if b.service.calls() != calls {
		t.Error("the service was called without a key")
	}
	for _, line := range b.logs.lines(t, "request") {
		if (line["status"] == 401.0) != (line["client_ip"] == "192.0.2.7") || (line["status"] == 401.0) != (line["client"] == "") {
			t.Errorf("line is %v", line)
		}
	}
}

func hexDigest(s string) string {
	const hex = "0123456789abcdef"
	sum := sha256.Sum256([]byte(s))
	var out strings.Builder
	for _, c := range sum {
		out.Write([]byte{hex[c>>4], hex[c&15]})
	}
	return out.String()
}

// What else a request carries decides nothing (threat 51: user agent, forwarded headers, method overrides, query).
func TestOnlyTheKeyDecides(t *testing.T) {
	b := newBench(t)
	for _, h := range [][2]string{
		{"User-Agent", "kube-probe/1.30"}, {"User-Agent", "GoogleHC/1.0"}, {"X-Forwarded-Uri", "/healthz"}, {"X-Original-Url", "/healthz"}, {"X-Rewrite-Url", "/static/x.css"},
		{"X-Forwarded-For", "127.0.0.1"}, {"X-Real-Ip", "127.0.0.1"}, {"X-Http-Method-Override", "OPTIONS"}, {"X-Forwarded-User", "acme-chat"}, {"X-Client", "acme-chat"},
		{"Proxy-Authorization", "Bearer " + acmeKey}, {"X-Api-Key", acmeKey}, {"Cookie", "key=" + acmeKey}, {"X_authorization", "Bearer " + acmeKey}, {"Referer", "/dashboard"},
		{"Origin", "http://127.0.0.1:3000"}, {"Upgrade", "websocket"},
	} {
		b.send("GET", "/v1/connectors", "", http.Header{h[0]: {h[1]}}).refused(t, 401, broker.CodeInvalidClient)
	}
	b.send("GET", "/v1/connectors?access_token="+acmeKey, "", http.Header{}).refused(t, 401, broker.CodeInvalidClient)
	r := b.call("OPTIONS", "/v1/connectors", "", "Origin", "http://evil.example", "Access-Control-Request-Method", "GET")
	for name := range r.header {
		if strings.HasPrefix(name, "Access-Control-") {
			t.Errorf("%s is answered: the API is not for browsers", name)
		}
	}
}

func TestKeyringRefusesBadClients(t *testing.T) {
	one := func(id, tenant string, keys ...[32]byte) ClientKey {
		return ClientKey{Client: broker.Client{ID: id, Tenant: tenant}, KeySHA256: keys}
	}
	k := digests("a")[0]
	for name, row := range map[string]struct {
		clients []ClientKey
		says    string
	}{
		"no id":           {[]ClientKey{one("", "t", k)}, "id and a tenant"},
		"no tenant":       {[]ClientKey{one("c", "", k)}, "id and a tenant"},
		"no key":          {[]ClientKey{one("c", "t")}, "has no key"},
		"same id":         {[]ClientKey{one("c", "t", k), one("c", "t", digests("b")[0])}, "there twice"},
		"same key":        {[]ClientKey{one("c", "t", k), one("d", "t", k)}, `key 1 of client "d" belongs to client "c"`},
		"same key, twice": {[]ClientKey{one("c", "t", k, k)}, `key 2 of client "c"`},
		"zeros":           {[]ClientKey{one("c", "t", [32]byte{})}, "all zeros"},
		"empty key":       {[]ClientKey{one("c", "t", sha256.Sum256(nil))}, "empty key"},
	} {
		if _, err := newKeyring(row.clients); err == nil || !strings.Contains(err.Error(), row.says) {
			t.Errorf("%s: %v does not say %q", name, err, row.says)
		}
	}
	if _, err := New(Config{}); err == nil {
		t.Error("an empty config passed")
	}
}

// Threat 51: spellings of protected paths. Without a key each is 401; with one, none reaches a handler that the exact
// spelling would not, and none falls through to the pages.
func TestRoutingTricks(t *testing.T) {
	b := newBench(t)
	variants := []string{
		"/v1", "/v1/", "/v1/x", "/v1/tokens/", "/v1/tokens//", "//v1/tokens", "///v1/tokens", "/v1//tokens", "/./v1/tokens", "/v1/./tokens", "/v1/../v1/tokens",
		"/x/../v1/tokens", "/%2e/v1/tokens", "/x/%2e%2e/v1/tokens", "/v1/%2e/tokens", "/%76%31/tokens", "/%76%31%2ftokens", "/v1%2ftokens", "/v1%2Ftokens", "/v1/%74okens",
		"/v1/tokens%00", "/v1%00/tokens", "/v1/tokens%20", "/v1%20/tokens", "/%20v1/tokens", "/v1/tokens;x=y", "/v1;x/tokens", "/;/v1/tokens", "/v1\\tokens", "/\\v1/tokens",
		"/v1%5ctokens", "/V1/tokens", "/V1/TOKENS", "/v1/Tokens", "/%2576%2531/tokens", "/v1%252ftokens", "/connect/../v1/tokens", "/dashboard/..;/v1/tokens",
		"/static/%2e%2e/v1/tokens", "/healthz/..%2fv1/tokens", "/v1/tokens%3f", "/v1/tokens%23", "/v1/tokens?a=/healthz", "/v1/connectors/x", "/v1/tokens.json", "/v1/tokens%0a",
		"/%0a/v1/tokens", "/v1/consents/x/complete/", "/v1/subjects/u/connectors/", "/v1/subjects//connectors", "/v1/:id", "/v1/*", "/%25252576%25252531/tokens", "http://evil.example/v1/tokens", "http://evil.example//v1/tokens",
	}
	for _, path := range variants {
		for _, method := range []string{"GET", "POST", "HEAD", "OPTIONS", "DELETE", "TRACE", "BREW"} {
			request := method + " " + path + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 0\r\nConnection: close\r\n"
			if method == "HEAD" { // its answer has no body to read
				continue
			}
			r := b.raw(request + "\r\n")
			r.refused(t, http.StatusUnauthorized, broker.CodeInvalidClient)
			if t.Failed() {
				t.Fatalf("%s %q without a key", method, path)
			}
			r = b.raw(request + "Authorization: Bearer " + acmeKey + "\r\n\r\n")
			if r.status < 400 || r.status > 405 || r.object["error"] == nil || strings.Contains(r.text, pageBody) {
				t.Fatalf("%s %q with a key: %d %s", method, path, r.status, r.text)
			}
		}
	}
	if n := b.service.calls(); n != 0 {
		t.Errorf("the service was called %d times", n)
	}
}

// The pages keep what is theirs.
func TestOthersPathsAreNotTaken(t *testing.T) {
	b := newBench(t)
	for _, path := range []string{"/", "/connect/abc", "/oauth2/callback/files?code=x", "/dashboard", "/v10/tokens", "/v", "/v1x", "/xv1/tokens", "/connect/v1/tokens", "/v1.css", "/v1/../connect/x", "/%2ev1"} {
		r := b.raw("GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		taken := strings.HasPrefix(path, "/v1/") // a path under /v1 is ours, whatever dots make of it
		if got := r.text != pageBody; got != taken {
			t.Errorf("%s: %d %q", path, r.status, r.text)
		}
	}
}
