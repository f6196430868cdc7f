package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// refreshScenario: many callers on one token that ended, and many such tokens one after the other.
type refreshScenario struct{}

func (refreshScenario) name() string { return "refresh" }

func (refreshScenario) about() string {
	return "200 callers on one expired token; different refreshes a second that one replica sustains"
}

const (
	togetherCallers = 200
	sustainedRate   = 300 // refreshes a second
)

func (refreshScenario) run(ctx context.Context, b *bench) (section, error) {
	rounds, seconds := max(1, b.options.Rounds), max(1, int(2*b.options.Span.Seconds()))
	users := rounds + 1 + seconds*sustainedRate
	s, err := b.newRefreshStage(ctx, 1, users, 0, 0)
	if err != nil {
		return section{}, err
	}
	defer s.end()
	out := section{title: "Refreshes", text: []string{"One replica, AOF everysec; the provider answers in 200 ms and rotates refresh tokens strictly; every grant is refreshed with its lease, its file in the spool, " +
		"and its events."}}
	together := table{caption: fmt.Sprintf("%d callers at once on one expired token; times in ms.", togetherCallers), head: []string{"round", "refreshes", "p50", "p99", "slowest", "failed"}}
	var worst time.Duration
	most, failed := 0, 0
	for round := range rounds + 1 {
		before := s.stormy.counted().Refreshed
		took, bad := s.together(ctx, round)
		n := s.stormy.counted().Refreshed - before
		failed += bad
		if round == 0 {
			continue // opens the connections
		}
		most, worst = max(most, n), max(worst, percentile(took, .99))
		together.add(strconv.Itoa(round), strconv.Itoa(n), figure(inMillis(percentile(took, .5))), figure(inMillis(percentile(took, .99))), figure(inMillis(percentile(took, 1))), strconv.Itoa(bad))
	}
	endProfile, err := b.profileOf(s.house, s.replicas[0])
	if err != nil {
		return out, err
	}
	many, err := s.sustain(ctx, rounds+1, seconds)
	if err != nil {
		return out, err
	}
	profiles, err := endProfile(ctx, fmt.Sprintf("%d refreshes a second, AOF everysec", sustainedRate))
	if err != nil {
		return out, err
	}
	out.text = append(out.text, profiles...)
	out.tables = append(out.tables, together, many.table())
	out.demands = []demand{
		{what: "200 callers on one expired token: refreshes", have: float64(most), want: 1, most: true},
		{what: "200 callers on one expired token: p99 behind a provider of 200 ms", have: inMillis(worst), want: 350, unit: " ms", most: true},
		{what: "different refreshes a second, one replica", have: many.rate, want: sustainedRate * .99},
		{what: "requests that failed", have: float64(failed + many.failed), want: 0, most: true},
	}
	return out, nil
}

// together lets many callers ask for one user's token at the same moment.
func (s *refreshStage) together(ctx context.Context, user int) (took []time.Duration, failed int) {
	var group sync.WaitGroup
	var mu sync.Mutex
	start := make(chan struct{})
	first := ""
	for range togetherCallers {
		group.Go(func() {
			<-start
			a, err := s.ask(ctx, 0, stormConnector, user, 60)
			mu.Lock()
			defer mu.Unlock()
			if first == "" {
				first = a.token
			}
			if err != nil || a.status != 200 || a.token != first {
				failed++
			}
			took = append(took, a.took)
		})
	}
	close(start)
	group.Wait()
	return took, failed
}

// sustained is what came of refreshes at a steady rate.
type sustained struct {
	rate, commands  float64
	used            [3]float64 // processor time in µs a refresh: of the broker, of Redis, of this program, with the provider in it
	took            []time.Duration
	failed, seconds int
}

func (m sustained) table() table {
	t := table{caption: fmt.Sprintf("Different refreshes at %d a second for %d s (open loop); times in ms, processor time in µs a refresh.", sustainedRate, m.seconds),
		head: []string{"refreshed a second", "p50", "p99", "slowest", "broker", "Redis", "load and provider", "scripts run by Redis a refresh", "failed"}}
	t.add(figure(m.rate), figure(inMillis(percentile(m.took, .5))), figure(inMillis(percentile(m.took, .99))), figure(inMillis(percentile(m.took, 1))), figure(m.used[0]), figure(m.used[1]), figure(m.used[2]), figure(m.commands), strconv.Itoa(m.failed))
	return t
}

// scripts counts what the broker had Redis run: each is a round trip, or shares one.
func (s *refreshStage) scripts(ctx context.Context) (float64, error) {
	reply, err := s.redis.ask(ctx, "INFO", "commandstats")
	if err != nil {
		return 0, err
	}
	text, _ := reply.(string)
	sum := 0.0
	for line := range strings.Lines(text) {
		name, rest, _ := strings.Cut(line, ":calls=")
		if calls, _, _ := strings.Cut(rest, ","); name == "cmdstat_evalsha" || name == "cmdstat_eval" || name == "cmdstat_fcall" {
			n, err := strconv.ParseFloat(calls, 64)
			if err != nil {
				return 0, fmt.Errorf("INFO commandstats: %w", err)
			}
			sum += n
		}
	}
	return sum, nil
}

// sustain refreshes tokens of users from first on, each once, at the rate, and tells how many were answered a second from the first
// request to the last answer, less the provider's time.
func (s *refreshStage) sustain(ctx context.Context, first, seconds int) (sustained, error) {
	m := sustained{seconds: seconds}
	cpu := func() (used [3]time.Duration, err error) {
		for i, pid := range []int{s.replicas[0].pid(), s.redis.pid(), os.Getpid()} {
			if used[i], err = cpuTime(pid); err != nil {
				return used, err
			}
		}
		return used, nil
	}
	usedBefore, err := cpu()
	if err != nil {
		return m, err
	}
	commandsBefore, err := s.scripts(ctx)
	if err != nil {
		return m, err
	}
	n := seconds * sustainedRate
	var group sync.WaitGroup
	var mu sync.Mutex
	began := time.Now()
	for i := range n {
		timer := time.NewTimer(time.Until(began.Add(time.Duration(i) * time.Second / sustainedRate)))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			group.Wait()
			return m, ctx.Err()
		}
		meant := began.Add(time.Duration(i) * time.Second / sustainedRate)
		group.Go(func() {
			a, err := s.ask(ctx, 0, stormConnector, first+i, 60)
			mu.Lock()
			defer mu.Unlock()
			if err != nil || a.status != 200 {
				m.failed++
			}
			m.took = append(m.took, time.Since(meant))
		})
	}
	group.Wait()
	span := time.Since(began) - s.stormy.latency
	usedAfter, err := cpu()
	if err != nil {
		return m, err
	}
	commandsAfter, err := s.scripts(ctx)
	if err != nil {
		return m, err
	}
	m.rate = float64(n-m.failed) / span.Seconds()
	for i := range m.used {
		m.used[i] = float64((usedAfter[i] - usedBefore[i]).Microseconds()) / float64(n)
	}
	m.commands = (commandsAfter - commandsBefore) / float64(n)
	return m, nil
}
