package broker

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strconv"
	"time"
)

// Span is how far back an overview looks.
type Span string

// The spans.
const (
	SpanHour  Span = "1h"
	SpanDay   Span = "24h"
	SpanWeek  Span = "7d"
	SpanMonth Span = "30d"
)

// Spans are all of them, the shortest first.
func Spans() []Span { return []Span{SpanHour, SpanDay, SpanWeek, SpanMonth} }

// buckets are those that a chart of the span has: how many, the present one included, and of what grain.
func (s Span) buckets() (Grain, int, bool) {
	switch s {
	case SpanHour:
		return GrainMinute, 60, true
	case SpanDay:
		return GrainHour, 24, true
	case SpanWeek:
		return GrainHour, 168, true
	case SpanMonth:
		return GrainDay, 30, true
	}
	return "", 0, false
}

// Overview is what the first page of the dashboard shows.
type Overview struct {
	Tenant string // Everywhere: all together
	Span   Span
	At     time.Time
	// Attention is what somebody should look at now, the most urgent first.
	Attention []Attention
	// Grain and Buckets are the counts over time, the oldest first; the last bucket is not over.
	Grain   Grain
	Buckets []BucketCounts
	// Providers are those that refreshes went to in the span, the busiest first.
	Providers []ProviderPulse
	// Refusals are why token requests were refused, the most frequent first.
	Refusals []CodeCount
	Consents ConsentFunnel
	// Connectors counts the connections there are, the connector with most first. Newest are the last that were made.
	Connectors []ConnectorCount
	Newest     []Connection // as Connection.Effective has them
	// Missing names the parts that could not be read; the rest is there.
	Missing []string
}

// ConnectorCount is how many connections a connector has.
type ConnectorCount struct {
	Connector                     string
	Active, NeedsConsent, Revoked int
}

// All of them.
func (c ConnectorCount) All() int { return c.Active + c.NeedsConsent + c.Revoked }

// newestShown is how many of the newest connections there are.
const newestShown = 10

// CodeCount is how often there was a code.
type CodeCount struct {
	Code  string
	Count int64
}

// ConsentFunnel is how many consents reached what in the span. They are not the same ones: what was created before it can be
// completed in it.
type ConsentFunnel struct{ Created, Started, Completed, Denied, Failed, Abandoned int64 }

// ProviderPulse is how refreshes at a provider went.
type ProviderPulse struct {
	Name              string // what users read: "Google"; of connectors counted together one of the names in Tally
	Refreshed, Failed int64  // Failed without grants that were over: that is no fault of the provider's
	Ended             int64
	P50, P95          time.Duration // of those that gave a token; 0: there were none
	// Beyond: the time is more than the last of LatencyBounds.
	Beyond bool
	Codes  []CodeCount // of Failed
}

// Series are the counts of the measure in each bucket.
func (o Overview) Series(m Measure) []int64 {
	series := make([]int64, len(o.Buckets))
	for i, b := range o.Buckets {
		for what, n := range b.Counts {
			if what.Measure == m {
				series[i] += n
			}
		}
	}
	return series
}

// Overview looks at a tenant, or at all together. It is recorded before anything is read.
func (s *Service) Overview(ctx context.Context, op Operator, tenant string, span Span) (Overview, error) {
	if err := op.Check(PermitOverview, tenant); err != nil {
		return Overview{}, err
	}
	if err := s.recordOperator(ctx, op, operatorEntry(EventOperatorViewed, Connection{Tenant: tenant}, "overview")); err != nil {
		return Overview{}, err
	}
	return s.OverviewAgain(ctx, op, tenant, span)
}

// OverviewAgain is a further look at what an Overview of the same operator showed, which was recorded: a page that stays open
// asks every few seconds.
func (s *Service) OverviewAgain(ctx context.Context, op Operator, tenant string, span Span) (Overview, error) {
	if err := op.Check(PermitOverview, tenant); err != nil {
		return Overview{}, err
	}
	grain, _, ok := span.buckets()
	if !ok {
		return Overview{}, Errorf(CodeInvalidRequest, "there is no such span")
	}
	ctx, cancel := context.WithTimeout(ctx, 2*s.cfg.StoreTimeout)
	defer cancel()
	vitals := make(chan Vitals, 1)
	go func() { vitals <- s.readVitals(ctx) }()
	// Whoever may see accounts everywhere may in each tenant, so what is seen depends on no more than this.
	one, err := s.glanceAt(ctx, glanceKey{tenant: tenant, span: span, accounts: op.May(PermitAccounts, tenant)})
	v := <-vitals
	if err != nil {
		return Overview{}, err
	}
	o := Overview{Tenant: tenant, Span: span, At: one.at, Grain: grain, Buckets: one.buckets, Newest: one.newest, Missing: slices.Clone(one.missing)}
	if text := v.Errors["accounts"]; text != "" {
		o.Missing = append(o.Missing, "how many accounts there are")
	}
	o.Connectors = connectorCounts(v.classes, func(class ConnectionClass) bool {
		return (tenant == Everywhere || class.Tenant == tenant) && op.May(PermitAccounts, class.Tenant)
	})
	o.Attention = s.attention(op, tenant, one, v)
	o.sum(s.providerNames(tenant))
	return o, nil
}

// providerNames tells the provider behind a connector as the tenant knows it.
func (s *Service) providerNames(tenant string) func(connector string) string {
	return func(id string) string {
		c, ok := s.cfg.Connectors.Connector(id)
		if !ok || tenant != Everywhere && !ofTenant(c, tenant) {
			return id
		}
		return cmp.Or(c.Provider, c.ID)
	}
}

// sum makes the totals out of the buckets.
func (o *Overview) sum(providerOf func(string) string) {
	type pulse struct {
		ProviderPulse
		parts []int64
		codes map[string]int64
	}
	providers, refusals := map[string]*pulse{}, map[string]int64{}
	at := func(connector string) *pulse {
		name := providerOf(connector)
		p := providers[name]
		if p == nil {
			p = &pulse{ProviderPulse: ProviderPulse{Name: name}, parts: make([]int64, len(LatencyBounds())+1), codes: map[string]int64{}}
			providers[name] = p
		}
		return p
	}
	for _, b := range o.Buckets {
		for what, n := range b.Counts {
			switch what.Measure {
			case MeasureRefused:
				refusals[what.Code] += n
			case MeasureRefreshed:
				at(what.Connector).Refreshed += n
			case MeasureRefreshFailed:
				if what.Code == string(ConnectionNeedsConsent) {
					at(what.Connector).Ended += n
					break
				}
				p := at(what.Connector)
				p.Failed += n
				p.codes[what.Code] += n
			case MeasureLatency:
				if i, err := strconv.Atoi(what.Code); err == nil && i >= 0 && i <= len(LatencyBounds()) {
					at(what.Connector).parts[i] += n
				}
			case MeasureConsent:
				o.Consents.add(ConsentStatus(what.Code), n)
			}
		}
	}
	o.Refusals = codeCounts(refusals)
	for _, p := range providers {
		p.Codes = codeCounts(p.codes)
		p.P50, _ = quantile(p.parts, .5)
		p.P95, p.Beyond = quantile(p.parts, .95)
		o.Providers = append(o.Providers, p.ProviderPulse)
	}
	slices.SortFunc(o.Providers, func(a, b ProviderPulse) int {
		return cmp.Or(cmp.Compare(b.Refreshed+b.Failed+b.Ended, a.Refreshed+a.Failed+a.Ended), cmp.Compare(a.Name, b.Name))
	})
}

func (f *ConsentFunnel) add(status ConsentStatus, n int64) {
	switch status {
	case ConsentPending:
		f.Created += n
	case ConsentStarted:
		f.Started += n
	case ConsentCompleted:
		f.Completed += n
	case ConsentDenied:
		f.Denied += n
	case ConsentFailed:
		f.Failed += n
	case ConsentExpired:
		f.Abandoned += n
	}
}

func codeCounts(counts map[string]int64) []CodeCount {
	var all []CodeCount
	for _, code := range slices.Sorted(maps.Keys(counts)) {
		all = append(all, CodeCount{Code: code, Count: counts[code]})
	}
	slices.SortStableFunc(all, func(a, b CodeCount) int { return cmp.Compare(b.Count, a.Count) })
	return all
}

// quantile estimates the time that the part q of them took at most, from how many fell between which LatencyBounds: within one
// they are taken to lie evenly. beyond: it is more than the last bound, which is returned then.
func quantile(parts []int64, q float64) (d time.Duration, beyond bool) {
	var all int64
	for _, n := range parts {
		all += n
	}
	if all == 0 {
		return 0, false
	}
	bounds := LatencyBounds()
	rank, below := q*float64(all), int64(0)
	for i, n := range parts {
		if n == 0 || float64(below+n) < rank {
			below += n
			continue
		}
		if i == len(bounds) {
			break
		}
		low := time.Duration(0)
		if i > 0 {
			low = bounds[i-1]
		}
		return low + time.Duration((rank-float64(below))/float64(n)*float64(bounds[i]-low)), false
	}
	return bounds[len(bounds)-1], true
}

// connectorCounts sums classes up by connector.
func connectorCounts(classes []ClassCount, mine func(ConnectionClass) bool) []ConnectorCount {
	sums := map[string]*ConnectorCount{}
	for _, class := range classes {
		if !mine(class.ConnectionClass) {
			continue
		}
		sum := sums[class.Connector]
		if sum == nil {
			sum = &ConnectorCount{Connector: class.Connector}
			sums[class.Connector] = sum
		}
		switch class.Status {
		case ConnectionActive:
			sum.Active += class.Count
		case ConnectionNeedsConsent:
			sum.NeedsConsent += class.Count
		case ConnectionRevoked:
			sum.Revoked += class.Count
		}
	}
	all := make([]ConnectorCount, 0, len(sums))
	for _, sum := range sums {
		all = append(all, *sum)
	}
	slices.SortFunc(all, func(a, b ConnectorCount) int {
		return cmp.Or(cmp.Compare(b.All(), a.All()), cmp.Compare(a.Connector, b.Connector))
	})
	return all
}
