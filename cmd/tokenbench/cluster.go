package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// clusterScenario compares two replicas on a Redis Cluster of three masters with one replica on one Redis.
type clusterScenario struct{}

func (clusterScenario) name() string { return "cluster" }

func (clusterScenario) about() string {
	return "two replicas on a Redis Cluster of three masters against one replica on one Redis"
}

// clusterUsers is how many users there are on each side.
const clusterUsers = 2000

func (clusterScenario) run(ctx context.Context, b *bench) (section, error) {
	out := section{title: "Two replicas on a Redis Cluster"}
	users := clusterUsers
	if b.options.Quick {
		users = 100
	}
	provider, err := b.startProvider(ctx, time.Hour)
	if err != nil {
		return out, err
	}
	single, err := b.startRedis(ctx, everySecond)
	if err != nil {
		return out, err
	}
	one, err := b.replicas(ctx, provider, single.url, users, 1)
	if err != nil {
		return out, err
	}
	masters, err := b.startCluster(ctx)
	if err != nil {
		return out, err
	}
	addresses := make([]string, len(masters))
	for i, m := range masters {
		addresses[i] = m.address
	}
	two, err := b.replicas(ctx, provider, "redis-cluster://"+strings.Join(addresses, ","), users, 2)
	if err != nil {
		return out, err
	}
	var sums [2][]float64
	var slow [2][]float64 // p99
	var failed int64
	for round := range b.options.Rounds {
		for k := range 2 {
			i := (k + round) % 2
			results, err := b.loadAll(ctx, [][]*brokerServer{one, two}[i], users)
			if err != nil {
				return out, err
			}
			sum, worst := 0.0, 0.0
			for _, r := range results {
				sum, worst = sum+r.perSecond(), max(worst, p99(r))
				failed += measured{rounds: []loadResult{r}}.failed()
			}
			sums[i], slow[i] = append(sums[i], sum), append(slow[i], worst)
			b.say("cluster, round %d, %d replicas: %.0f a second", round+1, i+1, sum)
		}
	}
	ratios := make([]float64, len(sums[0]))
	for i := range ratios {
		ratios[i] = sums[1][i] / sums[0][i]
	}
	t := table{caption: fmt.Sprintf("%d requests under way in sum, medians of %d rounds in turn.", sizesConnections, b.options.Rounds), head: []string{"", "requests a second, in sum", "p99 of the slower one, ms"}}
	t.add("one replica, one Redis", spreadOf(sums[0]).String(), spreadOf(slow[0]).String())
	t.add("two replicas, Redis Cluster of three masters", spreadOf(sums[1]).String(), spreadOf(slow[1]).String())
	t.add("**ratio**", spreadOf(ratios).String(), "")
	errs, text, err := clusterErrors(ctx, masters)
	if err != nil {
		return out, err
	}
	out.add(t, "What the masters refused in all that time: "+text+". MOVED, ASK or CROSSSLOT would be an operation that did not know its slot, or went across two.",
		demand{what: "two replicas on a Cluster / one replica on one Redis, throughput in sum", have: spreadOf(ratios).median, want: 1},
		demand{what: "operations that crossed slots or were sent to another master", have: float64(errs), most: true},
		demand{what: "failed requests, cluster", have: float64(failed), most: true})
	return out, nil
}

// replicas fills the Redis and starts so many brokers on it.
func (b *bench) replicas(ctx context.Context, provider *providerServer, redisURL string, users, n int) ([]*brokerServer, error) {
	h, err := b.newHouse(redisURL, provider, "")
	if err != nil {
		return nil, err
	}
	keyset, err := h.keyset()
	if err != nil {
		return nil, err
	}
	spec := seedSpec{Redis: redisURL, Keyset: keyset, Connections: users, Events: users * eventsEach, Now: time.Now().UTC().Truncate(time.Millisecond), Log: b.say}
	if _, err := seed(ctx, spec); err != nil {
		return nil, err
	}
	brokers := make([]*brokerServer, n)
	for i := range brokers {
		if brokers[i], err = b.startBroker(ctx, h); err != nil {
			return nil, err
		}
	}
	return brokers, nil
}

// loadAll loads all replicas at the same time, with as many requests under way in sum as one alone has.
func (b *bench) loadAll(ctx context.Context, brokers []*brokerServer, users int) ([]loadResult, error) {
	results, errs := make([]loadResult, len(brokers)), make([]error, len(brokers))
	var group sync.WaitGroup
	for i, s := range brokers {
		group.Go(func() {
			results[i], errs[i] = b.load(ctx, loadPlan{
				Address: s.address, Connections: sizesConnections / len(brokers), Warm: min(time.Second, b.options.Span/2), Span: b.options.Span, Key: benchKey,
				Tokens: &tokenRequests{Count: users, Check: true}, Watch: []int{s.pid()},
			})
			if errs[i] == nil && results[i].Requests == 0 {
				errs[i] = results[i].trouble()
			}
		})
	}
	group.Wait()
	return results, errors.Join(errs...)
}

// clusterMasters is how many masters a cluster has.
const clusterMasters = 3

// startCluster starts masters, gives them the slots and waits until they agree.
func (b *bench) startCluster(ctx context.Context) ([]*redisServer, error) {
	const slots = 16384
	masters := make([]*redisServer, clusterMasters)
	buses := make([]string, clusterMasters)
	for i := range masters {
		bus, err := freeAddress()
		if err != nil {
			return nil, err
		}
		_, buses[i], _ = net.SplitHostPort(bus)
		if masters[i], err = b.startRedis(ctx, everySecond, "--cluster-enabled", "yes", "--cluster-port", buses[i]); err != nil {
			return nil, err
		}
	}
	for i, m := range masters {
		commands := [][]string{
			{"CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(i * slots / clusterMasters), strconv.Itoa((i+1)*slots/clusterMasters - 1)},
			{"CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i + 1)},
		}
		if i > 0 {
			_, port, _ := net.SplitHostPort(masters[0].address)
			commands = append(commands, []string{"CLUSTER", "MEET", "127.0.0.1", port, buses[0]})
		}
		for _, c := range commands {
			if _, err := m.ask(ctx, c...); err != nil {
				return nil, fmt.Errorf("%s: %w", strings.Join(c[:2], " "), err)
			}
		}
	}
	for _, m := range masters {
		if err := m.waitFor(ctx, "one of a cluster", func(ctx context.Context) error {
			reply, err := m.ask(ctx, "CLUSTER", "INFO")
			if err != nil {
				return err
			}
			for _, want := range []string{"cluster_state:ok", "cluster_slots_ok:16384", "cluster_known_nodes:" + strconv.Itoa(clusterMasters)} {
				if !strings.Contains(fmt.Sprint(reply), want) {
					return fmt.Errorf("not %s", want)
				}
			}
			return nil
		}); err != nil {
			return nil, err
		}
	}
	return masters, nil
}

// clusterErrors counts what masters refused because it was not theirs, and lists all that they refused.
func clusterErrors(ctx context.Context, masters []*redisServer) (crossed int64, text string, err error) {
	sums := map[string]int64{}
	for _, m := range masters {
		info, err := redisInfo(ctx, m.address, "errorstats")
		if err != nil {
			return 0, "", err
		}
		for name, value := range info {
			n, err := strconv.ParseInt(strings.TrimPrefix(value, "count="), 10, 64)
			if err != nil {
				continue
			}
			sums[strings.TrimPrefix(name, "errorstat_")] += n
		}
	}
	var parts []string
	for name, n := range sums {
		parts = append(parts, fmt.Sprintf("%s %d", name, n))
		if slices.Contains([]string{"MOVED", "ASK", "CROSSSLOT", "CLUSTERDOWN", "TRYAGAIN"}, name) {
			crossed += n
		}
	}
	if len(parts) == 0 {
		return 0, "nothing", nil
	}
	slices.Sort(parts)
	return crossed, strings.Join(parts, ", "), nil
}
