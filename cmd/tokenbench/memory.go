package main

import (
	"context"
	"fmt"
	"os"
	"time"
)

// memoryScenario looks at what a million connections take, in Redis and in the broker, and how soon a broker is ready with them.
type memoryScenario struct{}

func (memoryScenario) name() string { return "memory" }

func (memoryScenario) about() string {
	return "bytes in Redis by kind of key, the broker's memory under load, its start and its size"
}

// starts is how often the start is measured.
const starts = 5

func (memoryScenario) run(ctx context.Context, b *bench) (section, error) {
	out := section{title: "Memory, start and size"}
	towns, err := b.towns(ctx)
	if err != nil {
		return out, err
	}
	t := towns[len(towns)-1]
	redis, text, most := redisTable(t)
	out.add(redis, text, most)
	if err := brokerMemory(ctx, b, t, &out); err != nil {
		return out, err
	}
	if err := startTimes(ctx, b, t, &out); err != nil {
		return out, err
	}
	size, err := os.Stat(b.brokerProgram)
	if err != nil {
		return out, err
	}
	out.demands = append(out.demands, demand{what: "static binary, as make build makes it", have: mebibytes(size.Size()), want: 40, unit: " MiB", most: true})
	return out, nil
}

// add adds a table and what it says.
func (s *section) add(t table, text string, demands ...demand) {
	s.tables, s.text, s.demands = append(s.tables, t), append(s.text, text), append(s.demands, demands...)
}

func mebibytes(n int64) float64 { return float64(n) / (1 << 20) }

// redisTable says what the town takes in Redis.
func redisTable(t *town) (table, string, demand) {
	n, events := float64(t.connections), float64(t.events)
	out := table{caption: fmt.Sprintf("Redis memory with %s connections and %s events, by kind of key (MEMORY USAGE of every key, all elements).", thousands(int64(t.connections)), thousands(int64(t.events))),
		head: []string{"key", "what", "keys", "bytes", "a connection", "an event"}}
	var sum, known int64
	for i, k := range keyKinds {
		of := t.kinds[i]
		if of.keys == 0 {
			continue
		}
		known += of.bytes
		row := []string{k.name, k.about, thousands(of.keys), thousands(of.bytes), "", figure(float64(of.bytes) / events)}
		if k.of == ofConnections {
			sum += of.bytes
			row[4], row[5] = figure(float64(of.bytes)/n), ""
		}
		out.add(row...)
	}
	other := t.kinds[len(keyKinds)]
	rest := t.memory.used - t.memory.startup - known - other.bytes
	out.add("", "the table of keys, and what belongs to none", thousands(other.keys), thousands(rest+other.bytes), figure(float64(rest+other.bytes)/n), "")
	sum += rest + other.bytes
	text := fmt.Sprintf("Redis has %s MiB in use with %s connections. What belongs to no key counts as the connections'. An event is one scope of a request: %d of them are one entry of the trail.",
		figure(mebibytes(t.memory.used)), thousands(int64(t.connections)), len(benchScopes()))
	return out, text, demand{what: "bytes in Redis a connection, all indexes included, at " + thousands(int64(t.connections)), have: float64(sum) / n, want: 1900, most: true}
}

// brokerMemory loads a broker that was just started with requests for all users, and looks at its memory meanwhile.
func brokerMemory(ctx context.Context, b *bench, t *town, out *section) error {
	broker, err := b.startBroker(ctx, t.house)
	if err != nil {
		return err
	}
	defer broker.stop()
	idle, err := residentBytes(broker.pid())
	if err != nil {
		return err
	}
	profiles, err := b.profileOf(t.house, broker)
	if err != nil {
		return err
	}
	watching, end := context.WithCancel(ctx)
	most := make(chan int64, 1)
	go func() { most <- watchResident(watching, broker.pid()) }()
	plan := loadPlan{Address: broker.address, Connections: sizesConnections, Each: (t.connections + sizesConnections - 1) / sizesConnections, Span: time.Hour, Key: benchKey,
		Tokens: &tokenRequests{Count: t.connections, InTurn: true}}
	result, err := b.load(ctx, plan)
	if err == nil && result.Requests == 0 {
		err = result.trouble()
	}
	if err == nil { // and again, now that it knows them
		plan.Each, plan.Span, plan.Tokens = 0, b.options.Span, &tokenRequests{Count: t.connections}
		result, err = b.load(ctx, plan)
	}
	end()
	peak := <-most
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	texts, err := profiles(ctx, thousands(int64(t.connections))+" connections")
	if err != nil {
		return err
	}
	out.text = append(out.text, texts...)
	out.text = append(out.text, fmt.Sprintf("A broker on these %s connections has %s MiB resident when it is ready, and %s MiB at most while each connection's token is asked for once and then at random, %d requests at a time.",
		thousands(int64(t.connections)), figure(mebibytes(idle)), figure(mebibytes(peak)), sizesConnections))
	out.demands = append(out.demands, demand{what: "the broker's resident memory at its most, under load", have: mebibytes(peak), want: 80, unit: " MiB", most: true})
	return nil
}

// watchResident looks at a process's memory every tenth of a second, and returns the most that it saw.
func watchResident(ctx context.Context, pid int) (most int64) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if n, err := residentBytes(pid); err == nil {
			most = max(most, n)
		}
		select {
		case <-ctx.Done():
			return most
		case <-tick.C:
		}
	}
}

// startTimes starts a broker several times.
func startTimes(ctx context.Context, b *bench, t *town, out *section) error {
	var times []float64
	for range starts {
		broker, err := b.startBroker(ctx, t.house)
		if err != nil {
			return err
		}
		times = append(times, milliseconds(broker.ready))
		broker.stop()
	}
	found := spreadOf(times)
	out.text = append(out.text, fmt.Sprintf("From the start of the process until /readyz says yes it takes %s ms (%d starts).", found, starts))
	out.demands = append(out.demands, demand{what: "start to ready with " + thousands(int64(t.connections)) + " connections", have: found.median, want: 300, unit: " ms", most: true})
	return nil
}
