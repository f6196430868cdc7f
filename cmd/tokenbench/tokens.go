package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// tokensScenario is the hot path: POST /v1/tokens for a valid token and three scopes, the broker against the reference.
type tokensScenario struct{}

func (tokensScenario) name() string { return "tokens" }

func (tokensScenario) about() string {
	return "token requests, valid token, 3 scopes: throughput, latency and processor time against the reference"
}

// tokenUsers is how many users there are in this comparison.
const tokenUsers = 1000

func (tokensScenario) run(ctx context.Context, b *bench) (section, error) {
	out := section{title: "Token requests, valid token, 3 scopes"}
	for _, fsync := range []string{everySecond, always} {
		if err := tokensAt(ctx, b, fsync, &out); err != nil {
			return out, fmt.Errorf("AOF %s: %w", fsync, err)
		}
	}
	return out, nil
}

func tokensAt(ctx context.Context, b *bench, fsync string, out *section) error {
	users := tokenUsers
	if b.options.Quick {
		users = 100
	}
	s, err := b.newStage(ctx, fsync, users)
	if err != nil {
		return err
	}
	defer s.end()
	if len(out.text) == 0 {
		out.text = append(out.text, fmt.Sprintf("%d users with one connection each, chosen at random. The broker keeps %d bytes a record and appends %d bytes a request; the reference keeps %d and appends %d. "+
			"Each side has a Redis of its own.", users, s.recordBytes, s.eventBytes, s.referenceBytes, s.eventBytes))
	}
	warm := min(time.Second, b.options.Span/2)
	plan := loadPlan{Warm: warm, Span: b.options.Span, Key: benchKey, Tokens: &tokenRequests{Count: users, Check: true}}

	closed := table{caption: fmt.Sprintf("Closed loop, AOF %s; medians of %d rounds, ranges in brackets; times in ms; processor time in µs, and allocations of the server, a request.", fsync, b.options.Rounds),
		head: slices.Concat([]string{"connections", ""}, measuredHead())}
	lesser := 0.0 // of the throughputs at 32
	failed := int64(0)
	for _, connections := range []int{1, 32, 256} {
		plan.Connections = connections
		sides, err := b.alternate(ctx, fmt.Sprintf("AOF %s, %d connections", fsync, connections), s.sides(), plan)
		if err != nil {
			return err
		}
		failed += sides[0].failed() + sides[1].failed()
		compare(&closed, fmt.Sprint(connections), sides[0], sides[1])
		if len(sides) > 2 {
			compareWith(&closed, sides[0], sides[2])
		}
		if connections == 32 {
			out.demands = append(out.demands, tokenDemands(fsync, sides[0], sides[1])...)
			out.text = append(out.text, fmt.Sprintf("AOF %s, 32 connections: the generator itself took %s µs of processor time a request from the reference, %s from the broker.",
				fsync, figure(sides[0].median(generatorCPU).median), figure(sides[1].median(generatorCPU).median)))
			lesser = min(sides[0].median(perSecond).median, sides[1].median(perSecond).median)
		}
	}
	out.tables = append(out.tables, closed)

	open := table{caption: fmt.Sprintf("Open loop at fixed rates, AOF %s: parts of the lesser of the two throughputs at 32 connections. Latencies count from the moment at which a request was due.", fsync),
		head: slices.Concat([]string{"requests a second due", ""}, measuredHead())}
	if b.options.Profile && fsync == everySecond {
		once := plan
		once.Connections, once.Span = 32, 2*plan.Span
		texts, err := b.profiled(ctx, s, once)
		if err != nil {
			return err
		}
		out.text = append(out.text, texts...)
	}
	plan.Connections = 64
	for _, part := range []float64{0.25, 0.5, 0.75} {
		plan.Rate = lesser * part
		sides, err := b.alternate(ctx, fmt.Sprintf("AOF %s, %.0f a second due", fsync, plan.Rate), s.sides()[:2], plan)
		if err != nil {
			return err
		}
		failed += sides[0].failed() + sides[1].failed()
		compare(&open, fmt.Sprintf("%s (%.0f %%)", figure(plan.Rate), part*100), sides[0], sides[1])
		if part == 0.5 {
			out.demands = append(out.demands, demand{what: fmt.Sprintf("p99, open loop at %.0f %%, AOF %s, broker / reference", part*100, fsync), have: ratio(sides[0], sides[1], p99).median, want: 1.3, most: true, aim: true})
		}
	}
	out.tables = append(out.tables, open)
	out.demands = append(out.demands, demand{what: "failed requests of all loads, AOF " + fsync, have: float64(failed), most: true})
	return nil
}

// measuredHead is above what compare writes behind the first two cells.
func measuredHead() []string {
	return []string{"requests a second", "p50", "p99", "p99.9", "CPU, server", "CPU, Redis", "CPU, both", "allocations", "bytes allocated"}
}

// compare adds a row for each of two sides, and one for their ratio.
func compare(t *table, what string, a, b measured) {
	addSide(t, what, a)
	compareWith(t, a, b)
}

// compareWith adds the rows of b, where those of a stand already.
func compareWith(t *table, a, b measured) {
	addSide(t, "", b)
	t.add("", "**"+b.side.name+" / "+a.side.name+"**", ratio(a, b, perSecond).String(), ratio(a, b, p50).String(), ratio(a, b, p99).String(), ratio(a, b, p999).String(),
		quotient(a.median(a.side.serverCPU), b.median(b.side.serverCPU)), quotient(a.median(a.side.redisCPU), b.median(b.side.redisCPU)), quotient(a.median(a.side.bothCPU), b.median(b.side.bothCPU)),
		quotient(a.median(allocations), b.median(allocations)), quotient(a.median(allocatedBytes), b.median(allocatedBytes)))
}

func addSide(t *table, what string, m measured) {
	t.add(what, m.side.name, m.median(perSecond).String(), m.median(p50).String(), m.median(p99).String(), m.median(p999).String(),
		m.median(m.side.serverCPU).String(), m.median(m.side.redisCPU).String(), m.median(m.side.bothCPU).String(),
		m.median(allocations).String(), m.median(allocatedBytes).String())
}

func quotient(a, b spread) string {
	if a.median == 0 {
		return "–"
	}
	return figure(b.median / a.median)
}

// tokenDemands are what the issue asks of 32 connections.
func tokenDemands(fsync string, a, b measured) []demand {
	what := func(text string) string { return text + ", 32 connections, AOF " + fsync + ", broker / reference" }
	throughput := ratio(a, b, perSecond).median
	demands := []demand{{what: what("token requests a second"), have: throughput, want: 1}}
	if fsync == always {
		return demands
	}
	return append(demands,
		demand{what: what("token requests a second"), have: throughput, want: 1.3, aim: true},
		demand{what: what("p99"), have: ratio(a, b, p99).median, want: 1.3, most: true},
		demand{what: what("processor time of server and Redis a request"), have: b.median(b.side.bothCPU).median / a.median(a.side.bothCPU).median, want: 1, most: true},
	)
}
