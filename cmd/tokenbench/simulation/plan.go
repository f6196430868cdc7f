package simulation

import (
	"errors"
	"math"
	"time"
)

// Plan is what is simulated. The zero value of a field is its default.
type Plan struct {
	Connections float64 // default 100 million
	// ActiveShare of the connections is used each day; default 0.2. The others are kept alive where their provider ends what is unused.
	ActiveShare float64
	// Sessions a day of an active connection, how long each lasts, and the pause between two requests for tokens in it. Default 3,
	// 20 min and 2 min. Sessions begin by the daily curve.
	Sessions int
	Session  time.Duration
	Pause    time.Duration
	// Peak is how much more begins in the busiest hour of the day than in the mean one; default 2.5, the curve is a cosine's, cut off at 0.
	Peak float64

	Replicas int // default 100
	// PerReplica is how many refreshes a second one replica sustains; AtOnce and EarlyAtOnce are its places for each OAuth client
	// (refreshes_at_once, early_refreshes); Latency is a provider's. Default 300, 128, 16, 200 ms.
	PerReplica  float64
	AtOnce      int
	EarlyAtOnce int
	Latency     time.Duration

	// Outage: the provider of that id is away for Length, from Start on. No id: none is.
	OutageOf     string
	OutageStart  time.Duration
	OutageLength time.Duration
	// Restart: a rolling restart begins then, each replica is away for RestartEach. 0: none.
	RestartStart time.Duration
	RestartEach  time.Duration

	Warm   time.Duration // before figures are taken; default 6 h
	Span   time.Duration // default 24 h
	Sample int           // active connections that are simulated, of all providers together; default 60,000
	Seed   uint64
}

func (p Plan) complete() (Plan, error) {
	def := func(v *float64, d float64) {
		if *v == 0 {
			*v = d
		}
	}
	long := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	whole := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&p.Connections, 100e6)
	def(&p.ActiveShare, 0.2)
	def(&p.Peak, 2.5)
	def(&p.PerReplica, 300)
	whole(&p.Sessions, 3)
	whole(&p.Replicas, 100)
	whole(&p.AtOnce, 128)
	whole(&p.EarlyAtOnce, 16)
	whole(&p.Sample, 60_000)
	long(&p.Session, 20*time.Minute)
	long(&p.Pause, 2*time.Minute)
	long(&p.Latency, 200*time.Millisecond)
	long(&p.Warm, 6*time.Hour)
	long(&p.Span, 24*time.Hour)
	long(&p.OutageStart, 12*time.Hour)
	long(&p.OutageLength, time.Hour)
	long(&p.RestartEach, 10*time.Second)
	switch {
	case p.Connections < 1 || p.Sample < 1 || p.Replicas < 1 || p.AtOnce < 1 || p.EarlyAtOnce < 1 || p.Sessions < 1:
		return p, errors.New("simulate: connections, sample, replicas, places and sessions must be at least 1")
	case p.ActiveShare < 0 || p.ActiveShare > 1 || p.Peak < 1 || p.PerReplica <= 0:
		return p, errors.New("simulate: the active share is a part of 1, the peak at least 1, and what a replica sustains above 0")
	case p.Session < 0 || p.Pause < time.Second || p.Latency < time.Millisecond || p.Span < time.Minute || p.Warm < 0:
		return p, errors.New("simulate: a time is too short")
	}
	return p, nil
}

const day = 24 * time.Hour

// curve is how much begins at that time of the day, against the mean of the day: a cosine with its top at 14 h, raised to the power at
// which its top is the peak.
type curve struct{ power, mean float64 }

func newCurve(peak float64) curve {
	c := curve{}
	for c.power = 0; c.power < 20; c.power += 0.05 {
		sum := 0.0
		for h := range 240 {
			sum += math.Pow(raised(float64(h)/10), c.power)
		}
		if c.mean = sum / 240; 1/c.mean >= peak {
			break
		}
	}
	return c
}

func raised(hour float64) float64 { return (1 + math.Cos((hour-14)/24*2*math.Pi)) / 2 }

func (c curve) at(t time.Duration) float64 {
	return math.Pow(raised(math.Mod(t.Hours(), 24)), c.power) / c.mean
}

// top is the most that at returns.
func (c curve) top() float64 { return 1 / c.mean }

// working is the share of the replicas that is there.
func (p Plan) working(at time.Duration) float64 {
	if p.RestartStart == 0 || at < p.RestartStart || at >= p.RestartStart+time.Duration(p.Replicas)*p.RestartEach {
		return 1
	}
	return float64(p.Replicas-1) / float64(p.Replicas)
}
