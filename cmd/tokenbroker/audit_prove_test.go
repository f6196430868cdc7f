package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"tokenbroker/vault/vaulttest"
)

// TestThreat71Proof: one event, in clear, is proven to somebody who has a public key alone: no Redis, no keyset, no configuration. Whatever
// is changed in the proof, it proves nothing.
func TestThreat71Proof(t *testing.T) {
	t.Parallel()
	redis := vaulttest.StartRedis(t)
	s, key := signedSite(t, redis.URL(), "")
	p := s.serve()
	for _, subject := range []string{"<ann>", "bob", "<ann>", "cy", "<ann>"} {
		// Each is refused and on record, with its consent.
		if status, body := p.post("/v1/tokens", `{"connector":"files","subject":"`+subject+`","scopes":["files.read"],"reason":"a & b"}`); status != http.StatusConflict {
			t.Fatalf("%d %s", status, body)
		}
	}
	status, body := p.get(p.api+"/v1/events?subject=%3Cann%3E&type=token.refused", testKey)
	var page struct {
		Events []json.RawMessage `json:"events"`
	}
	if err := json.Unmarshal([]byte(body), &page); err != nil || status != http.StatusOK || len(page.Events) != 3 {
		t.Fatalf("%d %s", status, body)
	}
	var event struct{ ID string }
	if err := json.Unmarshal(page.Events[1], &event); err != nil {
		t.Fatal(err)
	}
	p.signal(syscall.SIGTERM)
	p.end()

	if status, stdout, stderr := s.run("audit", "prove", "--config", "config.yaml", "--event="+event.ID, "--out", "proof.json"); status != exitFine {
		t.Fatalf("prove: %d %s%s", status, stdout, stderr)
	}
	if status, _, stderr := s.run("audit", "prove", "--config", "config.yaml", "--event="+event.ID, "--tenant", "acme", "--subject", "bob", "--out", "other.json"); status != exitFound || !strings.Contains(stderr, "no event") {
		t.Errorf("looked for in another's stream: %d %s", status, stderr)
	}
	redis.Kill()
	proof, err := os.ReadFile(filepath.Join(s.dir, "proof.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, other := range []string{"bob", `"cy"`, "canary", testKey} {
		if strings.Contains(string(proof), other) {
			t.Errorf("the proof tells of %q", other)
		}
	}
	verify := func(content []byte, key string) (int, string, string) {
		s.write("some.json", string(content))
		return s.run("audit", "verify", "--proof", "some.json", "--key", key)
	}
	status, stdout, stderr := verify(proof, key)
	var want bytes.Buffer
	if err := json.Compact(&want, page.Events[1]); err != nil {
		t.Fatal(err)
	}
	if first, _, _ := strings.Cut(stdout, "\n"); status != exitFine || !sameJSON(t, first, want.String()) || !strings.Contains(stdout, "proven: this event") {
		t.Fatalf("status %d\n%s%s\nwant %s", status, stdout, stderr, want.String())
	}
	for what, change := range map[string][2]string{
		"the event":  {`"reason": "a & b"`, `"reason": "a"`},
		"the time":   {`"type": "token.refused"`, `"type": "token.issued"`},
		"an index":   {`"count": `, `"count": 1`},
		"a checkbox": {`"seq": `, `"seq": 1`},
		"the tenant": {`"tenant": "acme",` + "\n    \"shard\"", `"tenant": "acmes",` + "\n    \"shard\""},
	} {
		changed := strings.Replace(string(proof), change[0], change[1], 1)
		if changed == string(proof) {
			t.Fatalf("%s: nothing to change in\n%s", what, proof)
		}
		if status, stdout, stderr := verify([]byte(changed), key); status != exitFound || !strings.Contains(stderr, "proves nothing") || stdout != "" {
			t.Errorf("%s changed: %d %s%s", what, status, stdout, stderr)
		}
	}
	_, other := signedSite(t, redis.URL(), "")
	if status, _, stderr := verify(proof, other); status != exitFound || !strings.Contains(stderr, "is not signed by a key that is known here") {
		t.Errorf("with another key: %d %s", status, stderr)
	}
}

func sameJSON(t *testing.T, a, b string) bool {
	t.Helper()
	var x, y any
	if json.Unmarshal([]byte(a), &x) != nil || json.Unmarshal([]byte(b), &y) != nil {
		return false
	}
	one, err1 := json.Marshal(x)
	two, err2 := json.Marshal(y)
	return err1 == nil && err2 == nil && bytes.Equal(one, two)
}
