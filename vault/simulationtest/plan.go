package simulationtest

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// Plan is what a schedule may do, drawn from its seed: each has some kinds of trouble only, and more of those, so that what
// one kind leaves behind is not washed away by the others.
type Plan struct {
	Seed     uint64
	Replicas int
	Conns    int
	Callers  int

	Rotation rotation
	Family   bool
	Newest   bool
	Grace    time.Duration

	Spool bool
	// Chances in a thousand, for each call.
	StoreFaults    int
	ProviderFaults int
	DiskFaults     int
	Delays         int // the answer takes its own time
	Hurry          int // in a thousand steps: let time go on although something could be done
	Crowd          int // in a thousand steps: let callers come
	// How often these may happen.
	Kills, Stops, Jumps, Outages, Disconnects, Renewals, Ends, Sweeps, Failovers int
	// Prompt: after a failover, processes that can write back what they remember, before anything else happens.
	Prompt bool
	// Shared: all connections hold one grant.
	Shared bool
}

// maxConns is how many connections there are at most, ownConns how many with a grant of their own.
const maxConns, ownConns = sharedConns, 2

func oneOf[T any](r *rand.Rand, choices ...T) T { return choices[r.IntN(len(choices))] }

// Draw makes the plan of a seed. With failovers, the store may lose what it acknowledged.
func Draw(seed uint64, failovers bool) Plan {
	r := rand.New(rand.NewPCG(seed, 1))
	p := Plan{
		Seed: seed, Replicas: oneOf(r, 2, 2, 3), Conns: oneOf(r, 1, 1, 1, 2), Callers: 3 + r.IntN(6),
		Rotation: oneOf(r, rotationNone, rotationGrace, rotationGrace, rotationStrict, rotationStrict, rotationStrict),
		Family:   oneOf(r, true, true, false), Newest: oneOf(r, true, false), Grace: oneOf(r, 2*time.Second, 30*time.Second, 300*time.Second),
		Spool:          oneOf(r, true, true, true, true, true, false),
		StoreFaults:    oneOf(r, 0, 0, 20, 60, 200),
		ProviderFaults: oneOf(r, 0, 0, 100, 300, 600),
		DiskFaults:     oneOf(r, 0, 0, 0, 100),
		Delays:         oneOf(r, 0, 50, 200),
		Hurry:          oneOf(r, 5, 20, 80),
		Crowd:          oneOf(r, 30, 80, 150),
		Kills:          oneOf(r, 0, 0, 1, 2, 3),
		Stops:          oneOf(r, 0, 0, 1, 2),
		Jumps:          oneOf(r, 0, 0, 0, 1, 2),
		Outages:        oneOf(r, 0, 0, 0, 1),
		Disconnects:    oneOf(r, 0, 0, 0, 0, 1),
		Renewals:       oneOf(r, 0, 0, 0, 1),
		Ends:           oneOf(r, 0, 0, 0, 0, 0, 0, 0, 1),
		Sweeps:         oneOf(r, 0, 0, 1, 2),
	}
	if failovers {
		p.Failovers, p.Prompt = oneOf(r, 1, 1, 2), oneOf(r, true, true, false)
	}
	return p
}

// Share makes it a plan of connections that hold one grant.
func (p Plan) Share() Plan {
	r := rand.New(rand.NewPCG(p.Seed, 3))
	p.Shared, p.Conns, p.Callers = true, oneOf(r, 2, 2, 3), p.Callers+2
	p.Rotation = oneOf(r, rotationGrace, rotationStrict, rotationStrict)
	p.Jumps = 0 // which tokens are newer goes by the clocks of those who asked for them
	p.Renewals, p.Disconnects = oneOf(r, 0, 0, 1, 2), oneOf(r, 0, 0, 1, 1, 2)
	return p
}

// String is how a trace begins.
func (p Plan) String() string {
	provider := string(p.Rotation)
	if p.Rotation == rotationGrace {
		provider += fmt.Sprintf(" of %v", p.Grace)
		if p.Newest {
			provider += ", only the newest successor lives"
		}
	}
	if p.Family && p.Rotation != rotationNone {
		provider += ", reuse ends the grant"
	}
	of := ""
	if p.Shared {
		of = " of one grant"
	}
	return fmt.Sprintf("seed %d: %d replicas, %d connections%s, %d callers; provider: %s; spool: %v; faults in 1000 calls: store %d, provider %d, disk %d; "+
		"%d kills, %d stops, %d jumps, %d outages, %d disconnects, %d renewals, %d ends at the provider, %d sweeps, %d failovers",
		p.Seed, p.Replicas, p.Conns, of, p.Callers, provider, p.Spool, p.StoreFaults, p.ProviderFaults, p.DiskFaults,
		p.Kills, p.Stops, p.Jumps, p.Outages, p.Disconnects, p.Renewals, p.Ends, p.Sweeps, p.Failovers)
}
