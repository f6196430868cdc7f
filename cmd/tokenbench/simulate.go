package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"tokenbroker/cmd/tokenbench/simulation"
)

// simulateCommand predicts the load of refreshes (package simulation).
type simulateCommand struct {
	Connections float64       `default:"100000000" help:"How many there are."`
	ActiveShare float64       `default:"0.2" help:"The part of them that is used each day."`
	Sessions    int           `default:"3" help:"Sessions a day of each of those."`
	Session     time.Duration `default:"20m" help:"How long a session lasts."`
	Pause       time.Duration `default:"2m" help:"Between two requests for a token in it."`
	Peak        float64       `default:"2.5" help:"How much more begins in the busiest hour than in the mean one."`
	Replicas    int           `default:"100"`
	PerReplica  float64       `default:"300" help:"Refreshes a second that one replica sustains (make bench measures it)."`
	AtOnce      int           `default:"128" help:"refreshes_at_once of the configuration."`
	EarlyAtOnce int           `default:"16" help:"early_refreshes of the configuration."`
	Latency     time.Duration `default:"200ms" help:"Of a provider."`
	Providers   string        `placeholder:"FILE" help:"Providers in YAML: lifetimes, limits and shares of connections. Left out: what is built in (cmd/tokenbench/simulation/providers.yaml)."`
	OutageOf    string        `placeholder:"ID" help:"This provider is away."`
	OutageAt    time.Duration `default:"13h30m" help:"From that time of the day on."`
	Outage      time.Duration `default:"1h" help:"For so long."`
	RestartAt   time.Duration `help:"A rolling restart begins at that time of the day. Left out: none."`
	Span        time.Duration `default:"24h"`
	Warm        time.Duration `default:"6h"`
	Sample      int           `default:"60000" help:"Connections that are simulated; each stands for many."`
	Seed        uint64        `default:"1"`
	JSON        bool          `name:"json" help:"All figures as JSON."`
}

// Run prints what the simulation found.
func (c *simulateCommand) Run(ctx context.Context, con *console) error {
	result, err := c.simulate(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		e := json.NewEncoder(con.out)
		e.SetIndent("", "  ")
		return e.Encode(result)
	}
	printSimulation(con.out, result)
	return nil
}

func (c *simulateCommand) simulate(ctx context.Context) (simulation.Result, error) {
	providers, err := simulation.Providers()
	if c.Providers != "" {
		var text []byte
		if text, err = os.ReadFile(c.Providers); err == nil {
			providers, err = simulation.ParseProviders(text)
		}
	}
	if err != nil {
		return simulation.Result{}, err
	}
	return simulation.Simulate(ctx, simulation.Plan{
		Connections: c.Connections, ActiveShare: c.ActiveShare, Sessions: c.Sessions, Session: c.Session, Pause: c.Pause, Peak: c.Peak,
		Replicas: c.Replicas, PerReplica: c.PerReplica, AtOnce: c.AtOnce, EarlyAtOnce: c.EarlyAtOnce, Latency: c.Latency,
		OutageOf: c.OutageOf, OutageStart: c.OutageAt, OutageLength: c.Outage, RestartStart: c.RestartAt,
		Span: c.Span, Warm: c.Warm, Sample: c.Sample, Seed: c.Seed,
	}, providers)
}

// printSimulation writes the figures as Markdown.
func printSimulation(w io.Writer, r simulation.Result) {
	p := r.Plan
	_, _ = fmt.Fprintf(w, "%s connections, %s of them active each day; %d replicas of %s refreshes a second; seed %d, %d simulated.\n\n",
		figure(p.Connections), figure(p.Connections*p.ActiveShare), p.Replicas, figure(p.PerReplica), p.Seed, p.Sample)
	if p.OutageOf != "" {
		_, _ = fmt.Fprintf(w, "%s is away for %s from %s on.\n\n", p.OutageOf, p.OutageLength, p.OutageStart)
	}
	_, _ = fmt.Fprintf(w, "Refreshes a second: %s in the mean, %s at p99, %s at the peak (of minutes). Token requests a second: %s in the mean. Callers who waited for a refresh: %s a day, %.3f %% of requests. "+
		"Nearest limit: %s, %s a second, of which the peak uses %.0f %%.\n\n", figure(r.Total.Mean), figure(r.Total.P99), figure(r.Total.Peak), figure(r.Requests.Mean),
		figure(r.Waited), 100*r.Waited/max(1, r.Requests.Mean*p.Span.Seconds()), r.First, figure(r.FirstHas), 100*r.FirstUsed)
	_, _ = fmt.Fprintln(w, "| provider | connections | refreshes/s mean | p99 | peak | kept alive/s | early queue p99 | longest | callers waiting p99 | longest | wait p50 | p99 | longest | sent away | failed | limit/s | set by |")
	_, _ = fmt.Fprintln(w, "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
	for _, one := range r.Providers {
		_, _ = fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", one.ID, figure(one.Connections),
			figure(one.Refreshes.Mean), figure(one.Refreshes.P99), figure(one.Refreshes.Peak), figure(one.KeptAlive), figure(one.Early.P99), figure(one.Early.Peak),
			figure(one.Waiting.P99), figure(one.Waiting.Peak), one.WaitP50, one.WaitP99, one.WaitMax, figure(one.SentAway), figure(one.Failed), figure(one.Limit), one.LimitOf)
	}
	for _, one := range r.Providers {
		if one.Published != "" {
			_, _ = fmt.Fprintf(w, "\n%s publishes: %s.\n", one.ID, one.Published)
		}
	}
}
