package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"tokenbroker/cmd/tokenbench/simulation"
)

// capacityCommand prints deploy/bench/capacity.md: nothing in it is typed by hand.
type capacityCommand struct {
	Figures string `required:"" placeholder:"FILE" help:"Measured figures and prices as JSON: deploy/bench/capacity.json."`
	Sample  int    `default:"12000" help:"Connections that the simulation works with."`
}

// Run prints the page.
func (c *capacityCommand) Run(ctx context.Context, con *console) error {
	text, err := os.ReadFile(c.Figures)
	if err != nil {
		return fmt.Errorf("read figures: %w", err)
	}
	f, err := parseFigures(text)
	if err != nil {
		return err
	}
	runs, err := simulations(ctx, f, c.Sample)
	if err != nil {
		return err
	}
	writeCapacity(con.out, f, runs)
	return nil
}

// simulated is one run of the simulation.
type simulated struct {
	what   string
	result simulation.Result
}

// simulations are an ordinary day; one on which the largest provider is away for an hour when most is going on; one with a rolling
// restart at that time.
func simulations(ctx context.Context, f figures, sample int) ([]simulated, error) {
	providers, err := simulation.Providers()
	if err != nil {
		return nil, err
	}
	plan := simulation.Plan{Connections: f.of("connections"), PerReplica: f.of("refreshes_per_replica"), Sample: sample, Seed: 1}
	// What would be refreshed if nothing held it up says how many replicas there should be, with something to spare.
	free := plan
	free.Replicas, free.Sample = 1000, sample/4
	wanted, err := simulation.Simulate(ctx, free, providers)
	if err != nil {
		return nil, err
	}
	plan.Replicas = int(f.plan(wanted.Total.Mean, wanted.Total.P99).replicas)
	away, restart := plan, plan
	away.OutageOf, away.OutageStart, away.OutageLength = "google", 13*time.Hour+30*time.Minute, time.Hour
	restart.RestartStart, restart.RestartEach = 14*time.Hour, 10*time.Second
	var runs []simulated
	for _, one := range []struct {
		what string
		plan simulation.Plan
	}{{"an ordinary day", plan}, {"google is away from 13:30 to 14:30", away}, {"a rolling restart from 14:00 on", restart}} {
		result, err := simulation.Simulate(ctx, one.plan, providers)
		if err != nil {
			return nil, err
		}
		runs = append(runs, simulated{one.what, result})
	}
	return runs, nil
}

func writeCapacity(w io.Writer, f figures, runs []simulated) {
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", args...) }
	day := runs[0].result
	peak := 0.0
	for _, r := range runs {
		peak = max(peak, r.result.Total.Peak)
	}
	c := f.plan(day.Total.Mean, peak)
	c.setReplicas(f, float64(day.Plan.Replicas))
	say("# Capacity: %s connections, %s token requests a second\n", figure(f.of("connections")), figure(c.requests))
	say("Printed by `go run ./cmd/tokenbench capacity --figures deploy/bench/capacity.json`; a test holds that nothing here was typed. Put the figures of your own machines and prices into that file.\n")
	say("**Extrapolated.** Nobody has run this size. Figures of one machine are multiplied, on these grounds: requests of different users share nothing but the sets of keys of their tenant's trail in one of %d "+
		"virtual shards; a page, a token and a sweep cost the same at a million connections as at ten thousand (`make bench`); Redis Cluster adds nothing to a request that stays in one slot, as all of them do. What does not follow "+
		"from that is under *What breaks first*.\n", virtualShards)
	writeNeeds(say, f, c)
	writeFirst(say, f, c, runs)
	writeRuns(say, runs)
	say("## What it is computed from\n")
	say("`measured`: by a run that anyone can repeat. `wanted`: what must hold, until the measurement is in. `assumed`: a guess or a price, to be replaced.\n")
	say("| figure | value | | kind | from |")
	say("| --- | --- | --- | --- | --- |")
	for _, name := range figureNames() {
		one := f[name]
		say("| %s | %s | %s | %s | %s |", name, strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.4f", one.Value), "0"), "."), one.Unit, one.Kind, one.Source)
	}
}

func writeNeeds(say func(string, ...any), f figures, c capacity) {
	nodes := c.masters * (1 + f.of("replicas_per_master"))
	say("## What is needed\n")
	say("| | | how |")
	say("| --- | --- | --- |")
	say("| replicas of the broker | %.0f | %.0f cores each; by %s: %s cores' work at %.0f %% busy, %s refreshes a second at the peak |", c.replicas, f.of("replica_cores"), c.replicasBy, figure(c.brokerCores*f.of("busy")), 100*f.of("busy"), figure(c.refreshPeak))
	say("| memory of a replica | %s MiB | the same at any number of connections |", figure(f.of("broker_memory_mib")))
	say("| masters of Redis | %.0f | by %s; one core each at %.0f %% busy would be %.0f |", c.masters, c.mastersBy, 100*f.of("busy"), c.redisCores)
	say("| nodes of Redis | %.0f | %.0f more for each master |", nodes, f.of("replicas_per_master"))
	say("| memory for connections | %s GiB | %s bytes each, indexes included |", figure(c.connectionGiB), figure(f.of("connection_bytes")))
	say("| memory for events | %s GiB | %s h of them; what is older is in the archive |", figure(c.eventGiB), figure(f.of("event_hours")))
	say("| of each master's memory | %s GiB of %s | the rest is for rewrites, buffers and growth |", figure((c.connectionGiB+c.eventGiB)/c.masters), figure(f.of("master_memory_gib")))
	say("| append-only files | %s MB/s in all, %s of each master | and again for each replica; rewrites come on top |", figure(c.aofMBs), figure(c.aofMBs/c.masters))
	say("| events | %s TiB a day | before compression |", figure(c.eventTiBDay))
	say("| network, broker and Redis | %s Gbit/s | both ways, without replication, which is about the append-only files again |", figure(c.redisGbit))
	say("| network, callers | %s Gbit/s | both ways, without TLS |", figure(c.clientGbit))
	say("| KMS | %s calls a day | the keyset is opened once at each start; no request asks a KMS |", figure(c.kmsDay))
	say("| providers | %s refreshes a second in the mean, %s at the peak | see the simulation |\n", figure(c.refreshes), figure(c.refreshPeak))
	say("Hours of events in Redis decide about memory:\n")
	say("| hours | memory for events | masters |")
	say("| --- | --- | --- |")
	for _, hours := range []float64{0.25, 1, 6, 24, 168} {
		other := figures{}
		for name, one := range f {
			other[name] = one
		}
		one := other["event_hours"]
		one.Value = hours
		other["event_hours"] = one
		p := other.plan(c.refreshes, c.refreshPeak)
		note := ""
		if p.masters > virtualShards {
			note = fmt.Sprintf(" (more than the %d virtual shards: not possible)", virtualShards)
		}
		say("| %s | %s GiB | %.0f%s |", figure(hours), figure(p.eventGiB), p.masters, note)
	}
	say("\n## What it costs a month\n")
	say("| | amount | |")
	say("| --- | --- | --- |")
	sum := 0.0
	for _, line := range c.cost {
		say("| %s | %s | $ %s |", line.what, line.amount, figure(line.month))
		sum += line.month
	}
	say("| **all** | | **$ %s**, %s cents for 1,000 connections |\n", figure(sum), figure(100*sum/f.of("connections")*1000))
}

func writeFirst(say func(string, ...any), f figures, c capacity, runs []simulated) {
	say("## What breaks first\n")
	say("1. **Memory for events.** %s TiB a day: with trimming by age that falls behind (no archive, a replica that stands still), Redis is full within hours, and then it says no to writes, and the broker to requests. Watch "+
		"the trail's backlog; size for twice `event_hours`.", figure(c.eventTiBDay))
	say("2. **A hot shard.** All keys of a subject and its tenant's trail share one of %d hash tags, so a master serves whole tags: %.0f masters have %.1f each, and the fullest has one more than the emptiest. Beyond %d masters nothing is "+
		"gained. One subject can't have more than one core of Redis: some %s requests a second.", virtualShards, c.masters, virtualShards/c.masters, virtualShards, figure(1e6/f.of("redis_cpu_us")))
	first := runs[1].result
	say("3. **A provider's own limit.** On an ordinary day the nearest limit is %s (%.0f %% of it at the peak); when %s: %s (%.0f %%). That is the broker's side. What providers take of one OAuth client is hardly published (below): "+
		"ask them before, and set `refreshes_at_once`.", runs[0].result.First, 100*runs[0].result.FirstUsed, runs[1].what, first.First, 100*first.FirstUsed)
	say("4. **The append-only files at fsync always**: each master's disk must sync as often as its batches come. At everysec a crash of a master and its replicas together loses up to a second of events and refreshed tokens; the latter come back " +
		"from the replicas' spools.")
	say("5. **Connections to Redis**: %.0f replicas with 16 to each of %.0f nodes are %s of them, %s a node.\n", c.replicas, c.masters*(1+f.of("replicas_per_master")), figure(c.replicas*16*c.masters), figure(c.replicas*16))
}

func writeRuns(say func(string, ...any), runs []simulated) {
	plan := runs[0].result.Plan
	say("## What the simulation says\n")
	say("`tokenbench simulate`, in virtual time, seed %d: %.0f %% of the connections are active each day, with %d sessions of %s and a request every %s, most at 14:00 (%.1f times the mean); %d replicas, providers answer in %s. Lifetimes and limits are "+
		"those that providers publish (`cmd/tokenbench/simulation/providers.yaml`, with sources); shares of connections are assumed. %s of the active connections are simulated, each for %s or more, so that queues of less than that do not show.\n",
		plan.Seed, 100*plan.ActiveShare, plan.Sessions, plan.Session, plan.Pause, plan.Peak, plan.Replicas, plan.Latency, figure(float64(plan.Sample)), figure(plan.Connections*plan.ActiveShare/float64(plan.Sample)))
	say("| | refreshes/s, mean | p99 | peak | callers who wait, of all requests | sent away to come again | failed | nearest limit | used |")
	say("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
	for _, r := range runs {
		away, failed := 0.0, 0.0
		for _, p := range r.result.Providers {
			away, failed = away+p.SentAway, failed+p.Failed
		}
		say("| %s | %s | %s | %s | %.2f %% | %s | %s | %s, %s/s | %.0f %% |", r.what, figure(r.result.Total.Mean), figure(r.result.Total.P99), figure(r.result.Total.Peak),
			100*r.result.Waited/(r.result.Requests.Mean*plan.Span.Seconds()), figure(away), figure(failed), r.result.First, figure(r.result.FirstHas), 100*r.result.FirstUsed)
	}
	say("\nThe simulated callers make %s token requests a second in the mean: fewer than what the rest of this page is sized for. Queues and waits, for each provider with a share of more than 2 %%:\n", figure(runs[0].result.Requests.Mean))
	say("| | provider | refreshes/s, mean | peak | kept alive/s | early queue, p99 | longest | callers waiting, p99 | longest | wait, p50 | p99 | longest | published limit |")
	say("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
	for _, r := range runs[:2] {
		for _, p := range r.result.Providers {
			if p.Connections < 0.02*plan.Connections {
				continue
			}
			published := p.Published
			if published == "" {
				published = "none"
			}
			say("| %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s |", r.what, p.ID, figure(p.Refreshes.Mean), figure(p.Refreshes.Peak), figure(p.KeptAlive), figure(p.Early.P99), figure(p.Early.Peak),
				figure(p.Waiting.P99), figure(p.Waiting.Peak), p.WaitP50, p.WaitP99, p.WaitMax, published)
		}
	}
	say("")
}
