package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tokenbroker/vault/kek/kektest"
)

// kmsRig is a rig whose keyset is wrapped by a key management service.
func kmsRig(t *testing.T) (*rig, *kektest.Service) {
	t.Helper()
	r, kms := newRig(t, shortLived(2*time.Minute)), kektest.Start(t)
	reference := "hcvault:" + kms.URL() + "/transit/keys/tokenbroker"
	r.env = append(r.env, "VAULT_TOKEN="+kektest.Token)
	if err := os.Remove(filepath.Join(r.dir, "keyset.json")); err != nil {
		t.Fatal(err)
	}
	r.run("keyset", "create", "--out", "keyset.json", "--kek", reference)
	r.run("audit", "key", "--create", "--file", "audit-key.json", "--kek", reference)
	text, err := os.ReadFile(r.config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.config, []byte(strings.Replace(string(text), "env:TOKENBROKER_KEK", reference, 1)+"audit: {signing_key: audit-key.json}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return r, kms
}

// Once the keys are open the service is not asked and not needed: for tokens, consents, refreshes, revocations.
func TestThreat37TokensGoOnWithoutKMS(t *testing.T) {
	t.Parallel()
	r, kms := kmsRig(t)
	r.run("config", "check", "--config", r.config)
	if out := r.run("keyset", "list", "--file", "keyset.json", "--kek", "hcvault:"+kms.URL()+"/transit/keys/tokenbroker"); !strings.Contains(out, "enabled") {
		t.Errorf("keyset list: %s", out)
	}
	p := r.start()
	c := p.api(r.key)
	c.connect(newBrowser(t), "alice")
	asked := kms.Asked()
	for range 50 {
		c.token("alice")
	}
	kms.Stop()
	c.connect(newBrowser(t), "bob")
	c.token("alice")
	c.token("bob")
	if before := c.token("alice").str("access_token"); c.token("alice", object{"min_ttl": 120}).str("access_token") == before {
		t.Error("nothing was refreshed")
	}
	if now := kms.Asked(); now != asked {
		t.Errorf("it was asked %d times on the way of requests", now-asked)
	}

	// A rotation is what it is asked for: it comes through as soon as the service does.
	if out, code := r.try("keyset", "rotate", "--file", "keyset.json", "--kek", "hcvault:"+kms.URL()+"/transit/keys/tokenbroker"); code != 1 || !strings.Contains(out, "can't be asked now") || strings.Contains(out, kektest.Token) {
		t.Errorf("rotate without it: exit %d, %s", code, out)
	}
	if out, code := r.try("config", "check", "--config", r.config); code != 1 || !strings.Contains(out, "can't be asked now") {
		t.Errorf("config check without it: exit %d, %s", code, out)
	}
	kms.Resume()
	r.run("keyset", "rotate", "--file", "keyset.json", "--kek", "hcvault:"+kms.URL()+"/transit/keys/tokenbroker")
	r.eventually(20*time.Second, "the rotated keyset", func() error {
		if !strings.Contains(p.log.String(), "keyset read again") {
			return fmt.Errorf("not in the log yet")
		}
		return nil
	})
	c.token("alice")
	if strings.Contains(p.log.String(), kektest.Token) {
		t.Error("the service's token is in the log")
	}
}

// A changed keyset file that can't be opened is tried again until it can, and the keys in use stay.
func TestThreat37RotationWhileKMSIsAway(t *testing.T) {
	t.Parallel()
	r, kms := kmsRig(t)
	p := r.start()
	c := p.api(r.key)
	c.connect(newBrowser(t), "alice")
	before, err := os.ReadFile(filepath.Join(r.dir, "keyset.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(r.dir, "next.json"), before, 0o600); err != nil {
		t.Fatal(err)
	}
	r.run("keyset", "rotate", "--file", "next.json", "--kek", "hcvault:"+kms.URL()+"/transit/keys/tokenbroker")
	kms.Stop()
	if err := os.Rename(filepath.Join(r.dir, "next.json"), filepath.Join(r.dir, "keyset.json")); err != nil {
		t.Fatal(err)
	}
	said := func(words string) {
		t.Helper()
		r.eventually(20*time.Second, words, func() error {
			if !strings.Contains(p.log.String(), words) {
				return fmt.Errorf("not in the log yet")
			}
			return nil
		})
	}
	said("the changed keyset file is not used")
	c.token("alice")
	kms.Resume()
	said("keyset read again")
	c.token("alice")
}

// A replica meets a record under a key that it lacks while the service hangs: that request is told so at once, all others are served as
// ever, and nothing is called tampered with.
func TestThreat37NewKeyWhileKMSHangs(t *testing.T) {
	t.Parallel()
	r, kms := kmsRig(t)
	r.edit("file: keyset.json", "file: ${KEYSET}")
	r.place("keyset.json", "other.json")
	r.place("keyset.json", "rotated.json")
	r.run("keyset", "rotate", "--file", "rotated.json", "--kek", "hcvault:"+kms.URL()+"/transit/keys/tokenbroker")
	p, q := r.start("KEYSET=keyset.json"), r.start("KEYSET=other.json", "SPOOL=spool2", "VAULT_NAMESPACE=other")
	c, other := p.api(r.key), q.api(r.key)
	c.connect(newBrowser(t), "alice")
	c.connect(newBrowser(t), "bob")

	// It hangs for one of both replicas, which gets the newer file first.
	hangs := func(req *http.Request) bool { return req.Header.Get("X-Vault-Namespace") == "" }
	kms.Hangs.Store(&hangs)
	r.place("rotated.json", "keyset.json")
	r.place("rotated.json", "other.json")
	r.eventually(20*time.Second, "the other replica has the new key", func() error {
		if !strings.Contains(q.log.String(), "keyset read again") {
			return fmt.Errorf("not in the log yet")
		}
		return nil
	})
	other.token("bob", object{"min_ttl": 120}) // a refresh, and so another record
	const soon = time.Second                   // the service is given five
	for range 8 {
		began := time.Now()
		a := c.refused(http.StatusServiceUnavailable, "temporarily_unavailable", "bob")
		if took := time.Since(began); took > soon || !strings.Contains(a.raw, "a key that this replica of the broker does not have yet") || a.header.Get("Retry-After") == "" {
			t.Errorf("the record under the new key: after %s, %s", took, a.raw)
		}
		began = time.Now()
		c.token("alice")
		if took := time.Since(began); took > soon {
			t.Errorf("another record took %s", took)
		}
		other.token("bob")
		time.Sleep(300 * time.Millisecond) // over more than one pause between two looks
	}
	kms.Hangs.Store(nil)
	r.eventually(20*time.Second, "the new key is here", func() error {
		if a, err := c.try("POST", "/v1/tokens", object{"connector": "files", "subject": "bob"}); err != nil || a.status != http.StatusOK {
			return fmt.Errorf("%v, %d %s", err, a.status, a.raw)
		}
		return nil
	})
	for _, event := range c.events(nil) {
		if event["type"] == "integrity.failed" {
			t.Errorf("an event says that something was tampered with: %v", event)
		}
	}
}

// A restart while the service is away: alive, not ready, 503 with a reason; and ready by itself when it is back.
func TestThreat37RestartWithoutKMS(t *testing.T) {
	t.Parallel()
	r, kms := kmsRig(t)
	p := r.start()
	c := p.api(r.key)
	c.connect(newBrowser(t), "alice")
	token := c.token("alice").str("access_token")
	p.stop()
	kms.Stop()

	p.exec()
	p.waitReady(http.StatusServiceUnavailable)
	if resp, err := http.Get(p.ops + "/healthz"); err != nil || resp.StatusCode != 200 {
		t.Errorf("healthz: %v %v", resp, err)
	}
	if text := string(p.get(p.ops + "/readyz")); !strings.Contains(text, `"ready":false`) || !strings.Contains(text, "keyset") || !strings.Contains(text, "connection refused") || strings.Contains(text, kektest.Token) {
		t.Errorf("readyz: %s", text)
	}
	for _, path := range []string{"/v1/tokens", "/v1/consents", "/dashboard", "/connect/x", "/nowhere"} {
		a, err := c.try("POST", path, object{"connector": "files", "subject": "alice"})
		if err != nil || a.status != 503 || a.str("error") != "temporarily_unavailable" || a.header.Get("Retry-After") == "" || a.header.Get("Request-Id") == "" || a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %v %d %s", path, err, a.status, a.raw)
		}
	}
	kms.Resume()
	p.waitReady(http.StatusOK)
	if got := c.token("alice").str("access_token"); got != token {
		t.Error("another token than before")
	}

	// Told to end while it waits, it ends at once and in good order.
	p.stop()
	kms.Stop()
	p.exec()
	p.waitReady(http.StatusServiceUnavailable)
	began := time.Now()
	p.stop()
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("ending took %s", took)
	}

	// A refusal does not pass by waiting: it ends the process with a line that says what to mend.
	kms.Resume()
	r.env = append(r.env, "VAULT_TOKEN=wrong")
	if out, code := r.try("serve", "--config", r.config); code != 1 || !strings.Contains(out, "policy lacks update") || strings.Contains(out, "wrong") {
		t.Errorf("a wrong token: exit %d, %s", code, out)
	}
}
