package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMain is also the children that a run starts: they are this program with other arguments.
func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// TestQuickRun runs the whole of it, small: real processes, a real Redis, a real report.
func TestQuickRun(t *testing.T) {
	if _, err := findRedis(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "report.md")
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	var out, told bytes.Buffer
	if status := run(ctx, []string{"--quick", "--span", "300ms", "--scenario", "tokens", "--fast-build", "--profile", "--dir", dir, "--out", file}, nil, &out, &told); status != exitFine {
		t.Fatalf("status %d\n%s", status, told.String())
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"A quick run", "token requests a second, 32 connections, AOF everysec, broker / reference | must | at least 1.00", "AOF always",
		"| 256 | reference |", "|  | broker |", "**broker / reference**", "Open loop", "allocations", "Where the broker's processor time goes", "tokenbroker/api.",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the report has no %q", want)
		}
	}
	if strings.Contains(string(text), dir) || strings.Contains(string(text), benchKey) {
		t.Error("the report names a folder of this machine, or the API key")
	}
	if profiles, err := filepath.Glob(filepath.Join(dir, "*-broker-*.prof")); err != nil || len(profiles) != 2 {
		t.Errorf("profiles: %v, %v", profiles, err)
	}
	nothingLeft(t, dir)
	if t.Failed() {
		t.Logf("%s\n%s", told.String(), text)
	}
}

// nothingLeft: no file and no process of the run is there any more.
func nothingLeft(t *testing.T, dir string) {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(dir, "tokenbench-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil || len(stats) == 0 {
		t.Fatalf("%d processes, %v", len(stats), err)
	}
	for _, name := range stats {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // it ended just now
		}
		command, rest, _ := strings.Cut(string(text), ") ")
		if fields := strings.Fields(rest); len(fields) > 1 && fields[1] == fmt.Sprint(os.Getpid()) {
			t.Errorf("a child is left: %s)", command)
		}
	}
}

// TestInterruptedRunEndsItsChildren: Ctrl-C in the middle of a load.
func TestInterruptedRunEndsItsChildren(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	told := &untilTold{text: "round 2, broker", do: cancel}
	status := run(ctx, []string{"--rounds", "1000", "--span", "100ms", "--scenario", "tokens", "--fast-build", "--dir", dir, "--out", "-"}, nil, &bytes.Buffer{}, told)
	if status != exitFound {
		t.Errorf("status %d\n%s", status, told.b.String())
	}
	nothingLeft(t, dir)
}

// untilTold does something once a text was written.
type untilTold struct {
	b    bytes.Buffer
	text string
	do   func()
}

func (u *untilTold) Write(p []byte) (int, error) {
	u.b.Write(p)
	if strings.Contains(u.b.String(), u.text) {
		u.do()
	}
	return len(p), nil
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"--rounds", "x"}, {"nonsense"}} {
		var out, told bytes.Buffer
		if status := run(context.Background(), args, nil, &out, &told); status != exitUsage || !strings.Contains(told.String(), "--help") {
			t.Errorf("%v: status %d, %s", args, status, told.String())
		}
	}
	var out, told bytes.Buffer
	if status := run(context.Background(), []string{"--list"}, nil, &out, &told); status != exitFine || !strings.Contains(out.String(), "tokens") {
		t.Errorf("status %d, %s %s", status, out.String(), told.String())
	}
}
