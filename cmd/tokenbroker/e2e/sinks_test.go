package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// receiver is a webhook that takes events, or fails in some way.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	lines  []byte
	status int
	held   chan struct{} // not nil: it does not answer until this is closed
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	v := &receiver{status: http.StatusNoContent}
	v.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		v.mu.Lock()
		status, held := v.status, v.held
		if err == nil && held == nil && status < 300 {
			v.lines = append(v.lines, body...)
		}
		v.mu.Unlock()
		if held != nil {
			<-held
			status = http.StatusInternalServerError // whatever it did, it did not take them
		}
		w.WriteHeader(status)
	}))
	t.Cleanup(v.Close)
	return v
}

func (v *receiver) set(status int, held chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.status, v.held = status, held
}

func (v *receiver) content() []byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	return bytes.Clone(v.lines)
}

// told are the events in lines, by their ids, with how often each is there.
func told(t *testing.T, lines []byte) (events map[string]object, times map[string]int) {
	t.Helper()
	events, times = map[string]object{}, map[string]int{}
	for line := range bytes.Lines(lines) {
		var e object
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatalf("%v: %q", err, line)
		}
		id, _ := e["id"].(string)
		events[id] = e
		times[id]++
	}
	return events, times
}

// sinkRequests are all requests for tokens of a test, by what they were answered.
type sinkRequests struct {
	mu           sync.Mutex
	given, later map[string]bool // their request ids
}

// ask asks for tokens, n at once, and returns how many were given. Whatever happens, each is answered in time, and by 200 or by 503
// without a token.
func (q *sinkRequests) ask(t *testing.T, c *api, n int) (given int) {
	t.Helper()
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			began := time.Now()
			a, err := c.try("POST", "/v1/tokens", object{"connector": "files", "subject": "alice"})
			took := time.Since(began)
			id := a.header.Get("Request-Id")
			q.mu.Lock()
			defer q.mu.Unlock()
			switch {
			case err != nil || id == "":
				t.Errorf("%v, request id %q", err, id)
			case a.status == 200 && a.str("access_token") != "":
				q.given[id] = true
				given++
			case !a.comeAgain() || a.header.Get("Retry-After") == "" || strings.Contains(a.raw, "access_token"):
				t.Errorf("%d %v %s", a.status, a.header, a.raw)
			default:
				q.later[id] = true
			}
			if took > 250*time.Millisecond+2*time.Second { // the slack is for a busy machine
				t.Errorf("an answer took %v", took)
			}
		})
	}
	all.Wait()
	return given
}

// TestThreat70RequiredSink: no token without its events at every required sink, however one of them fails, by way of a disk that is gone
// or hangs, and a receiver that refuses, hangs or is not there. The others get what they lack later, also behind a kill.
func TestThreat70RequiredSink(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	hook, optional := newReceiver(t), newReceiver(t)
	dir := filepath.Join(r.dir, "events")
	file := filepath.Join(dir, "events.jsonl")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	r.writeConfig(fmt.Sprintf("audit: {sinks: [{file: events/events.jsonl, required: true}, {webhook: %q, required: true}, {webhook: %q}]}\n", hook.URL, optional.URL+"/canary-path"))
	p := r.start()
	c := p.api(r.key)
	c.connect(newBrowser(t), "alice")
	q := &sinkRequests{given: map[string]bool{}, later: map[string]bool{}}
	works := func(what string) {
		t.Helper()
		r.eventually(20*time.Second, "tokens are given "+what, func() error {
			if q.ask(t, c, 1) == 0 {
				return fmt.Errorf("503")
			}
			return nil
		})
	}
	works("at first")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	faults := []struct {
		name       string
		spoil, end func()
	}{
		{"directory gone", func() { must(os.Rename(dir, dir+".away")) }, func() { must(os.Rename(dir+".away", dir)) }},
		{"disk hangs", func() {
			must(os.Rename(file, file+".away"))
			must(syscall.Mkfifo(file, 0o600)) // nobody reads
		}, func() {
			for _, flag := range []int{os.O_RDONLY, os.O_RDWR} { // whoever opens it to write, or to read, goes on
				f, err := os.OpenFile(file, flag|syscall.O_NONBLOCK, 0)
				must(err)
				defer func() { _ = f.Close() }()
			}
			must(os.Rename(file+".away", file))
		}},
		{"receiver refuses", func() { hook.set(http.StatusInternalServerError, nil) }, func() { hook.set(http.StatusNoContent, nil) }},
		{"receiver hangs", func() { hook.set(0, make(chan struct{})) }, func() {
			held := hook.held
			hook.set(http.StatusNoContent, nil)
			close(held)
		}},
	}
	for _, f := range faults {
		f.spoil()
		if n := q.ask(t, c, 1) + q.ask(t, c, 40); n != 0 {
			t.Errorf("%s: %d tokens were given", f.name, n)
		}
		if ready := get(t, p.ops+"/readyz"); !strings.Contains(ready, "required sink") {
			t.Errorf("%s: /readyz says nothing: %s", f.name, ready)
		}
		f.end()
		works("behind: " + f.name)
	}
	before := len(q.given)
	if n := q.ask(t, c, 100); n == 0 {
		t.Error("none of 100 was given")
	}
	t.Logf("%d of 100 at once, %d tokens in all, %d refused for now", len(q.given)-before, len(q.given), len(q.later))

	// The events of each token that was given are at both, once; and there is nothing else but of requests that were told to come again.
	var issued []object
	for _, e := range c.events(url.Values{"type": {"token.issued"}}) {
		if q.given[e["request_id"].(string)] {
			issued = append(issued, e)
		}
	}
	if len(issued) < len(q.given) {
		t.Errorf("%d events of %d tokens", len(issued), len(q.given))
	}
	for name, lines := range map[string][]byte{"file": mustRead(t, file), "webhook": hook.content()} {
		events, times := told(t, lines)
		for _, e := range issued {
			if id := e["id"].(string); times[id] != 1 || fmt.Sprint(events[id]) != fmt.Sprint(e) {
				t.Errorf("%s: a token was given, and its event is there %d times: %v", name, times[id], events[id])
			}
		}
		for _, e := range events {
			if request := e["request_id"].(string); e["type"] == "token.issued" && !q.given[request] && !q.later[request] {
				t.Errorf("%s: an event of nobody's request: %v", name, e)
			}
		}
		if strings.Contains(string(lines), "access_token") || strings.Contains(string(lines), "canary") {
			t.Errorf("%s: a secret is there", name)
		}
	}

	// What the trail has, the optional sink has, in the form of the API; also what was written before and behind a kill. Of what is no
	// token, required ones have all too.
	c.refused(400, "invalid_scope", "alice", object{"scopes": []string{"files.admin"}})
	optional.set(http.StatusServiceUnavailable, nil)
	works("while the optional sink is away")
	p.kill()
	optional.set(http.StatusNoContent, nil)
	p.exec()
	p.waitReady(http.StatusOK)
	works("behind a kill")
	all := c.events(url.Values{})
	want := map[string]object{}
	for _, e := range all {
		want[e["id"].(string)] = e
	}
	lacks := func(lines []byte, but string) error {
		events, _ := told(t, lines)
		for _, id := range slices.Sorted(maps.Keys(want)) {
			if kind := want[id]["type"].(string); kind != but && fmt.Sprint(events[id]) != fmt.Sprint(want[id]) {
				return fmt.Errorf("it lacks a %s of %d events: %v, has %v", kind, len(want), want[id], events[id])
			}
		}
		return nil
	}
	r.eventually(time.Minute, "the optional sink has all", func() error { return lacks(optional.content(), "") })
	r.eventually(time.Minute, "the required webhook has all but tokens", func() error { return lacks(hook.content(), "token.issued") })
	r.eventually(time.Minute, "the required file has all but tokens", func() error { return lacks(mustRead(t, file), "token.issued") })
	if strings.Contains(p.log.String(), "canary-path") {
		t.Error("a log has the path of a webhook")
	}
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// get is the body of an answer, whatever its status.
func get(t *testing.T, address string) string {
	t.Helper()
	resp, err := http.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
