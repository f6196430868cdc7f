//go:build scale

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// sinkSetup is a way to have the broker run.
type sinkSetup struct {
	name, config string
	alone, among []time.Duration // what a token took: one at a time, and with others
	tokens       int             // that were had with others,
	refused      int             // 503: something did not answer in time, as happens on a busy machine
	took         time.Duration   // in so much time
	behind       time.Duration   // how long behind that until the place had all events; the worst
}

// TestSinksAtScale measures what places that get each event cost a token: none, a file that is optional, one that is required, a webhook that is. In turns,
// SINKS_ROUNDS of them, with the real program, a Redis and the receiver on one machine. The report goes to SINKS_REPORT.
func TestSinksAtScale(t *testing.T) {
	rounds, samples, length := int(setting(t, "SINKS_ROUNDS", 4)), int(setting(t, "SINKS_SAMPLES", 2000)), time.Duration(setting(t, "SINKS_SECONDS", 5))*time.Second
	const callers = 32
	r := newRig(t)
	hook := newReceiver(t)
	text, err := os.ReadFile(r.config)
	if err != nil {
		t.Fatal(err)
	}
	text = bytes.Replace(text, []byte("log_level: debug"), []byte("log_level: warn"), 1)
	file := filepath.Join(t.TempDir(), "events.jsonl") // on a disk: the rig's directory is in memory, where a sync is nothing
	setups := []*sinkSetup{
		{name: "no sink"},
		{name: "optional file", config: fmt.Sprintf("audit: {sinks: [{file: %q}]}\n", file)},
		{name: "required file, each write synced", config: fmt.Sprintf("audit: {sinks: [{file: %q, required: true}]}\n", file)},
		{name: "required webhook on loopback", config: "audit: {sinks: [{webhook: \"" + hook.URL + "/events\", required: true}]}\n"},
	}
	sync1 := syncTimes(t, file, 500)
	user := newBrowser(t)
	connected := false
	for round := range rounds {
		for i := range setups {
			s := setups[(round+i)%len(setups)]
			if err := os.WriteFile(r.config, append(bytes.Clone(text), s.config...), 0o600); err != nil {
				t.Fatal(err)
			}
			_ = os.Remove(file)
			p := r.start()
			if c := p.api(r.key); !connected {
				c.connect(user, "v")
				connected = true
			}
			client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: callers}}
			var refused atomic.Int64
			token := func() time.Duration {
				req, err := http.NewRequestWithContext(t.Context(), "POST", p.url+"/v1/tokens", strings.NewReader(`{"connector":"files","subject":"v","reason":"measure"}`))
				if err != nil {
					t.Error(err)
					return 0
				}
				req.Header.Set("Authorization", "Bearer "+r.key)
				req.Header.Set("Content-Type", "application/json")
				began := time.Now()
				resp, err := client.Do(req)
				if err != nil {
					t.Error(err)
					return 0
				}
				_, err = io.Copy(io.Discard, resp.Body)
				took := time.Since(began)
				_ = resp.Body.Close()
				switch {
				case err == nil && resp.StatusCode == http.StatusServiceUnavailable:
					refused.Add(1)
				case err != nil || resp.StatusCode != http.StatusOK:
					t.Errorf("%s: %d %v", s.name, resp.StatusCode, err)
				}
				return took
			}
			for range 200 { // the first ones pay for connections
				token()
			}
			for range samples {
				s.alone = append(s.alone, token())
			}
			began := time.Now()
			var group sync.WaitGroup
			var mu sync.Mutex
			for range callers {
				group.Go(func() {
					var mine []time.Duration
					for time.Since(began) < length && !t.Failed() {
						mine = append(mine, token())
					}
					mu.Lock()
					defer mu.Unlock()
					s.among = append(s.among, mine...)
					s.tokens += len(mine)
				})
			}
			group.Wait()
			end := time.Now()
			s.took += end.Sub(began)
			s.refused += int(refused.Load())
			if s.name == "optional file" {
				// The last event is there, whichever came before it.
				const last = "the last one of this"
				p.api(r.key).want(http.StatusOK, "POST", "/v1/tokens", object{"connector": "files", "subject": "v", "reason": last})
				r.eventually(5*time.Minute, "the file has all events", func() error {
					content, err := os.ReadFile(file)
					if err == nil && !bytes.Contains(content[max(0, len(content)-1<<20):], []byte(last)) {
						err = fmt.Errorf("%d bytes", len(content))
					}
					return err
				})
				s.behind = max(s.behind, time.Since(end))
			}
			client.CloseIdleConnections()
			p.stop()
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# Places that get each event, %s\n\nOne process of the broker, a Redis, the receiver of the webhook and who asks, on %d processors over loopback. %d rounds of %d tokens one at a time and %v of %d callers, in turns; a token has one event. "+
		"Made by `make sinks`.\n\n", time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(), rounds, samples, length, callers)
	fmt.Fprintf(&b, "| | one at a time, p50 | p99 | more than without, p50 | %d callers: tokens (events) a second | p50 | p99 | refused (503) |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n", callers)
	short := func(d time.Duration) string { return d.Round(10 * time.Microsecond).String() }
	for _, s := range setups {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %.0f | %s | %s | %d |\n", s.name, short(percentile(s.alone, 50)), short(percentile(s.alone, 99)), short(percentile(s.alone, 50)-percentile(setups[0].alone, 50)),
			float64(s.tokens)/s.took.Seconds(), short(percentile(s.among, 50)), short(percentile(s.among, 99)), s.refused)
	}
	fmt.Fprintf(&b, "\nOne line and its sync, by itself on that disk: p50 %s, p99 %s.\n", short(percentile(sync1, 50)), short(percentile(sync1, 99)))
	fmt.Fprintf(&b, "The optional file had all events %s behind the end of the load, at most.\n", setups[1].behind.Round(100*time.Millisecond))
	t.Log(b.String())
	if report := os.Getenv("SINKS_REPORT"); report != "" {
		if err := os.WriteFile(report, []byte(b.String()), 0o644); err != nil {
			t.Error(err)
		}
	}
}

// syncTimes are what writing a line and syncing it takes, n times.
func syncTimes(t *testing.T, path string, n int) (times []time.Duration) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	line := append(bytes.Repeat([]byte("x"), 400), '\n')
	for range n {
		began := time.Now()
		_, err := f.Write(line)
		if err == nil {
			err = f.Sync()
		}
		if err != nil {
			t.Fatal(err)
		}
		times = append(times, time.Since(began))
	}
	return times
}
