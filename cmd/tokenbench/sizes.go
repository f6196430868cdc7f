package main

import (
	"context"
	"fmt"
	"time"
)

// sizesScenario asks for tokens in stores of one, ten thousand and a million connections: none may be slower than another.
type sizesScenario struct{}

func (sizesScenario) name() string { return "sizes" }

func (sizesScenario) about() string {
	return "token requests with 1, 10,000 and 1,000,000 connections, ten events each"
}

// sizesConnections is how many requests are under way.
const sizesConnections = 32

func (sizesScenario) run(ctx context.Context, b *bench) (section, error) {
	out := section{title: "Token requests, however many connections there are"}
	towns, err := b.towns(ctx)
	if err != nil {
		return out, err
	}
	large := towns[len(towns)-1]
	out.text = append(out.text,
		fmt.Sprintf("Three Redis servers, each with a broker: with %s, %s and %s connections, and %d events for each. Filling the largest took %s. "+
			"In each, users are chosen at random among all; %d requests are under way.",
			thousands(int64(towns[0].connections)), thousands(int64(towns[1].connections)), thousands(int64(large.connections)), eventsEach, large.filled.Round(time.Second), sizesConnections),
		"Before that every user is asked for once, in turn, which is what a process that has just begun costs: it knows nothing of a connection that it has not served. That is the table of first requests.")
	first, err := b.firstRequests(ctx, towns)
	if err != nil {
		return out, err
	}
	again, err := b.roundsOf(ctx, "all sizes", towns, loadPlan{Connections: sizesConnections, Warm: min(time.Second, b.options.Span/2), Span: b.options.Span, Key: benchKey})
	if err != nil {
		return out, err
	}
	table := func(caption string, of []measured) table {
		t := table{caption: caption, head: []string{"connections", "requests a second", "p50, ms", "p99, ms", "broker, µs a request", "Redis, µs a request"}}
		for i, m := range of {
			t.add(thousands(int64(towns[i].connections)), m.median(perSecond).String(), m.median(p50).String(), m.median(p99).String(),
				m.median(m.side.serverCPU).String(), m.median(m.side.redisCPU).String())
		}
		return t
	}
	out.tables = append(out.tables,
		table(fmt.Sprintf("Users that were served before; medians of %d rounds in turn, ranges in brackets.", b.options.Rounds), again),
		table("First requests: each user once.", first))
	var failed int64
	for i, m := range again {
		failed += m.failed() + first[i].failed()
	}
	few := again[1]
	for _, i := range []int{0, 2} {
		what := fmt.Sprintf("%s connections / %s", thousands(int64(towns[i].connections)), thousands(int64(towns[1].connections)))
		out.demands = append(out.demands,
			demand{what: "throughput, " + what, have: ratio(few, again[i], perSecond).median, want: 0.9},
			demand{what: "p99, " + what, have: ratio(few, again[i], p99).median, want: 1.1, most: true})
	}
	out.demands = append(out.demands,
		demand{what: "throughput of first requests, 1,000,000 connections / 10,000", have: ratio(first[1], first[2], perSecond).median, want: 0.9, aim: true},
		demand{what: "failed requests, all sizes", have: float64(failed), most: true})
	return out, nil
}

// firstRequests asks for every user of every town once. The times are those of whole towns, so there is one round.
func (b *bench) firstRequests(ctx context.Context, towns []*town) ([]measured, error) {
	out := make([]measured, len(towns))
	for i, t := range towns {
		connections := min(sizesConnections, t.connections)
		// So that what few users find is more than chance, they are few in the first town alone.
		plan := loadPlan{
			Address: t.broker.address, Connections: connections, Each: (t.connections + connections - 1) / connections, Span: time.Hour, Key: benchKey,
			Tokens: &tokenRequests{Count: t.connections, InTurn: true, Check: true}, Watch: []int{t.broker.pid(), t.redis.pid()},
		}
		result, err := b.load(ctx, plan)
		if err == nil && result.Requests == 0 {
			err = result.trouble()
		}
		if err != nil {
			return nil, fmt.Errorf("first requests of %d users: %w", t.connections, err)
		}
		b.say("first requests of %d users: %.0f a second, p99 %s", t.connections, result.perSecond(), result.Latency.P99.Round(time.Microsecond))
		out[i] = measured{side: t.side(), rounds: []loadResult{result}}
	}
	return out, nil
}

// roundsOf loads the towns in turn, each for users among all of its own.
func (b *bench) roundsOf(ctx context.Context, what string, towns []*town, plan loadPlan) ([]measured, error) {
	out := make([]measured, len(towns))
	for round := range b.options.Rounds {
		for k := range towns {
			i := (k + round) % len(towns)
			if round%2 == 1 {
				i = len(towns) - 1 - i
			}
			t, plan := towns[i], plan
			plan.Address, plan.Watch = t.broker.address, []int{t.broker.pid(), t.redis.pid()}
			plan.Tokens = &tokenRequests{Count: t.connections, Check: true}
			result, err := b.load(ctx, plan)
			if err == nil && result.Requests == 0 {
				err = result.trouble()
			}
			if err != nil {
				return nil, fmt.Errorf("%s, %d connections: %w", what, t.connections, err)
			}
			out[i].side = t.side()
			out[i].rounds = append(out[i].rounds, result)
			b.say("%s, round %d, %d connections: %.0f a second, p99 %s", what, round+1, t.connections, result.perSecond(), result.Latency.P99.Round(time.Microsecond))
		}
	}
	return out, nil
}
