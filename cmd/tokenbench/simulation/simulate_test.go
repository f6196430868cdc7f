package simulation

import (
	"math"
	"reflect"
	"testing"
	"time"
)

func near(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if math.Abs(got-want) > tolerance*math.Abs(want) {
		t.Errorf("%s: %.4g, want %.4g within %.0f %%", what, got, want, tolerance*100)
	}
}

func simulated(t *testing.T, plan Plan, providers ...Provider) Result {
	t.Helper()
	r, err := Simulate(t.Context(), plan, providers)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// one is a provider with all connections, whose tokens live for an hour.
func one() Provider { return Provider{ID: "files", Share: 1, TTL: 3600} }

// always is a plan in which every connection is used without a pause, all day.
func always() Plan {
	return Plan{Connections: 2_000, ActiveShare: 1, Sessions: 1, Session: 72 * time.Hour, Peak: 1, Span: 4 * time.Hour, Warm: 24 * time.Hour, Replicas: 2, Sample: 2_000}
}

// Connections in steady use are refreshed once in a life less one and a half bands, and nobody waits for that.
func TestSteadyUse(t *testing.T) {
	r := simulated(t, always(), one())
	near(t, "refreshes a second", r.Total.Mean, 2_000/(3600-1.5*300), 0.02)
	if r.Waited > 0.001*r.Providers[0].Requests {
		t.Errorf("%v of %v callers waited", r.Waited, r.Providers[0].Requests)
	}
}

// The size of the sample changes what is told of a second, not the flow.
func TestSampleStandsForAll(t *testing.T) {
	small, large := always(), always()
	small.Sample, large.Sample = 300, 2_000
	near(t, "refreshes a second", simulated(t, small, one()).Total.Mean, simulated(t, large, one()).Total.Mean, 0.05)
}

func TestSameSeedSameFigures(t *testing.T) {
	plan := Plan{Connections: 1e6, Sample: 500, Span: 6 * time.Hour, Seed: 7}
	a, b := simulated(t, plan, one()), simulated(t, plan, one())
	if !reflect.DeepEqual(a, b) {
		t.Error("the same seed gave other figures")
	}
	plan.Seed = 8
	if reflect.DeepEqual(a.Providers, simulated(t, plan, one()).Providers) {
		t.Error("another seed gave the same figures")
	}
}

// A queue is as long as arithmetic says: what comes beyond a provider's limit waits, ten seconds at most, and the rest is sent away.
func TestLimitOfAProvider(t *testing.T) {
	limited := one()
	limited.RefreshesPerSecond = 0.5 // 0.63 a second are needed
	r := simulated(t, always(), limited)
	near(t, "refreshes a second", r.Total.Mean, 0.5, 0.02)
	p := r.Providers[0]
	if p.WaitMax > 13*time.Second || p.SentAway == 0 || r.First != "provider of files" {
		t.Errorf("%+v", p)
	}
}

// An hour without the provider: callers whose token ended fail, and behind it what was put off is caught up at the pace of the
// early places, callers first; the longest wait is theirs who came in the first moments.
func TestOutageAndTheStormBehindIt(t *testing.T) {
	plan := always()
	plan.OutageOf, plan.OutageStart, plan.OutageLength = "files", 2*time.Hour, time.Hour
	r := simulated(t, plan, one())
	p := r.Providers[0]
	if p.Failed == 0 {
		t.Error("nobody failed in an hour without a provider")
	}
	// All 2,000 tokens end in that hour and are wanted at once.
	if p.Refreshes.Peak < 5*p.Refreshes.Mean || p.Refreshes.Peak > 2*300+1 {
		t.Errorf("a storm of %.0f a second, %.0f in the mean", p.Refreshes.Peak, p.Refreshes.Mean)
	}
	if p.WaitMax > 11*time.Second {
		t.Errorf("somebody waited %v", p.WaitMax)
	}
	calm := simulated(t, always(), one())
	near(t, "refreshes in all, but for one hour's", r.Total.Mean, calm.Total.Mean, 0.2)
}

// Unused grants are kept alive at the rate that their number and the provider's limit give.
func TestKeptAlive(t *testing.T) {
	p := one()
	p.Idle = 1_000_000
	r := simulated(t, Plan{Connections: 1e6, ActiveShare: 0.001, Sample: 100, Span: time.Hour}, p)
	near(t, "kept alive", r.Providers[0].KeptAlive, 999_000/775_000.0, 0.001)
}

func TestCurve(t *testing.T) {
	c := newCurve(2.5)
	sum := 0.0
	for m := range 24 * 60 {
		sum += c.at(time.Duration(m) * time.Minute)
	}
	near(t, "mean", sum/24/60, 1, 0.01)
	near(t, "peak", c.at(14*time.Hour), 2.5, 0.03)
}

func TestBuiltInProviders(t *testing.T) {
	list, err := Providers()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, p := range list {
		sum += p.Share
		if p.Source == "" {
			t.Errorf("%s has no source", p.ID)
		}
	}
	near(t, "shares", sum, 1, 1e-9)
	if _, err := ParseProviders([]byte("- {id: a, share: 1, ttl: 3}")); err == nil {
		t.Error("a field that is not known is accepted")
	}
}

func TestImpossiblePlans(t *testing.T) {
	for _, p := range []Plan{{ActiveShare: 2}, {Peak: .5}, {Connections: .1}, {Replicas: -1}, {Pause: time.Millisecond}} {
		if _, err := Simulate(t.Context(), p, []Provider{one()}); err == nil {
			t.Errorf("%+v is accepted", p)
		}
	}
}
