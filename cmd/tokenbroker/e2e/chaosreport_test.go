//go:build chaos

package e2e

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"
)

// chaosReport is the page with the numbers.
type chaosReport struct {
	seed   uint64
	began  time.Time
	kills  *matrixResult
	alone  map[string][]time.Duration
	worlds []chaosResult
	failed bool
}

func share(sorted []time.Duration, part float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(part*float64(len(sorted))))].Round(100 * time.Microsecond)
}

func (r chaosReport) markdown() string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("# Chaos, %s", r.began.UTC().Format("2006-01-02"))
	p("")
	p("What `make chaos` measured: the compiled program as three replicas, real Redis servers, the sandbox provider, faults by seed.")
	p("")
	p("- began %s, took %s, seed %d, %s/%s, %d CPUs, %s", r.began.UTC().Format(time.RFC3339), time.Since(r.began).Round(time.Second), r.seed, runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version())
	if r.failed {
		p("- **FAILED**: see the log of the run")
	} else {
		p("- every check passed")
	}
	if k := r.kills; k != nil {
		p("")
		p("## Random SIGKILL, strict rotation")
		p("")
		p("%d users, each refreshing every 2 s, at a provider that ends the grant when a refresh token comes twice; three replicas, each with a spool;", k.Users)
		p("storing what a refresh gave takes up to 60 ms, the provider 25 ms. Each killed process is stopped first, so that the kernel can tell what it had not read.")
		p("")
		p("| | |")
		p("| --- | ---: |")
		p("| processes killed | %d |", k.Kills)
		p("| of them, again while they started | %d |", k.Twice)
		p("| time | %s |", k.Took.Round(time.Second))
		p("| refreshes that the provider did | %d |", k.Refreshes)
		p("| answers that no living process read | %d |", k.Undelivered)
		p("| of them, unread in the kernel of the process | %d |", k.Unread)
		p("| of them, come after the process had stopped waiting | %d |", k.HungUp)
		p("| answers read and not yet in Redis, which came back out of the spool | %d |", k.Saved)
		p("| answers read and not yet in the spool (at most %s before the kill) | %d |", k.UnkeptWithin.Round(100*time.Microsecond), k.Unkept)
		p("| **grants lost** | **%d** |", k.Lost)
		p("| **of them, not explained by one of those two lines** | **%d** |", k.Lost-k.Undelivered-k.Unkept)
		p("| grants that the provider ended for reuse | %d |", k.Reuses)
		p("| tokens: median, 99 %%, slowest | %s, %s, %s |", share(k.Latencies, .5), share(k.Latencies, .99), share(k.Latencies, 1))
		p("")
		p("Answers: %s.", counts(k.Answers))
	}
	if len(r.alone) > 0 {
		p("")
		p("## Redis returns, and nothing else is wrong")
		p("")
		p("Until each user's next refresh; one second of it is the pause after the store's history may have changed:")
		p("")
		table(p, r.alone)
	}
	for _, w := range r.worlds {
		p("")
		p("## %s", strings.ToUpper(w.Name[:1])+w.Name[1:])
		p("")
		p("| | |")
		p("| --- | ---: |")
		p("| time | %s |", w.Took.Round(time.Second))
		total := 0
		for _, n := range w.Answers {
			total += n
		}
		p("| requests | %d |", total)
		p("| refreshes that the provider did | %d |", w.Refreshes)
		p("| refresh tokens that came once more because an answer was lost | %d |", w.Grace)
		p("| grants | %d |", w.Grants)
		p("| **grants lost** | **%d** |", w.Lost)
		p("| grants that the provider ended for reuse | %d |", w.Reuses)
		p("| writes that Redis had lost, written back | %d |", w.Healed)
		p("| tokens: median, 99 %%, slowest | %s, %s, %s |", share(w.Latencies, .5), share(w.Latencies, .99), share(w.Latencies, 1))
		p("| slowest answer of any kind | %s |", w.Slowest.Round(time.Millisecond))
		p("")
		p("Answers: %s.", counts(w.Answers))
		p("")
		p("Faults: %s.", counts(w.Done))
		if len(w.Recoveries) > 0 {
			p("")
			p("Until a user's next token, counted from the end of the outage (for a failover, from the death of the master). Other faults go on")
			p("meanwhile: the lease of a killed replica runs for 12 s, a provider that fails for everybody is left alone for up to 15 s.")
			p("")
			table(p, w.Recoveries)
		}
	}
	return b.String()
}

func table(p func(string, ...any), kinds map[string][]time.Duration) {
	p("| outage | median | 90 %% | slowest |")
	p("| --- | ---: | ---: | ---: |")
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		all := kinds[kind]
		p("| %s | %s | %s | %s |", kind, share(all, .5), share(all, .9), share(all, 1))
	}
}

func counts(m map[string]int) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, m[name]))
	}
	return strings.Join(parts, "; ")
}
