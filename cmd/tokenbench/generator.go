package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// generator carries out one plan.
type generator struct {
	plan    loadPlan
	from    time.Time // of what is counted
	until   time.Time
	tickets chan time.Time // of an open loop: when the request should be sent

	mu      sync.Mutex
	times   *hdrhistogram.Histogram // nanoseconds; of an open loop also what was answered after the end
	counted int64                   // answered between from and until
	checked int64
	asked   int64
	errors  map[string]int64
}

const (
	shortest, longest = 1_000, int64(2 * time.Minute) // of the histogram, in nanoseconds
	digits            = 3
	// checkEvery is how many answers there are to one whose token is compared.
	checkEvery = 32
	// answerPatience is how long after the end answers are waited for.
	answerPatience = 40 * time.Second
)

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(shortest, longest, digits) }

func newGenerator(plan loadPlan) *generator {
	return &generator{plan: plan, times: newHistogram(), errors: map[string]int64{}}
}

// run connects, loads and tells what came of it.
func (g *generator) run(ctx context.Context) (loadResult, error) {
	if g.plan.Connections < 1 || g.plan.Span <= 0 || g.plan.Tokens == nil && len(g.plan.Paths) == 0 {
		return loadResult{}, errors.New("a plan needs connections, a span and requests")
	}
	lines := make([]*line, g.plan.Connections)
	for i := range lines {
		lines[i] = g.newLine(i)
		if err := lines[i].wire.connect(); err != nil {
			return loadResult{}, fmt.Errorf("connect: %w", err)
		}
	}
	g.from = time.Now().Add(g.plan.Warm)
	g.until = g.from.Add(g.plan.Span)

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var beside, group sync.WaitGroup
	result := loadResult{CPU: map[int]time.Duration{}}
	beside.Go(func() { g.watch(ctx, result.CPU) })
	if g.plan.Rate > 0 {
		// As many as there will be, so that the pacer never waits for a line.
		g.tickets = make(chan time.Time, int(g.plan.Rate*(g.plan.Warm+g.plan.Span).Seconds())+1)
		beside.Go(func() { pace(ctx, g.plan.Rate, time.Now(), g.until, g.tickets) })
	}
	for _, l := range lines {
		group.Go(func() { l.run(ctx) })
	}
	group.Wait()
	result.Span = g.plan.Span
	if g.plan.Each > 0 {
		result.Span = min(result.Span, time.Since(g.from))
	}
	if g.plan.Each > 0 {
		cancel() // the time need not be over
	}
	beside.Wait()
	if err := ctx.Err(); err != nil && g.plan.Each == 0 {
		return loadResult{}, err
	}
	result.Requests, result.Asked, result.Checked, result.Errors = g.counted, g.asked, g.checked, g.errors
	result.Latency = latency{
		Mean: time.Duration(g.times.Mean()), P50: time.Duration(g.times.ValueAtQuantile(50)), P90: time.Duration(g.times.ValueAtQuantile(90)),
		P99: time.Duration(g.times.ValueAtQuantile(99)), P999: time.Duration(g.times.ValueAtQuantile(99.9)), Max: time.Duration(g.times.Max()),
	}
	own, err := cpuTime(os.Getpid())
	result.OwnCPU = own
	return result, err
}

// watch reads the use of the processors at both ends of what is counted. It may come late to either, so what it finds is for
// the span that was meant.
func (g *generator) watch(ctx context.Context, used map[int]time.Duration) {
	sleepUntil(ctx, g.from)
	began := time.Now()
	for _, pid := range g.plan.Watch {
		if t, err := cpuTime(pid); err == nil {
			used[pid] = t
		}
	}
	sleepUntil(ctx, g.until)
	scale := 1.0
	if g.plan.Each == 0 {
		scale = g.plan.Span.Seconds() / time.Since(began).Seconds()
	}
	for _, pid := range g.plan.Watch {
		if t, err := cpuTime(pid); err == nil {
			used[pid] = time.Duration(float64(t-used[pid]) * scale)
		}
	}
}

func sleepUntil(ctx context.Context, t time.Time) {
	timer := time.NewTimer(time.Until(t))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// line is one connection and what it found.
type line struct {
	g       *generator
	wire    *wire
	random  *rand.Rand
	request []byte
	number  int // where in request the number of the user stands; 0: nowhere
	chosen  int // the user asked for
	path    int
	place   int // among the connections
	asked   int
	checked int64
	errors  map[string]int64
}

func (g *generator) newLine(i int) *line {
	until := time.Now().Add(g.plan.Warm + g.plan.Span + answerPatience)
	l := &line{
		g: g, wire: newWire(g.plan.Address, until), random: rand.New(rand.NewPCG(uint64(i), 7)), path: i, place: i,
		errors: map[string]int64{},
	}
	if g.plan.Tokens != nil {
		l.request, l.number = tokenRequest(g.plan.Address, g.plan.Key)
	}
	return l
}

// tokenRequest is a request and where in it the user's number stands.
func tokenRequest(host, key string) (request []byte, number int) {
	scopes := `"` + joinWith(benchScopes(), `","`) + `"`
	body := fmt.Sprintf(`{"connector":%q,"subject":%q,"scopes":[%s],"actor":{"agent":"assistant","run":"run-20481","tool":"search"},"reason":"summarise the quarterly numbers"}`,
		benchConnector, subject(0), scopes)
	text := fmt.Sprintf("POST /v1/tokens HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", host, key, len(body), body)
	mark := []byte(subject(0))
	return []byte(text), bytes.Index([]byte(text), mark) + bytes.IndexByte(mark, '0')
}

func joinWith(words []string, between string) string {
	var b bytes.Buffer
	for i, w := range words {
		if i > 0 {
			b.WriteString(between)
		}
		b.WriteString(w)
	}
	return b.String()
}

// next writes the next request.
func (l *line) next() []byte {
	plan := l.g.plan
	if plan.Tokens == nil {
		path := plan.Paths[l.path%len(plan.Paths)]
		l.path++
		return fmt.Appendf(l.request[:0], "GET %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n", path, plan.Address, plan.Key)
	}
	l.chosen = plan.Tokens.First + l.random.IntN(max(1, plan.Tokens.Count))
	if plan.Tokens.InTurn {
		l.chosen = plan.Tokens.First + (l.asked*plan.Connections+l.place)%plan.Tokens.Count
	}
	n := l.chosen
	for at := l.number + subjectWidth - 1; at >= l.number; at-- {
		l.request[at] = byte('0' + n%10)
		n /= 10
	}
	return l.request
}

// run asks until the time is over.
func (l *line) run(ctx context.Context) {
	defer l.wire.close()
	defer l.report()
	each := l.g.plan.Each
	if l.g.tickets != nil {
		for due := range l.g.tickets {
			end, ok := l.ask()
			if ok && !due.Before(l.g.from) {
				l.g.record(end.Sub(due), !end.After(l.g.until))
			}
			if ctx.Err() != nil {
				return
			}
		}
		return
	}
	for began := time.Now(); began.Before(l.g.until) && ctx.Err() == nil && (each == 0 || l.asked < each); {
		end, ok := l.ask()
		if ok && !end.Before(l.g.from) && (each > 0 || !end.After(l.g.until)) {
			l.g.record(end.Sub(began), true)
		}
		began = end
	}
}

// ask sends one request and looks at the answer.
func (l *line) ask() (end time.Time, ok bool) {
	status, body, err := l.wire.ask(l.next())
	end = time.Now()
	l.asked++
	switch {
	case err != nil:
		l.errors[err.Error()]++
		time.Sleep(10 * time.Millisecond) // a server that is not there must not be hammered
		return end, false
	case status != 200:
		l.errors[kindOf(status, body)]++
		return end, false
	}
	if l.g.plan.Tokens != nil && l.g.plan.Tokens.Check && l.asked%checkEvery == 1 {
		if !bytes.Contains(body, []byte(`"access_token":"`+accessToken(l.chosen)+`"`)) {
			l.errors["another token than the user's"]++
			return end, false
		}
		l.checked++
	}
	return end, true
}

// record counts a request. One histogram for all lines: a lock costs less than the cache that one for each would need.
func (g *generator) record(took time.Duration, inTime bool) {
	g.mu.Lock()
	if inTime {
		g.counted++
	}
	_ = g.times.RecordValue(int64(min(took, time.Duration(longest)))) // it takes all from 0 to longest
	g.mu.Unlock()
}

// kindOf names a refused request: its status, and the code of the error if it has one.
func kindOf(status int, body []byte) string {
	text := "status " + strconv.Itoa(status)
	if _, rest, ok := bytes.Cut(body, []byte(`"error":"`)); ok {
		code, _, _ := bytes.Cut(rest, []byte(`"`))
		text += " " + string(code[:min(len(code), 100)])
	}
	return text
}

// report adds what the line found to the whole.
func (l *line) report() {
	l.g.mu.Lock()
	defer l.g.mu.Unlock()
	l.g.checked += l.checked
	l.g.asked += int64(l.asked)
	for text, n := range l.errors {
		if len(l.g.errors) >= 20 && l.g.errors[text] == 0 {
			text = "something else"
		}
		l.g.errors[text] += n
	}
}
