package main

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"
)

// stormScenario: thousands of tokens of one provider that ended in the same minute are asked for together, and the provider takes
// fewer requests than come; callers of another provider are measured beside it.
type stormScenario struct{}

func (stormScenario) name() string { return "storm" }

func (stormScenario) about() string {
	return "10,000 tokens of one provider end in the same minute; its limit, and what callers of another one notice"
}

const (
	stormTokens = 10_000
	stormLimit  = 50    // requests at the same time, of 200 ms each: 250 a second
	stormRush   = 1_000 // callers a second
	stormTries  = 40
	stormBeside = 8 // users at the other provider
)

// neighbours are callers of the other provider.
type neighbours struct {
	took   []time.Duration
	failed int
}

// besides lets each of the neighbours' users refresh a token again and again until stop is closed.
func (s *refreshStage) besides(ctx context.Context, stop <-chan struct{}) neighbours {
	var out neighbours
	var mu sync.Mutex
	var group sync.WaitGroup
	for user := range stormBeside {
		group.Go(func() {
			tick := time.NewTicker(200 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-stop:
					return
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				a, err := s.ask(ctx, user%len(s.replicas), benchConnector, user, 3600) // the whole lifetime: it must be refreshed
				mu.Lock()
				out.took = append(out.took, a.took)
				if err != nil || a.status != 200 {
					out.failed++
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	return out
}

// stormResult is what came of a storm.
type stormResult struct {
	took         []time.Duration // from the first question to the token
	away, failed int
	all          time.Duration
}

// rush lets each user ask until there is a token, as often as told to come again.
func (s *refreshStage) rush(ctx context.Context, n int) stormResult {
	var out stormResult
	var mu sync.Mutex
	var group sync.WaitGroup
	began := time.Now()
	for user := range n {
		group.Go(func() {
			if !sleep(ctx, time.Until(began.Add(time.Duration(user)*time.Second/stormRush))) {
				return
			}
			asked, away, good := time.Now(), 0, false
			for !good && away < stormTries {
				a, err := s.ask(ctx, user%len(s.replicas), stormConnector, user, 60)
				if good = err == nil && a.status == 200; good {
					break
				}
				if away++; !sleep(ctx, max(a.again, time.Second)) {
					break
				}
			}
			mu.Lock()
			defer mu.Unlock()
			out.took = append(out.took, time.Since(asked))
			out.away += away
			if !good {
				out.failed++
			}
		})
	}
	group.Wait()
	out.all = time.Since(began)
	return out
}

// sleep waits; false: ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (stormScenario) run(ctx context.Context, b *bench) (section, error) {
	n, calm := stormTokens, 2*b.options.Span
	if b.options.Quick {
		n = 500
	}
	s, err := b.newRefreshStage(ctx, 2, n, stormBeside, stormLimit)
	if err != nil {
		return section{}, err
	}
	defer s.end()
	stop := make(chan struct{})
	timer := time.AfterFunc(calm, func() { close(stop) })
	before := s.besides(ctx, stop)
	timer.Stop()
	stop = make(chan struct{})
	beside := make(chan neighbours, 1)
	go func() { beside <- s.besides(ctx, stop) }()
	storm := s.rush(ctx, n)
	close(stop)
	during := <-beside
	if err := ctx.Err(); err != nil {
		return section{}, err
	}
	count := s.stormy.counted()
	out := section{title: "A storm of refreshes", text: []string{fmt.Sprintf(
		"%d tokens of one provider have ended; their users come at %d a second to two replicas, and again when they are told to. The provider works on %d requests at a time, each for 200 ms, and answers 429 beyond: "+
			"%d a second at best, which the broker is not told. Beside it %d users of another provider (20 ms) have a token refreshed five times a second each.", n, stormRush, stormLimit, stormLimit*5, stormBeside)}}
	t := table{caption: "The storm; times in s.", head: []string{"refreshed", "all done after", "refreshed a second", "waited, p50", "p99", "longest", "times sent away", "requests at once", "beyond the limit"}}
	t.add(strconv.Itoa(count.Refreshed), figure(storm.all.Seconds()), figure(float64(count.Refreshed)/storm.all.Seconds()), figure(percentile(storm.took, .5).Seconds()), figure(percentile(storm.took, .99).Seconds()),
		figure(percentile(storm.took, 1).Seconds()), strconv.Itoa(storm.away), strconv.Itoa(count.Most), strconv.Itoa(count.Beyond))
	other := table{caption: "Callers of the other provider, each of whose requests is a refresh; times in ms.", head: []string{"", "requests", "p50", "p99", "slowest", "failed"}}
	for _, row := range []struct {
		when string
		n    neighbours
	}{{"before", before}, {"in the storm", during}} {
		other.add(row.when, strconv.Itoa(len(row.n.took)), figure(inMillis(percentile(row.n.took, .5))), figure(inMillis(percentile(row.n.took, .99))), figure(inMillis(percentile(row.n.took, 1))), strconv.Itoa(row.n.failed))
	}
	out.tables = []table{t, other}
	out.demands = []demand{
		{what: "tokens that were not refreshed in the end", have: float64(storm.failed), want: 0, most: true},
		{what: "refresh tokens that were sent twice", have: float64(count.Unknown), want: 0, most: true},
		{what: "requests beyond the provider's limit, of all", have: 100 * float64(count.Beyond) / float64(max(1, count.Requests)), want: 5, unit: " %", most: true},
		{what: "refreshed a second, of what the provider takes", have: float64(count.Refreshed) / storm.all.Seconds() / (5 * stormLimit), want: .5, aim: true},
		{what: "callers of another provider that failed", have: float64(before.failed + during.failed), want: 0, most: true},
		{what: "callers of another provider: p99 in the storm, beyond that before it", have: inMillis(percentile(during.took, .99) - percentile(before.took, .99)), want: 50, unit: " ms", most: true},
	}
	return out, nil
}
