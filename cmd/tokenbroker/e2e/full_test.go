package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A store that is nearly full begins no consents any more, so that those who are connected get their tokens, and can leave.
func TestNearlyFullStore(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b := r.start()
	c := b.api(r.key)
	connection := c.connect(newBrowser(t), "alice")
	cli := r.redisCLI()
	// So much that what clients' buffers take on a busy machine is little beside it.
	cli.do("SETRANGE", "somebody-elses", 40<<20, "x")
	used := 0
	for line := range strings.Lines(fmt.Sprint(cli.do("INFO", "memory"))) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "used_memory:"); ok {
			used, _ = strconv.Atoi(value)
		}
	}
	if used == 0 {
		t.Fatal("redis does not tell its memory")
	}
	cli.do("CONFIG", "SET", "maxmemory", used*100/93)
	r.eventually(20*time.Second, "a refused consent", func() error {
		a, err := c.try("POST", "/v1/consents", object{"connector": "files", "subject": "bob"})
		if err != nil || a.status != 503 || a.header.Get("Retry-After") == "" || !strings.Contains(a.raw, "full") {
			return fmt.Errorf("%v, status %d %s", err, a.status, a.raw)
		}
		return nil
	})
	if a, err := c.try("POST", "/v1/tokens", object{"connector": "files", "subject": "carol"}); err != nil || a.status != 503 {
		t.Errorf("a token that needs a consent first: %v, status %d", err, a.status)
	}
	c.token("alice")
	status, checks := b.ready()
	if status != 200 || !strings.Contains(checks["memory"], "maxmemory") {
		t.Errorf("readyz: %d %v", status, checks)
	}
	c.want(200, "DELETE", "/v1/connections/"+connection, nil)
	cli.do("CONFIG", "SET", "maxmemory", "0")
	r.eventually(20*time.Second, "consents again", func() error {
		a, err := c.try("POST", "/v1/consents", object{"connector": "files", "subject": "bob"})
		if err != nil || a.status != 201 {
			return fmt.Errorf("%v, status %d", err, a.status)
		}
		return nil
	})
}
