package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestQuickRunOfSizes runs all that is about size, small.
func TestQuickRunOfSizes(t *testing.T) {
	if _, err := findRedis(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "report.md")
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	var out, told bytes.Buffer
	args := []string{"--quick", "--span", "200ms", "--fast-build", "--dir", dir, "--out", file}
	for _, s := range []string{"sizes", "pages", "memory", "cluster"} {
		args = append(args, "--scenario", s)
	}
	if status := run(ctx, args, nil, &out, &told); status != exitFine {
		t.Fatalf("status %d\n%s", status, told.String())
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := string(content)
	for _, want := range []string{
		"throughput, 600 connections / 60 | must", "p99, 1 connections / 60 | must", "First requests", "| failed requests, all sizes | must | at most 0.00 |",
		"| GET /v1/connections, page 21 |", "dashboard, overview", "dashboard, audit trail, an agent",
		"| c: | record, sealed | 600 |", "| a: | audit stream |", "resident memory", "start to ready", "static binary",
		"| operations that crossed slots or were sent to another master | must | at most 0.00 | 0.00 | holds |", "two replicas, Redis Cluster of three masters",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the report has no %q", want)
		}
	}
	nothingLeft(t, dir)
	if t.Failed() {
		t.Logf("%s\n%s", told.String(), text)
	}
}
