package broker

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"
)

// The pulse counts what happens for the charts of the dashboard. It adds up in memory and is written down every few seconds,
// so that it costs a token request two map entries and no round trip. What is counted is bounded: tenants and connectors are
// those of the configuration, codes those of our own lists, and of the connectors that a tenant made itself a number.

const (
	// pulseEvery is how often the buckets of the minute are written, pulseSlow those of hours and days.
	pulseEvery, pulseSlow = 3 * time.Second, 30 * time.Second
	// pulseOwn is how many of a tenant's own connectors a process counts each by itself in a day.
	pulseOwn = 32
	// pulsePatience is how long counts wait for a store that is away. Then they are dropped.
	pulsePatience = 10 * time.Minute
	// pulseParallel is how many tenants' counts are written at the same time.
	pulseParallel = 4
)

type pulse struct {
	counters Counters // nil: nothing is counted
	writer   string
	now      func() time.Time
	random   io.Reader
	timeout  time.Duration
	known    func(tenant, connector string) bool

	mu     sync.Mutex
	day    time.Time
	own    map[string]map[string]bool // by tenant: connectors of its own that are counted each
	quick  tallies
	slow   tallies
	waits  []pulseBatch // taken, and not known to be written
	slowAt time.Time

	writing sync.Mutex // one writes at a time
}

// tallies are counts by tenant, grain and bucket.
type tallies map[tallyPlace]map[Tally]int64

type tallyPlace struct {
	tenant string
	grain  Grain
	start  time.Time
}

// pulseBatch is what is written for one tenant at once.
type pulseBatch struct {
	tenant, id string
	taken      time.Time
	counts     []BucketCounts
}

func newPulse(cfg Config) *pulse {
	return &pulse{
		counters: cfg.Counters, writer: cfg.Owner, now: cfg.Now, random: cfg.Random, timeout: cfg.StoreTimeout,
		known: func(tenant, id string) bool {
			c, ok := cfg.Connectors.Connector(id)
			return ok && ofTenant(c, tenant)
		},
		own: map[string]map[string]bool{}, quick: tallies{}, slow: tallies{},
	}
}

// count counts what happened once, for the tenant and for all together.
func (p *pulse) count(tenant, connector string, m Measure, code string) {
	if p.counters == nil || tenant == "" {
		return
	}
	at, name := p.now(), TalliedUnknown // what a caller made up must not become a name
	known := p.known(tenant, connector)
	p.mu.Lock()
	defer p.mu.Unlock()
	if known {
		name = p.named(tenant, connector, at)
	}
	p.add(tenant, at, Tally{Measure: m, Code: code, Connector: name})
	if known && madeByTenant(connector) {
		name = TalliedTenants
	}
	p.add(Everywhere, at, Tally{Measure: m, Code: code, Connector: name})
}

// named is what the connector is counted as.
func (p *pulse) named(tenant, connector string, at time.Time) string {
	if !madeByTenant(connector) {
		return connector
	}
	if day := GrainDay.Bucket(at); !day.Equal(p.day) {
		p.day = day
		clear(p.own)
	}
	own := p.own[tenant]
	if own == nil {
		own = map[string]bool{}
		p.own[tenant] = own
	}
	if !own[connector] && len(own) >= pulseOwn {
		return TalliedOthers
	}
	own[connector] = true
	return connector
}

func (p *pulse) add(tenant string, at time.Time, what Tally) {
	p.quick.add(tallyPlace{tenant, GrainMinute, GrainMinute.Bucket(at)}, what)
	p.slow.add(tallyPlace{tenant, GrainHour, GrainHour.Bucket(at)}, what)
}

func (t tallies) add(place tallyPlace, what Tally) {
	counts := t[place]
	if counts == nil {
		counts = map[Tally]int64{}
		t[place] = counts
	}
	counts[what]++
}

// The feeds, beside those of telemetry.

func (p *pulse) tokenAnswered(tenant, connector string, err error) {
	if err == nil {
		p.count(tenant, connector, MeasureIssued, "")
		return
	}
	p.count(tenant, connector, MeasureRefused, string(CodeOf(err)))
}

func (p *pulse) refreshed(tenant, connector string, took time.Duration, err error) {
	if err != nil {
		p.count(tenant, connector, MeasureRefreshFailed, outcomeOf(err))
		return
	}
	part, _ := slices.BinarySearch(LatencyBounds(), took)
	p.count(tenant, connector, MeasureRefreshed, "")
	p.count(tenant, connector, MeasureLatency, strconv.Itoa(part))
}

func (p *pulse) consent(tenant, connector string, status ConsentStatus) {
	p.count(tenant, connector, MeasureConsent, string(status))
}

// reached tells that an update with these entries brought a consent to the status: there are others, of a sign-in, of a code that
// was wrong or that is spent, which leave it where it was. A completed one comes by another way (Consents.CompleteConsent).
func reached(status ConsentStatus, entries []Entry) bool {
	by := map[ConsentStatus]EventType{
		ConsentStarted: EventConsentStarted, ConsentDenied: EventConsentDenied, ConsentFailed: EventConsentFailed, ConsentExpired: EventConsentFailed,
	}
	return slices.ContainsFunc(entries, func(e Entry) bool { return e.Type == by[status] })
}

func (p *pulse) ended(tenant, connector, reason string) {
	p.count(tenant, connector, MeasureEnded, reason)
}

// follow writes what was counted every few seconds until ctx ends.
func (p *pulse) follow(ctx context.Context, failed func(error)) {
	if p.counters == nil {
		return
	}
	ticker := time.NewTicker(pulseEvery)
	defer ticker.Stop()
	down := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		err := p.flush(ctx, false)
		if err != nil && !down && ctx.Err() == nil {
			failed(err)
		}
		down = err != nil
	}
}

// flush writes what was counted; all: also what else waits some more. What the store does not take is tried again next time.
func (p *pulse) flush(ctx context.Context, all bool) error {
	if p.counters == nil {
		return nil
	}
	p.writing.Lock()
	defer p.writing.Unlock()
	if err := p.take(all); err != nil {
		return err
	}
	// A writer's batches for one tenant go one after the other; tenants go side by side.
	byTenant := map[string][]pulseBatch{}
	for _, batch := range p.waits {
		byTenant[batch.tenant] = append(byTenant[batch.tenant], batch)
	}
	var mu sync.Mutex
	written := map[string]bool{}
	var failures []error
	var group sync.WaitGroup
	places := make(chan struct{}, pulseParallel)
	for _, batches := range byTenant {
		places <- struct{}{}
		group.Go(func() {
			defer func() { <-places }()
			for _, b := range batches {
				limited, cancel := context.WithTimeout(ctx, p.timeout)
				err := p.counters.AddCounts(limited, b.tenant, p.writer, b.id, b.counts)
				cancel()
				mu.Lock()
				if err == nil {
					written[b.id] = true
				} else if len(failures) == 0 {
					failures = append(failures, err)
				}
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	group.Wait()
	late := p.now().Add(-pulsePatience)
	p.waits = slices.DeleteFunc(p.waits, func(b pulseBatch) bool { return written[b.id] || b.taken.Before(late) })
	return errors.Join(failures...)
}

// take makes batches of what was counted. What belongs to a tenant with a batch that the store does not have yet goes on adding
// up: a store that is away for long makes no more than the buckets of that time.
func (p *pulse) take(all bool) error {
	waits := map[string]bool{}
	for _, batch := range p.waits {
		waits[batch.tenant] = !all
	}
	p.mu.Lock()
	now := p.now()
	p.quick.forget(now.Add(-pulsePatience))
	taken := tallies{}
	taken.move(p.quick, waits)
	if all || now.Sub(p.slowAt) >= pulseSlow || now.Before(p.slowAt) {
		p.slowAt = now
		p.slow.forget(now.Add(-time.Hour - pulsePatience))
		taken.move(p.slow, waits)
	}
	p.mu.Unlock()
	byTenant := map[string][]BucketCounts{}
	for place, counts := range taken {
		byTenant[place.tenant] = append(byTenant[place.tenant], BucketCounts{Grain: place.grain, Start: place.start, Counts: counts})
		if place.grain == GrainHour {
			byTenant[place.tenant] = append(byTenant[place.tenant], BucketCounts{Grain: GrainDay, Start: GrainDay.Bucket(place.start), Counts: counts})
		}
	}
	for _, tenant := range slices.Sorted(maps.Keys(byTenant)) {
		var raw [9]byte
		if _, err := io.ReadFull(p.random, raw[:]); err != nil {
			return fmt.Errorf("name a batch of counts: %w", err)
		}
		p.waits = append(p.waits, pulseBatch{tenant: tenant, id: base64.RawURLEncoding.EncodeToString(raw[:]), taken: now, counts: byTenant[tenant]})
	}
	return nil
}

// move takes over what is of no tenant that waits.
func (t tallies) move(from tallies, waits map[string]bool) {
	for place, counts := range from {
		if !waits[place.tenant] {
			t[place] = counts
			delete(from, place)
		}
	}
}

// forget drops buckets from before that time.
func (t tallies) forget(before time.Time) {
	maps.DeleteFunc(t, func(place tallyPlace, _ map[Tally]int64) bool { return place.start.Before(before) })
}
