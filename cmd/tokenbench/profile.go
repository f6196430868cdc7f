package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// profiled loads the broker of the stage once more, with its profiles on, and returns what they show first.
func (b *bench) profiled(ctx context.Context, s *stage, plan loadPlan) ([]string, error) {
	plan.Address = s.broker.address
	end, err := b.profileOf(s.house, s.broker)
	if err != nil {
		return nil, err
	}
	result, err := b.load(ctx, plan)
	if err == nil && result.Requests == 0 {
		err = result.trouble()
	}
	if err != nil {
		return nil, fmt.Errorf("load for the profile: %w", err)
	}
	return end(ctx, fmt.Sprintf("32 connections, AOF %s", s.fsync))
}

// profileOf begins profiles of a broker of the house, which is one of -tags profile and told by signals. The function that it returns
// ends them and returns what they show first; the profiles go beside the report, for go tool pprof. Without --profile there are none.
func (b *bench) profileOf(h *house, broker *brokerServer) (end func(ctx context.Context, under string) ([]string, error), err error) {
	if !b.options.Profile {
		return func(context.Context, string) ([]string, error) { return nil, nil }, nil
	}
	if err := broker.cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		return nil, err
	}
	return func(ctx context.Context, under string) ([]string, error) { return b.endProfile(ctx, h, broker, under) }, nil
}

func (b *bench) endProfile(ctx context.Context, h *house, broker *brokerServer, under string) ([]string, error) {
	dir := filepath.Join(h.dir, profileDir)
	if err := broker.cmd.Process.Signal(syscall.SIGUSR2); err != nil {
		return nil, err
	}
	allocs := filepath.Join(dir, "allocs.prof")
	if err := broker.waitFor(ctx, "writing profiles", func(context.Context) error { _, err := os.Stat(allocs); return err }); err != nil {
		return nil, err
	}
	var texts []string
	for _, p := range []struct{ file, index, title string }{
		{"cpu", "cpu", "Where the broker's processor time goes"}, {"allocs", "alloc_objects", "Where the broker's allocations come from, since its start"},
	} {
		top, err := b.top(ctx, filepath.Join(dir, p.file+".prof"), p.index)
		if err != nil {
			return nil, err
		}
		texts = append(texts, fmt.Sprintf("%s (%s; flat, then cumulative):\n\n```\n%s```", p.title, under, top))
		if err := b.keep(filepath.Join(dir, p.file+".prof"), p.file); err != nil {
			return nil, err
		}
	}
	return texts, nil
}

// profileDir is where in the house's folder the broker writes them.
const profileDir = "profiles"

// top is the head of a profile: the functions with the most of their own, and those with the most below them.
func (b *bench) top(ctx context.Context, file, index string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var out strings.Builder
	for _, order := range []string{"-flat", "-cum"} {
		text, err := exec.CommandContext(ctx, "go", "tool", "pprof", "-top", order, "-nodecount=25", "-sample_index="+index, file).Output()
		if err != nil {
			return "", fmt.Errorf("read the profile: %w", err)
		}
		// Before "Showing nodes" stand the program's path and the date.
		if _, rest, ok := strings.Cut(string(text), "Showing nodes"); ok {
			out.WriteString("Showing nodes" + rest)
		}
	}
	return out.String(), nil
}

// keep copies a profile to where the report goes.
func (b *bench) keep(file, name string) error {
	if b.options.Out == "-" {
		return nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	to := filepath.Join(filepath.Dir(b.options.reportFile(b.began)), b.began.Format(time.DateOnly)+"-broker-"+name+".prof")
	b.say("profile: %s", to)
	return os.WriteFile(to, text, 0o644)
}
