package e2e

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// A user takes the app out of the account at the provider, which says so: the connection is marked before anybody asks for
// its token, and what was not signed by the provider marks nothing.
func TestNotice(t *testing.T) {
	t.Parallel()
	const secret = "notice-canary-5b1f"
	r := newRig(t, users("alice", "bob"))
	r.writeConfig(`    notices:
      signature: {kind: hmac-sha256, header: X-Rig-Signature, prefix: "sha256="}
      challenges: [{when: {type: challenge}, answer: {answer: question}}]
      events: [{when: {type: removed}, accounts: [user.id]}]
`)
	r.edit("  - id: files\n    provider: rig\n", "  - id: files\n    notice_secret: "+secret+"\n    provider: rig\n")
	p, other := r.start("SPOOL=spool-a"), r.start("SPOOL=spool-b")
	c := p.api(r.key)
	account := map[string]string{}
	for _, user := range []string{"alice", "bob"} {
		b := newBrowser(t)
		b.hint = user
		c.connect(b, user)
		account[user] = c.token(user).body["account"].(object)["id"].(string)
	}
	send := func(body, signature string) (int, string) {
		t.Helper()
		req, err := http.NewRequest("POST", other.url+"/notices/files", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if signature != "" {
			req.Header.Set("X-Rig-Signature", signature)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text := make([]byte, 1000)
		n, _ := resp.Body.Read(text)
		return resp.StatusCode, string(text[:n])
	}
	signed := func(body string) string {
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write([]byte(body))
		return "sha256=" + hex.EncodeToString(mac.Sum(nil))
	}
	if status, text := send(`{"type":"challenge","question":"42"}`, signed(`{"type":"challenge","question":"42"}`)); status != 200 || text != `{"answer":"42"}` {
		t.Errorf("the challenge: %d %s", status, text)
	}
	removed := fmt.Sprintf(`{"type":"removed","user":{"id":%q}}`, account["alice"])
	before := r.provider.Stats().TokenRequests["refresh_token"]
	for name, signature := range map[string]string{"none": "", "another": signed(removed + " "), "no hex": "sha256=zz"} {
		if status, _ := send(removed, signature); status != 401 {
			t.Errorf("signature %s: %d", name, status)
		}
	}
	// A notice that is not true takes nothing from anybody: the provider is asked, and says that the grant is alive.
	if status, _ := send(removed, signed(removed)); status != 200 {
		t.Fatalf("a notice: %d", status)
	}
	r.eventually(callAgain, "the grant is looked at", func() error {
		if n := r.provider.Stats().TokenRequests["refresh_token"] - before; n != 1 {
			return fmt.Errorf("%d refreshes", n)
		}
		return nil
	})
	c.token("alice")
	r.provider.RevokeUser("alice")
	if status, _ := send(removed, signed(removed)); status != 200 {
		t.Fatalf("a notice: %d", status)
	}
	r.eventually(callAgain, "the connection is marked", func() error {
		if a := c.want(200, "GET", "/v1/connections?subject=alice", nil); a.list("connections")[0]["status"] != "needs_consent" {
			return fmt.Errorf("%v", a.list("connections")[0]["status"])
		}
		return nil
	})
	c.token("bob")
	if events := c.events(url.Values{"type": {"connection.noticed"}, "scope": {"files.read"}}); len(events) != 2 || events[0]["subject"] != "alice" {
		t.Errorf("on record: %v", events)
	}
	if resp, err := http.Post(p.url+"/notices/other", "application/json", strings.NewReader(removed)); err != nil || resp.StatusCode != 404 {
		t.Errorf("a connector without a secret: %v %v", resp, err)
	}
	for _, replica := range []*brokerProcess{p, other} {
		if strings.Contains(replica.log.String(), secret) {
			t.Error("the secret is in a log")
		}
	}
}
