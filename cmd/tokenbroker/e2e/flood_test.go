package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// floodSize is how large a flood is, and what it must not do.
type floodSize struct {
	consents, callbacks int
	pending             int           // pending consents that the client may have
	consentRate         int           // requests a second; 0: as many as there can be
	callbackRate        int           //
	samples             int           // of the other client, in each round
	floor               time.Duration // below which a p99 says more of the machine than of the flood
	resident            int           // bytes that the process may grow by
	perConsent          int           // bytes in Redis that a consent may take, its events among them
}

// Threats 16, 52, 68 and 69 at a small size, by one client and from one address: what a flood of consents and of callbacks with states that
// nobody gave out leaves in Redis and in the process is bounded, and another client gets its tokens as before. make flood runs it at full size.
func TestThreat68Flood(t *testing.T) {
	report := flood(t, floodSize{consents: 2000, callbacks: 20_000, pending: 300, consentRate: 1000, callbackRate: 4000, samples: 100, floor: 400 * time.Millisecond, resident: 96 << 20, perConsent: 8 << 10})
	t.Log("\n" + report)
}

// flooded is one flood on its way.
type flooded struct {
	t      *testing.T
	size   floodSize
	p      *brokerProcess
	cli    *redisCLI
	others *api
	quiet  []time.Duration // of the other client, without a flood and with one, in turns
	loud   []time.Duration
	again  int // tokens that had to be asked for again
}

func flood(t *testing.T, size floodSize) string {
	r := newRig(t)
	r.writeConfig(fmt.Sprintf("limits: {client: {pending_consents: %d}}\n", size.pending))
	f := r.flooded(size)
	p := f.p
	keys, memory, resident := f.keys(), f.cli.info("used_memory"), p.resident(t)

	consents := f.consents(r.key)
	created, refused := consents[http.StatusCreated], consents[http.StatusTooManyRequests]
	if created != size.pending || created+refused != size.consents {
		t.Errorf("consents: %v; %d may be pending", consents, size.pending)
	}
	ofFlows := f.keysOfFlows()
	afterConsents, consentMemory, consentResident := f.keys(), f.cli.info("used_memory"), p.resident(t)
	// A record, what a subject's are found by, its place for the subject, what is asked once; and the streams of tenants and shards.
	if most := 4*size.pending + 1500; afterConsents-keys > most {
		t.Errorf("%d consents left %d keys, more than %d", created, afterConsents-keys, most)
	}
	if most := size.perConsent*size.pending + 4<<20; consentMemory-memory > most {
		t.Errorf("%d consents left %d KiB in Redis, more than %d", created, (consentMemory-memory)>>10, most>>10)
	}

	before, sampled := p.processor(t), len(f.quiet)+len(f.loud)
	callbacks := f.callbacks()
	each := (p.processor(t) - before) / time.Duration(size.callbacks)
	if callbacks[http.StatusTooManyRequests] < size.callbacks*9/10 {
		t.Errorf("callbacks: %v", callbacks)
	}
	end, endMemory, endResident := f.keys(), f.cli.info("used_memory"), p.resident(t)
	// Beside them there are the events of the other client's tokens, and those of links that end in a flood of many minutes.
	if more := f.keysOfFlows() - ofFlows; more > 20 || endMemory-consentMemory > 4<<20+(len(f.quiet)+len(f.loud)-sampled+size.pending)<<10 {
		t.Errorf("%d callbacks left %d keys and %d KiB in Redis", size.callbacks, more, (endMemory-consentMemory)>>10)
	}
	if grown := max(consentResident, endResident) - resident; grown > size.resident {
		t.Errorf("the process grew by %d MiB, more than %d", grown>>20, size.resident>>20)
	}
	quiet, loud := percentile(f.quiet, 99), percentile(f.loud, 99)
	if loud > max(2*quiet, size.floor) {
		t.Errorf("the other client's p99 is %v during the flood, and %v without it", loud, quiet)
	}
	f.onRecord(r, refused)

	return fmt.Sprintf("| | before | after %d consents | after %d callbacks |\n| --- | --- | --- | --- |\n| keys in Redis | %d | %d | %d |\n| used_memory of Redis | %d KiB | %d KiB | %d KiB |\n| resident memory of the process | %d MiB | %d MiB | %d MiB |\n\n"+
		"Consents: %d made, %d refused (429). Callbacks: %s, each at %v of processor time of the process, the other client's requests included.\n\nThe other client's tokens, one at a time, in turns of %d requests:\n\n| | p50 | p99 | worst |\n| --- | --- | --- | --- |\n| without a flood | %v | %v | %v |\n| during the floods | %v | %v | %v |\n",
		size.consents, size.callbacks, keys, afterConsents, end, memory>>10, consentMemory>>10, endMemory>>10, resident>>20, consentResident>>20, endResident>>20,
		created, refused, statuses(callbacks), each.Round(time.Microsecond), size.samples, percentile(f.quiet, 50), quiet, percentile(f.quiet, 100), percentile(f.loud, 50), loud, percentile(f.loud, 100))
}

// flooded starts the program, and the other client.
func (r *rig) flooded(size floodSize) *flooded {
	r.t.Helper()
	p := r.start("LOG_LEVEL=info")
	f := &flooded{t: r.t, size: size, p: p, cli: r.redisCLI(), others: p.api(r.other)}
	f.others.connect(newBrowser(r.t), "v")
	f.sample(20, &[]time.Duration{}) // the first ones pay for connections
	return f
}

func (f *flooded) keys() int {
	f.t.Helper()
	n, _ := f.cli.do("DBSIZE").(int64)
	return int(n)
}

// keysOfFlows are those but the index of events, which follows behind what the consents left.
func (f *flooded) keysOfFlows() (n int) {
	f.t.Helper()
	for _, key := range f.cli.keys() {
		if !strings.Contains(key, ":ax:") {
			n++
		}
	}
	return n
}

// consents asks for consents of one client, each for a subject of its own.
func (f *flooded) consents(key string) map[int]int {
	return f.inTurns(f.size.consents, f.size.consentRate, floodOrder{
		Method: "POST", URL: f.p.url + "/v1/consents", Body: `{"connector":"files","subject":"flood-{i}"}`,
		Header: map[string]string{"Authorization": "Bearer " + key, "Content-Type": "application/json"},
	})
}

// callbacks come with states that nobody gave out, and another X-Forwarded-For each: the sender is no trusted proxy (threat 52).
func (f *flooded) callbacks() map[int]int {
	return f.inTurns(f.size.callbacks, f.size.callbackRate, floodOrder{
		Method: "GET", URL: f.p.url + "/oauth2/callback/files?code=x&state={state}", Header: map[string]string{"X-Forwarded-For": "{from}"},
	})
}

// inTurns sends n requests in four parts, and has the other client's times measured during each and between them. It counts answers by
// their status.
func (f *flooded) inTurns(n, perSecond int, order floodOrder) map[int]int {
	f.t.Helper()
	const parts = 4
	total := map[int]int{}
	for part := range parts {
		f.sample(f.size.samples, &f.quiet)
		order.First, order.Last, order.PerSecond, order.Senders = n*part/parts, n*(part+1)/parts, perSecond, 8
		done := make(chan map[int]int, 1)
		go func() { done <- order.send(f.t) }()
		var answered map[int]int
		for answered == nil {
			f.sample(10, &f.loud)
			select {
			case answered = <-done:
			default:
			}
		}
		for status, count := range answered {
			total[status] += count
		}
	}
	return total
}

// sample takes the times of so many tokens of the other client, some hundred a second at most.
func (f *flooded) sample(n int, into *[]time.Duration) {
	f.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range n {
		<-tick.C
		began := time.Now()
		for try := 1; ; try++ {
			a, err := f.others.try("POST", "/v1/tokens", object{"connector": "files", "subject": "v"})
			if err == nil && a.status == http.StatusOK {
				break
			}
			if err != nil || a.status != http.StatusServiceUnavailable || try == 5 {
				f.t.Fatalf("the other client: %v, status %d %s", err, a.status, a.raw)
			}
			f.again++ // its event was not written in time, on a machine that has other work: it counts until it has its token
		}
		*into = append(*into, time.Since(began))
	}
}

// onRecord waits for the events of the flood: few, which tell how much was refused.
func (f *flooded) onRecord(r *rig, refused int) {
	f.t.Helper()
	c := f.p.api(r.key)
	pending, made := f.p.metric(`tokenbroker_limit_refused_total{limit="client_consents"}`), f.p.metric(`tokenbroker_limit_refused_total{limit="links"}`)
	if pending+made != refused {
		f.t.Errorf("%d and %d refusals are counted, of %d", pending, made, refused)
	}
	if n := f.p.metric(`tokenbroker_limit_refused_total{limit="wrong_links"}`); n < f.size.callbacks*9/10 {
		f.t.Errorf("%d callbacks that were sent away are counted", n)
	}
	events := c.events(url.Values{"type": {"token.refused"}})
	if len(events) == 0 || len(events) > 60 {
		f.t.Errorf("%d events of refusals", len(events))
	}
	for _, e := range events {
		if reason, _ := e["reason"].(string); e["outcome"] != "slow_down" || !strings.Contains(reason, "refused since") {
			f.t.Errorf("event %v", e)
		}
	}
}

// metric is a value on /metrics, whatever further labels it has; 0: it is not there.
func (p *brokerProcess) metric(name string) int {
	p.rig.t.Helper()
	base, label, _ := strings.Cut(strings.TrimSuffix(name, "}"), "{")
	for line := range strings.Lines(string(p.get(p.ops + "/metrics"))) {
		if strings.HasPrefix(line, base+"{") && strings.Contains(line, label) {
			fields := strings.Fields(line)
			n, err := strconv.ParseFloat(fields[len(fields)-1], 64)
			if err == nil {
				return int(n)
			}
		}
	}
	return 0
}

// percentile of times, 100: the worst.
func percentile(times []time.Duration, p int) time.Duration {
	sorted := slices.Clone(times)
	slices.Sort(sorted)
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, len(sorted)*p/100)].Round(10 * time.Microsecond)
}

func statuses(answered map[int]int) string {
	var parts []string
	for _, status := range []int{0, 200, 303, 400, 403, 404, 429, 500, 503} {
		if answered[status] > 0 {
			parts = append(parts, fmt.Sprintf("%d answered %d", answered[status], status))
		}
	}
	return strings.Join(parts, ", ")
}

// processor is the processor time that the process has used (proc(5), in ticks of 10 ms).
func (p *brokerProcess) processor(t *testing.T) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	if err1 != nil || err2 != nil {
		t.Fatalf("/proc: %s", text)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}

// resident is the memory that the process has.
func (p *brokerProcess) resident(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(status)
	kb, err := strconv.Atoi(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	return kb << 10
}

func (c *redisCLI) infoText(name string) string {
	c.t.Helper()
	text, err := c.rdb.Info(context.Background(), "all").Result()
	if err != nil {
		c.t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^` + name + `:([^\r\n]+)`).FindStringSubmatch(text)
	if m == nil {
		return ""
	}
	return m[1]
}

func (c *redisCLI) info(name string) int {
	n, _ := strconv.Atoi(c.infoText(name))
	return n
}
