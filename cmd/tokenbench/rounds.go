package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// side is one of those that are compared.
type side struct {
	name    string
	address string
	server  *process
	redis   *redisServer
	metrics string // where its allocations are told
}

// sides of a stage: the reference first, then the broker, then what is for information.
func (s *stage) sides() []side {
	sides := []side{
		{"reference", s.reference.address, s.reference.process, s.referenceRedis, "http://" + s.reference.address + "/metrics"},
		{"broker", s.broker.address, s.broker.process, s.brokerRedis, "http://" + s.broker.ops + "/metrics"},
	}
	if s.pipelined != nil {
		sides = append(sides, side{"reference, automatic pipelining", s.pipelined.address, s.pipelined.process, s.pipelinedRedis, "http://" + s.pipelined.address + "/metrics"})
	}
	return sides
}

// measured are the results of one side, a round each.
type measured struct {
	side   side
	rounds []loadResult
}

// alternate loads the sides in turn, A B, B A, A B and so on, as often as there are rounds: whatever changes on the machine
// meanwhile meets all of them. Failed requests are in the results; failures makes a demand of them.
func (b *bench) alternate(ctx context.Context, what string, sides []side, plan loadPlan) ([]measured, error) {
	out := make([]measured, len(sides))
	for i, s := range sides {
		out[i].side = s
	}
	for round := range b.options.Rounds {
		for k := range sides {
			i := k
			if round%2 == 1 {
				i = len(sides) - 1 - k
			}
			plan := plan
			plan.Address, plan.Watch = sides[i].address, []int{sides[i].server.pid(), sides[i].redis.pid()}
			result, err := b.loadSide(ctx, sides[i], plan)
			if err == nil && result.Requests == 0 {
				err = result.trouble()
			}
			if err != nil {
				return nil, fmt.Errorf("%s, %s: %w", what, sides[i].name, err)
			}
			out[i].rounds = append(out[i].rounds, result)
			b.say("%s, round %d, %s: %.0f a second, p99 %s", what, round+1, sides[i].name, result.perSecond(), result.Latency.P99.Round(time.Microsecond))
			if len(result.Errors) > 0 {
				b.say("%s, round %d, %s: FAILED: %v; it said last: %s", what, round+1, sides[i].name, result.Errors, sides[i].server.complaint())
			}
		}
	}
	return out, nil
}

// loadSide loads one side and tells what it allocated.
func (b *bench) loadSide(ctx context.Context, s side, plan loadPlan) (loadResult, error) {
	before, err := readAllocated(ctx, s.metrics)
	if err != nil {
		return loadResult{}, err
	}
	result, err := b.load(ctx, plan)
	if err != nil {
		return loadResult{}, err
	}
	after, err := readAllocated(ctx, s.metrics)
	asked := float64(max(1, result.Asked))
	result.Allocations, result.AllocatedBytes = (after.objects-before.objects)/asked, (after.bytes-before.bytes)/asked
	return result, err
}

// failed is how many requests failed.
func (m measured) failed() int64 {
	var n int64
	for _, r := range m.rounds {
		for _, k := range r.Errors {
			n += k
		}
	}
	return n
}

// median of what the rounds give, and the least and the greatest.
func (m measured) median(of func(loadResult) float64) spread {
	values := make([]float64, len(m.rounds))
	for i, r := range m.rounds {
		values[i] = of(r)
	}
	return spreadOf(values)
}

// spread is a median with its range.
type spread struct{ median, least, most float64 }

func spreadOf(values []float64) spread {
	values = slices.Clone(values)
	slices.Sort(values)
	n := len(values)
	if n == 0 {
		return spread{}
	}
	return spread{median: (values[(n-1)/2] + values[n/2]) / 2, least: values[0], most: values[n-1]}
}

func (s spread) String() string {
	if s.least == s.most {
		return figure(s.median)
	}
	return fmt.Sprintf("%s (%s to %s)", figure(s.median), figure(s.least), figure(s.most))
}

// What is looked at in a round.

func perSecond(r loadResult) float64       { return r.perSecond() }
func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
func p50(r loadResult) float64             { return milliseconds(r.Latency.P50) }
func p99(r loadResult) float64             { return milliseconds(r.Latency.P99) }
func p999(r loadResult) float64            { return milliseconds(r.Latency.P999) }

// generatorCPU is what the generator took for a request, with its own start and the warm-up.
func generatorCPU(r loadResult) float64 {
	return float64(r.OwnCPU.Microseconds()) / float64(max(1, r.Asked))
}

func allocations(r loadResult) float64    { return r.Allocations }
func allocatedBytes(r loadResult) float64 { return r.AllocatedBytes }

// serverCPU, redisCPU and bothCPU are microseconds a request.
func (s side) serverCPU(r loadResult) float64 { return r.cpuPerRequest(s.server.pid()) }
func (s side) redisCPU(r loadResult) float64  { return r.cpuPerRequest(s.redis.pid()) }
func (s side) bothCPU(r loadResult) float64   { return r.cpuPerRequest(s.server.pid(), s.redis.pid()) }

// ratio of b to a, round by round, so that what slows a round slows both of its parts.
func ratio(a, b measured, of func(loadResult) float64) spread {
	values := make([]float64, min(len(a.rounds), len(b.rounds)))
	for i := range values {
		values[i] = of(b.rounds[i]) / of(a.rounds[i])
	}
	return spreadOf(values)
}
