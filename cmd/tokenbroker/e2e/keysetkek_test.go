package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tokenbroker/vault/kek/kektest"
)

// kekRig is a rig whose replicas may have a KEK each: KEK names it.
func kekRig(t *testing.T) *rig {
	t.Helper()
	r := newRig(t)
	r.run("audit", "key", "--create", "--file", "audit-key.json", "--kek", "env:TOKENBROKER_KEK")
	r.writeConfig("audit: {signing_key: audit-key.json}\n")
	r.edit("kek: env:TOKENBROKER_KEK", "kek: ${KEK}")
	r.env = append(r.env, "KEK=env:TOKENBROKER_KEK")
	return r
}

// with is a command with another KEK in the configuration than the rig's.
func (r *rig) with(kek string, args ...string) (string, int) {
	r.t.Helper()
	before := r.env
	r.env = append(before[:len(before):len(before)], "KEK="+kek)
	defer func() { r.env = before }()
	return r.try(append(args, "--config", r.config)...)
}

// restart ends the replica in order and starts it again with another KEK.
func (p *brokerProcess) restart(kek string) {
	p.rig.t.Helper()
	p.stop()
	p.env = append(p.env, "KEK="+kek)
	p.exec()
	p.waitReady(http.StatusOK)
}

// Threat 36: from a KEK in the environment to one of a key management service, with two replicas under load: no request for a token
// fails, each replica can be restarted at every moment, and in the end the old KEK opens nothing.
func TestThreat36KEKIsChangedUnderLoad(t *testing.T) {
	t.Parallel()
	r, kms := kekRig(t), kektest.Start(t)
	r.edit("shutdown_delay: 100ms", "shutdown_delay: 1s")
	const old = "env:TOKENBROKER_KEK"
	fresh := "hcvault:" + kms.URL() + "/transit/keys/tokenbroker"
	r.env = append(r.env, "VAULT_TOKEN="+kektest.Token)
	p, q := r.start(), r.start("SPOOL=spool2")
	apis := []*api{p.api(r.key), q.api(r.key)}
	var subjects []string
	for i := range 8 {
		subjects = append(subjects, fmt.Sprint("user-", i))
		apis[0].connect(newBrowser(t), subjects[i])
	}
	before, err := os.ReadFile(filepath.Join(r.dir, "keyset.json"))
	if err != nil {
		t.Fatal(err)
	}
	// A load balancer takes a replica out before it is restarted.
	var out atomic.Int64
	out.Store(-1)
	load := loadOver(t, 100, subjects, func(n int) *api {
		if n%2 == int(out.Load()) {
			n++
		}
		return apis[n%2]
	})
	restart := func(n int, kek string) {
		t.Helper()
		out.Store(int64(n)) // who was sent there just now has shutdown_delay to arrive
		[]*brokerProcess{p, q}[n].restart(kek)
		out.Store(-1)
	}
	refused := func(says, kek string, args ...string) {
		t.Helper()
		if text, code := r.with(kek, args...); code != 1 || !strings.Contains(text, says) || strings.Contains(text, kektest.Token) {
			t.Errorf("%v: exit %d, wanted %q:\n%s", args, code, says, text)
		}
	}
	done := func(says, kek string, args ...string) {
		t.Helper()
		if text, code := r.with(kek, args...); code != 0 || !strings.Contains(text, says) {
			t.Fatalf("%v: exit %d, wanted %q:\n%s", args, code, says, text)
		}
	}

	refused("encrypted with \"env:TOKENBROKER_KEK\"", fresh, "config", "check")
	done("opens with either KEK now", old, "keyset", "kek", "add", fresh)
	done("is encrypted for", old, "keyset", "kek", "add", fresh) // once more
	done("is fine", old, "config", "check")
	done("is fine", fresh, "config", "check")
	refused("must open the file with the one that stays", old, "keyset", "kek", "drop", old)
	refused("opens the keyset with it", fresh, "keyset", "kek", "drop", old)
	restart(0, old) // a replica that is not changed yet starts as ever
	restart(0, fresh)
	r.eventually(20*time.Second, "status tells who opens it with what", func() error {
		text, code := r.with(old, "keyset", "status")
		if code != 0 || !strings.Contains(text, "opened it with "+fresh) || !strings.Contains(text, "opened it with "+old) {
			return fmt.Errorf("exit %d: %s", code, text)
		}
		return nil
	})
	done("was added", fresh, "keyset", "add") // a change of the keys by one KEK is taken up by who has the other
	r.eventually(20*time.Second, "both have the new key", func() error {
		if text, _ := r.with(old, "keyset", "status"); strings.Count(text, "2 of 2") != 3 {
			return fmt.Errorf("%s", text)
		}
		return nil
	})
	refused("opens the keyset with it", fresh, "keyset", "kek", "drop", old)
	restart(1, fresh)
	done("opens with "+fresh+" alone now", fresh, "keyset", "kek", "drop", old, "--wait", "30s")
	done("nothing was changed", fresh, "keyset", "kek", "drop", old)
	restart(0, fresh)
	restart(1, fresh)
	load.stop()
	if asked, failed := load.asked.Load(), load.failed.Load(); failed != 0 || asked < 300 {
		t.Errorf("%d of %d requests failed, the first: %s", failed, asked, *load.first.Load())
	} else {
		t.Logf("%d requests, none failed", asked)
	}

	// With the old KEK a start refuses, and says what is to be done; a copy from before still opens with it.
	text, code := r.with(old, "serve")
	if code != 1 || !strings.Contains(text, `the file says that it is encrypted with "`+fresh+`"`) || !strings.Contains(text, "name that one in keyset.kek") {
		t.Errorf("a start with the old KEK: exit %d, %s", code, text)
	}
	if err := os.WriteFile(filepath.Join(r.dir, "copy.json"), before, 0o600); err != nil {
		t.Fatal(err)
	}
	r.run("keyset", "list", "--file", "copy.json", "--kek", old)
	if out := r.run("keyset", "list", "--file", "keyset.json", "--kek", fresh); !strings.Contains(out, "enabled") {
		t.Errorf("keyset list: %s", out)
	}
	if text, code := r.with(fresh, "audit", "verify"); code != 0 {
		t.Errorf("audit verify: exit %d, %s", code, text)
	}

	// The service rotates its own key: wrapped once more, the file does without the version before.
	kms.Rotate(0)
	done("was wrapped by "+fresh+" once more", fresh, "keyset", "kek", "renew")
	kms.Rotate(2)
	done("is fine", fresh, "config", "check")
	restart(0, fresh)
	apis[0].token(subjects[0])
}

// A replica that has the KEK which was dropped in spite of it goes on with the keys in memory, is ready, and says what is wrong; going back
// mends it without a restart.
func TestThreat36ReplicaWithTheKEKThatWasDropped(t *testing.T) {
	t.Parallel()
	r := kekRig(t)
	r.env = append(r.env, "NEXT_KEK="+strings.Repeat("Aa1-", 10)+"Aa0")
	const old, fresh = "env:TOKENBROKER_KEK", "env:NEXT_KEK"
	p, q := r.start(), r.start("SPOOL=spool2")
	c, other := p.api(r.key), q.api(r.key)
	c.connect(newBrowser(t), "alice")
	keyset := func(kek string, args ...string) string {
		t.Helper()
		text, code := r.with(kek, append([]string{"keyset"}, args...)...)
		if code != 0 {
			t.Fatalf("%v: exit %d\n%s", args, code, text)
		}
		return text
	}
	keyset(old, "kek", "add", fresh)
	r.place("keyset.json", "both.json")
	r.place("audit-key.json", "both-audit.json")
	q.restart(fresh)
	if text := keyset(fresh, "kek", "drop", old, "--force"); !strings.Contains(text, "in spite of this: replica ") {
		t.Errorf("dropped by force: %s", text)
	}
	ready := func(says string) {
		t.Helper()
		r.eventually(20*time.Second, "readyz says "+says, func() error {
			if text := string(p.get(p.ops + "/readyz")); !strings.Contains(text, `"ready":true`) || !strings.Contains(text, says) {
				return fmt.Errorf("it says %s", text)
			}
			return nil
		})
	}
	ready(`goes on with the keys in memory`)
	ready(`the file says that it is encrypted with \"env:NEXT_KEK\"`)
	r.eventually(20*time.Second, "the metric is 0", func() error {
		if text := string(p.get(p.ops + "/metrics")); !regexp.MustCompile(`(?m)^tokenbroker_ready\{check="keyset".*\} 0$`).MatchString(text) {
			return fmt.Errorf("it is %s", regexp.MustCompile(`(?m)^tokenbroker_ready.*$`).FindAllString(text, -1))
		}
		return nil
	})
	for range 20 {
		c.token("alice")
		other.token("alice")
	}
	c.connect(newBrowser(t), "bob")
	other.token("bob", object{"min_ttl": 3590})
	if !strings.Contains(p.log.String(), "the changed keyset file is not used; the keys in memory still are") {
		t.Error("the log does not tell")
	}
	if text, code := r.with(old, "serve"); code != 1 || !strings.Contains(text, "name that one in keyset.kek") {
		t.Errorf("a start with the KEK that was dropped: exit %d, %s", code, text)
	}
	r.place("both-audit.json", "audit-key.json")
	r.place("both.json", "keyset.json")
	ready(`"keyset":"ok"`)
	if text := keyset(old, "kek", "list"); !strings.Contains(text, fresh) {
		t.Errorf("list: %s", text)
	}
	q.restart(old)
	r.eventually(30*time.Second, "back", func() error {
		if text, code := r.with(old, "keyset", "kek", "drop", fresh); code != 0 {
			return fmt.Errorf("exit %d: %s", code, text)
		}
		return nil
	})
	p.restart(old)
	c.token("alice")
}
