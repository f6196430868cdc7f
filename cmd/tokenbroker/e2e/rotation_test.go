package e2e

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tokenbroker/vault"
)

// keyLoad asks for tokens at a steady rate, at all replicas in turn, and counts what was not answered with a token.
type keyLoad struct {
	asked, failed atomic.Int64
	first         atomic.Pointer[string]
	stop          func()
}

// rotationRate is how many requests a second.
const rotationRate = 200

func loadOf(t *testing.T, subjects []string, apis ...*api) *keyLoad {
	return loadOver(t, rotationRate, subjects, func(n int) *api { return apis[n%len(apis)] })
}

// loadOver asks whom pick says, at that rate a second.
func loadOver(t *testing.T, rate int, subjects []string, pick func(n int) *api) *keyLoad {
	ctx, cancel := context.WithCancel(context.Background())
	l := &keyLoad{}
	var all sync.WaitGroup
	ask := func(n int, more object) {
		l.asked.Add(1)
		a, err := pick(n).try("POST", "/v1/tokens", merge(object{"connector": "files", "subject": subjects[n%len(subjects)]}, more))
		if err != nil || a.status != http.StatusOK {
			l.failed.Add(1)
			text := fmt.Sprintf("%v, %d %s", err, a.status, a.raw)
			l.first.CompareAndSwap(nil, &text)
		}
	}
	all.Go(func() {
		tick := time.NewTicker(time.Second / time.Duration(rate))
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			more := object{}
			if n%50 == 0 {
				more["min_ttl"] = 3590 // which takes a refresh, and so a write of the record
			}
			all.Go(func() { ask(n, more) })
		}
	})
	l.stop = sync.OnceFunc(func() { cancel(); all.Wait() })
	t.Cleanup(l.stop)
	return l
}

// Threats 35 and 78: a rotation in stages while 200 requests a second come in. None fails, all records are sealed anew, and the key
// before is gone, from the file and from every record; the trail is whole, and its events can be read.
func TestThreat35RotationInStages(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, q := r.start(), r.start("SPOOL=spool2")
	c, other := p.api(r.key), q.api(r.key)
	var subjects []string
	for i := range 12 {
		subjects = append(subjects, fmt.Sprint("user-", i))
		c.connect(newBrowser(t), subjects[i])
	}
	file := filepath.Join(r.dir, "keyset.json")
	keys := func() (all []uint32) {
		t.Helper()
		for _, line := range strings.Split(r.run("keyset", "list", "--file", file, "--kek", "env:TOKENBROKER_KEK"), "\n")[1:] {
			var id uint32
			if n, _ := fmt.Sscan(line, &id); n == 1 {
				all = append(all, id)
			}
		}
		return all
	}
	id := func(key uint32) string { return fmt.Sprint(key) }
	load := loadOf(t, subjects, c, other)
	// stage goes on asking for a change that is refused at first, for the reason.
	stage := func(reason string, args ...string) {
		t.Helper()
		args = append(args, "--config", r.config)
		if out, code := r.try(args...); code != 1 || !strings.Contains(out, reason) {
			t.Errorf("%v at once: exit %d\n%s", args, code, out)
		}
		r.eventually(150*time.Second, strings.Join(args[:2], " "), func() error {
			if out, code := r.try(args...); code != 0 {
				time.Sleep(time.Second)
				return fmt.Errorf("exit %d: %s", code, out)
			}
			return nil
		})
	}
	old := keys()[0]
	r.run("keyset", "add", "--config", r.config)
	fresh := keys()[1]
	stage("has not loaded the keyset as it is", "keyset", "promote", id(fresh))
	stage("has not loaded the keyset as it is", "keyset", "disable", id(old))
	// Deleting waits for a second pass over all records, a minute behind the first.
	stage("has not loaded the keyset as it is", "keyset", "delete", id(old), "--after", "1s")
	if left := keys(); len(left) != 1 || left[0] != fresh {
		t.Errorf("keys: %v, the new one is %d", left, fresh)
	}
	time.Sleep(3 * time.Second) // requests with the file as it is now
	load.stop()
	if asked, failed := load.asked.Load(), load.failed.Load(); failed != 0 || asked < 500 {
		t.Errorf("%d of %d requests failed, the first: %s", failed, asked, *load.first.Load())
	} else {
		t.Logf("%d requests at %d a second, none failed", asked, rotationRate)
	}

	sealedBy := r.redisCLI().sealers()
	if sealedBy[old] != 0 || sealedBy[fresh] < 3*len(subjects) {
		t.Errorf("values by key: %v; the old one was %d, the new one is %d", sealedBy, old, fresh)
	}
	if out := r.run("keyset", "status", "--config", r.config, "--count"); !strings.Contains(out, "sealing anew: done") || !strings.Contains(out, "2 of 2") || strings.Contains(out, id(old)) {
		t.Errorf("status:\n%s", out)
	}
	if metrics := string(p.get(p.ops + "/metrics")); !regexp.MustCompile(`(?m)^tokenbroker_keyset_records\{.*key="`+id(fresh)+`".*\} [1-9]`).MatchString(metrics) || !regexp.MustCompile(`(?m)^tokenbroker_keyset_records_left(\{.*\})? 0$`).MatchString(metrics) {
		t.Errorf("the metrics do not tell how many records each key has sealed:\n%s", strings.Join(regexp.MustCompile(`(?m)^tokenbroker_keyset.*$`).FindAllString(metrics, -1), "\n"))
	}
	p.stop()
	p.exec()
	p.waitReady(http.StatusOK)
	for _, subject := range subjects {
		c.token(subject)
	}
	if out := r.run("audit", "verify", "--config", r.config); !strings.Contains(out, "is whole") {
		t.Errorf("audit verify: %s", out)
	}
	if n := len(c.events(nil)); n < int(load.asked.Load()) {
		t.Errorf("%d events of %d requests", n, load.asked.Load())
	}
}

// sealers counts the sealed values in all hashes by the key that Tink names in bytes 1 to 4, and those of audit entries, whoever knows
// what they are.
func (c *redisCLI) sealers() map[uint32]int {
	c.t.Helper()
	all := map[uint32]int{}
	for _, key := range c.keys() {
		if c.rdb.Type(context.Background(), key).Val() != "hash" {
			continue
		}
		for _, value := range c.hash(key) {
			if id, ok := vault.SealedBy(value); ok {
				all[id]++
			}
		}
	}
	return all
}
