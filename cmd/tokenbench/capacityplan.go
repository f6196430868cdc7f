package main

import (
	"encoding/json"
	"fmt"
	"math"
)

// figureOf is a figure that capacity is computed from, and where it comes from.
type figureOf struct {
	Value  float64 `json:"value"`
	Unit   string  `json:"unit"`
	Kind   string  `json:"kind"` // measured, assumed, wanted
	Source string  `json:"source"`
}

// The kinds of figures: found by a measurement that anyone can repeat; what the issue demands, until it is measured; a guess to be
// replaced.
const (
	figureMeasured = "measured"
	figureWanted   = "wanted"
	figureAssumed  = "assumed"
)

// figures are all of them, by name.
type figures map[string]figureOf

// figureNames are those that must be there.
func figureNames() []string {
	return []string{
		"connections", "token_requests_per_second", "replica_cores", "redis_share", "busy",
		"broker_cpu_us", "redis_cpu_us", "refresh_broker_cpu_us", "refresh_redis_cpu_us", "refreshes_per_replica",
		"connection_bytes", "event_bytes", "refresh_event_bytes", "aof_request_bytes", "aof_refresh_bytes", "redis_request_bytes", "client_request_bytes",
		"master_memory_gib", "replicas_per_master", "event_hours", "archive_days", "broker_memory_mib",
		"price_core_hour", "price_gib_hour", "price_disk_gib_month", "price_object_gib_month", "price_network_gib", "price_kms_10k", "starts_per_replica_day",
	}
}

func parseFigures(text []byte) (figures, error) {
	var f figures
	if err := json.Unmarshal(text, &f); err != nil {
		return nil, fmt.Errorf("read figures: %w", err)
	}
	known := map[string]bool{}
	for _, name := range figureNames() {
		known[name] = true
		one, there := f[name]
		switch {
		case !there:
			return nil, fmt.Errorf("read figures: %s is missing", name)
		case one.Value < 0 || math.IsNaN(one.Value):
			return nil, fmt.Errorf("read figures: %s is negative", name)
		case one.Source == "" || one.Kind != figureMeasured && one.Kind != figureWanted && one.Kind != figureAssumed:
			return nil, fmt.Errorf("read figures: %s needs a source, and a kind: measured, wanted or assumed", name)
		}
	}
	for name := range f {
		if !known[name] {
			return nil, fmt.Errorf("read figures: %s is not known", name)
		}
	}
	return f, nil
}

func (f figures) of(name string) float64 { return f[name].Value }

// capacity is what so much needs.
type capacity struct {
	requests, refreshes, refreshPeak float64 // a second
	brokerCores, redisCores          float64
	replicas                         float64 // of the broker
	replicasBy                       string
	connectionGiB, eventGiB          float64 // in Redis, masters alone
	masters                          float64
	mastersBy                        string
	aofMBs                           float64 // a second, masters alone
	redisGbit, clientGbit            float64
	eventTiBDay                      float64
	kmsDay                           float64
	cost                             []costLine
}

type costLine struct {
	what   string
	amount string
	month  float64
}

const (
	gib        = 1 << 30
	monthHours = 730
	// virtualShards is how many hash tags there are (broker/decisions/0003): no more masters can share the keys.
	virtualShards = 256
)

// plan computes what is needed; refreshes and their peak a second come from the simulation.
func (f figures) plan(refreshes, peak float64) capacity {
	c := capacity{requests: f.of("token_requests_per_second"), refreshes: refreshes, refreshPeak: peak}
	busy := f.of("busy")
	c.brokerCores = (c.requests*f.of("broker_cpu_us") + peak*f.of("refresh_broker_cpu_us")) / 1e6 / busy
	c.redisCores = (c.requests*f.of("redis_cpu_us") + peak*f.of("refresh_redis_cpu_us")) / 1e6 / busy
	byCPU, byRefresh := math.Ceil(c.brokerCores/f.of("replica_cores")), math.Ceil(peak/f.of("refreshes_per_replica")/busy)
	c.replicas, c.replicasBy = byCPU, "processor time"
	if byRefresh > byCPU {
		c.replicas, c.replicasBy = byRefresh, "refreshes"
	}
	c.connectionGiB = f.of("connections") * f.of("connection_bytes") / gib
	perSecond := c.requests*f.of("event_bytes") + refreshes*f.of("refresh_event_bytes")
	c.eventGiB = perSecond * 3600 * f.of("event_hours") / gib
	c.eventTiBDay = perSecond * 86400 / gib / 1024
	memory := math.Ceil((c.connectionGiB + c.eventGiB) / (f.of("master_memory_gib") * f.of("redis_share")))
	processors := math.Ceil(c.redisCores)
	c.masters, c.mastersBy = processors, "processor time"
	if memory > processors {
		c.masters, c.mastersBy = memory, "memory"
	}
	c.aofMBs = (c.requests*f.of("aof_request_bytes") + peak*f.of("aof_refresh_bytes")) / 1e6
	c.redisGbit = c.requests * f.of("redis_request_bytes") * 8 / 1e9
	c.clientGbit = c.requests * f.of("client_request_bytes") * 8 / 1e9
	c.setReplicas(f, c.replicas)
	return c
}

// setReplicas sets how many replicas there are, and what follows from that.
func (c *capacity) setReplicas(f figures, n float64) {
	c.replicas = n
	c.kmsDay = n * f.of("starts_per_replica_day")
	c.price(f)
}

func (c *capacity) price(f figures) {
	nodes := c.masters * (1 + f.of("replicas_per_master"))
	c.cost = nil
	add := func(what string, amount float64, unit string, price float64) {
		c.cost = append(c.cost, costLine{what, figure(amount) + " " + unit, amount * price})
	}
	add("broker, cores", c.replicas*f.of("replica_cores"), "cores", f.of("price_core_hour")*monthHours)
	add("Redis, cores (two a node: one serves, one for rewrites and replication)", 2*nodes, "cores", f.of("price_core_hour")*monthHours)
	add("Redis, memory", nodes*f.of("master_memory_gib"), "GiB", f.of("price_gib_hour")*monthHours)
	add("Redis, disks (three times the memory: file, rewrite, reserve)", 3*nodes*f.of("master_memory_gib"), "GiB", f.of("price_disk_gib_month"))
	add("archive of events, compressed to a third", c.eventTiBDay*1024/3*f.of("archive_days"), "GiB", f.of("price_object_gib_month"))
	add("network between zones, Redis", c.redisGbit/8*1e9*3600*monthHours/gib, "GiB", f.of("price_network_gib"))
	add("KMS calls", c.kmsDay*30/10_000, "x 10,000 a month", f.of("price_kms_10k"))
}
