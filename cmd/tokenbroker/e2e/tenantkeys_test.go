package e2e

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Threats 78 and 80: a tenant whose keyset is destroyed is refused within seconds, clearly and by every replica; another tenant's
// clients notice nothing; the trail is whole, and tells of what nobody can read any more.
func TestThreat80TenantErased(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, q := r.start(), r.start("SPOOL=spool2")
	acme, rival := []*api{p.api(r.key), q.api(r.key)}, []*api{p.api(r.other), q.api(r.other)}
	alice := acme[0].connect(newBrowser(t), "alice")
	rival[0].connect(newBrowser(t), "eve")
	file := []string{"--file", filepath.Join(r.dir, "keyset.json"), "--kek", "env:TOKENBROKER_KEK"}
	keyset := func(args ...string) string {
		return r.run(append(append([]string{"keyset", "tenant"}, args...), file...)...)
	}
	cli := r.redisCLI()
	record := cli.recordOf(alice)
	before := cli.hash(record)
	keyset("create", "--tenant", "acme")
	r.eventually(60*time.Second, "the tenant's records are sealed with its own key", func() error {
		for _, c := range acme {
			c.token("alice")
		}
		now := cli.hash(record)
		for _, field := range []string{"p", "rt", "at:"} {
			if now[field] == before[field] {
				return fmt.Errorf("%s is as before", field)
			}
		}
		return nil
	})
	acme[1].connect(newBrowser(t), "bob") // by the tenant's own key from the beginning
	backup := cli.hash(record)
	keyset("destroy", "--tenant", "acme", "--confirm", "acme")
	for _, c := range acme {
		r.eventually(20*time.Second, "the tenant is refused", func() error {
			a, err := c.try("POST", "/v1/tokens", object{"connector": "files", "subject": "alice"})
			switch {
			case err != nil:
				t.Fatal(err)
			case a.status == http.StatusNotFound && strings.Contains(a.raw, "erased"):
				return nil
			case a.status != http.StatusOK && a.status != http.StatusServiceUnavailable: // its keys went between two steps of the request
				t.Errorf("on the way to the refusal: %d %s", a.status, a.raw)
			}
			return fmt.Errorf("status %d", a.status)
		})
		for _, call := range [][2]string{{"GET", "/v1/connections"}, {"GET", "/v1/connections/" + alice}, {"GET", "/v1/events"}, {"GET", "/v1/connectors"}} {
			c.want(http.StatusNotFound, call[0], call[1], nil)
		}
	}
	for _, c := range rival {
		c.token("eve")
		if len(c.events(nil)) == 0 {
			t.Error("another tenant's events are gone")
		}
	}
	if after := cli.hash(record); after["rt"] != backup["rt"] {
		t.Error("the record of the erased tenant was touched")
	}
	if out := r.run("audit", "verify", "--config", r.config); !strings.Contains(out, "is whole") || !strings.Contains(out, "of erased tenants can't be read") {
		t.Errorf("audit verify: %s", out)
	}
	// What is exported or archived of them verifies too.
	r.run("audit", "export", "--config", r.config, "--out", "erased.zst")
	if out := r.run("audit", "verify", "--archive", "erased.zst"); !strings.Contains(out, "is whole") || !strings.Contains(out, "of tenants whose keyset was destroyed") {
		t.Errorf("audit verify --archive: %s", out)
	}
	p.waitReady(http.StatusOK)
	p.stop()
	p.exec()
	p.waitReady(http.StatusOK)
	rival[0].token("eve")
	for _, each := range []*brokerProcess{p, q} {
		if log := each.log.String(); strings.Contains(log, "panic") || strings.Contains(log, `"status":500`) {
			t.Error("a replica answered 500")
		}
	}
}

// A replica that is killed while it seals records anew leaves that to the next one, which ends it.
func TestThreat35KilledWhileSealing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.start()
	c := p.api(r.key)
	for i := range 5 {
		c.connect(newBrowser(t), fmt.Sprint("user-", i))
	}
	file := filepath.Join(r.dir, "keyset.json")
	cli := r.redisCLI()
	var old uint32
	for id := range cli.sealers() {
		old = id
	}
	r.run("keyset", "rotate", "--file", file, "--kek", "env:TOKENBROKER_KEK")
	r.eventually(40*time.Second, "sealing anew begins", func() error {
		if n, err := cli.rdb.HExists(context.Background(), "tb:{00}:rs", "own").Result(); err != nil || !n {
			return fmt.Errorf("not begun, %v", err)
		}
		return nil
	})
	p.kill()
	p.exec()
	p.waitReady(http.StatusOK)
	r.eventually(60*time.Second, "the next process ends it", func() error {
		if n := cli.sealers()[old]; n > 0 {
			time.Sleep(200 * time.Millisecond)
			return fmt.Errorf("%d values are still sealed with the old key", n)
		}
		return nil
	})
	for i := range 5 {
		c.token(fmt.Sprint("user-", i))
	}
}
