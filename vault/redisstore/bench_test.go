package redisstore_test

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
	"tokenbroker/vault/vaulttest"
)

// BenchmarkRelease lets tokens out, each caller at the end of a chain of his own, and tells what CPU a step costs this process and
// redis-server: the time on the clock says little on a machine that does something else as well. Apart is without going together, trips is
// how many are under way while others wait (2, as it is built).
func BenchmarkRelease(b *testing.B) {
	for _, callers := range []int{1, 32, 256} {
		b.Run(fmt.Sprintf("callers=%d/apart", callers), func(b *testing.B) { benchmarkRelease(b, callers, (*redisstore.Store).Apart) })
		for _, trips := range []int{1, 2, 4} {
			b.Run(fmt.Sprintf("callers=%d/trips=%d", callers, trips), func(b *testing.B) {
				benchmarkRelease(b, callers, func(s *redisstore.Store) { s.TripsAtOnce(trips) })
			})
		}
	}
}

func benchmarkRelease(b *testing.B, callers int, set func(*redisstore.Store)) {
	server := vaulttest.StartRedis(b)
	store, err := redisstore.New(redisstore.Config{URL: server.URL(), IOTimeout: 10 * time.Second})
	if err != nil {
		b.Fatal(err)
	}
	defer store.Close()
	set(store)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	steps := make([]vault.Step, callers)
	for i := range steps {
		var made vault.Step
		steps[i], made = benchStep(i)
		if r := store.Apply(ctx, []vault.Step{made})[0]; r.Err != nil {
			b.Fatal(r.Err)
		}
	}
	b.ReportAllocs()
	own, others := ownCPU(b), serverCPU(b, server.Addr)
	b.ResetTimer()
	var left atomic.Int64
	left.Store(int64(b.N))
	var group sync.WaitGroup
	for i := range steps {
		group.Go(func() {
			step := steps[i]
			trail, n := *step.Trail, 0
			step.Trail = &trail
			for left.Add(-1) >= 0 {
				n++
				trail.Next = "head" + strconv.Itoa(n)
				trip, cancel := context.WithTimeout(ctx, 10*time.Second)
				r := store.Apply(trip, []vault.Step{step})[0]
				cancel()
				if r.Err != nil || r.Verdict != vault.VerdictDone || len(r.Reads[0]) != 2 {
					b.Errorf("a step: %+v", r)
					return
				}
				trail.Head = r.Head
			}
		})
	}
	group.Wait()
	b.StopTimer()
	b.ReportMetric(float64((ownCPU(b)-own).Nanoseconds())/float64(b.N), "cpu-ns/step")
	b.ReportMetric(float64((serverCPU(b, server.Addr)-others).Nanoseconds())/float64(b.N), "redis-ns/step")
}

// benchStep is a step as the vault makes it, and one that makes what it needs.
func benchStep(i int) (step, made vault.Step) {
	tag := fmt.Sprintf("tb:{%02x}:", i%256)
	record, member := tag+"c:"+fmt.Sprint(i), fmt.Sprintf("connection-%013d", i)
	step = vault.Step{
		Trail: &vault.TrailStep{
			Stream: tag + "a:acme" + fmt.Sprint(i), Heads: tag + "h:acme" + fmt.Sprint(i), Index: tag + "t", Member: "acme", Writer: "abcdefghijklmnop",
			Entries: []vault.TrailEntry{{Meta: strings.Repeat("m", 100), Body: strings.Repeat("b", 300)}},
		},
		Release: &vault.ReleaseStep{
			Index: tag + "s:" + fmt.Sprint(i), State: vault.StateDigest([]string{member}, "abcdefghijklmnop")[:12], Record: record,
			Values: []string{"acme", "active"}, Switches: tag + "sw", UseKey: tag + "i:" + fmt.Sprint(i), UseField: "is", UseValue: "1764460800000",
			Instead: vault.IndexQuery{Index: tag + "s:" + fmt.Sprint(i), Records: tag + "c:", Extra: tag + "i:", Beside: tag + "sw"},
		},
	}
	made = vault.Step{Writes: []vault.Write{
		{Kind: vault.WriteSortedAdd, Key: step.Release.Index, Args: []string{"0", member}},
		{Kind: vault.WriteHashSet, Key: record, Args: []string{"t", "acme", "v", "3", "s", "active", "wid", "abcdefghijklmnop", "gen", "7", "h", strings.Repeat("h", 120), "p", strings.Repeat("p", 180), "at:", strings.Repeat("a", 700), "rt", strings.Repeat("r", 200)}},
	}}
	return step, made
}

func ownCPU(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func serverCPU(b *testing.B, addr string) (all time.Duration) {
	info, err := vaulttest.Command(addr, "INFO", "cpu")
	if err != nil {
		b.Fatal(err)
	}
	for _, match := range regexp.MustCompile(`used_cpu_(?:user|sys):([0-9.]+)`).FindAllStringSubmatch(info, -1) {
		seconds, err := strconv.ParseFloat(match[1], 64)
		if err != nil {
			b.Fatal(err)
		}
		all += time.Duration(seconds * float64(time.Second))
	}
	return all
}
