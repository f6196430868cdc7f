package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// deploy/bench/capacity.md is what the command prints: nothing in it was typed. After a change:
// go run ./cmd/tokenbench capacity --figures deploy/bench/capacity.json > deploy/bench/capacity.md
func TestCapacityPageIsPrinted(t *testing.T) {
	if testing.Short() {
		t.Skip("simulates a hundred million connections four times")
	}
	dir := filepath.Join("..", "..", "deploy", "bench")
	want, err := os.ReadFile(filepath.Join(dir, "capacity.md"))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if status := run(t.Context(), []string{"capacity", "--figures", filepath.Join(dir, "capacity.json")}, strings.NewReader(""), &out, os.Stderr); status != exitFine {
		t.Fatalf("exit status %d", status)
	}
	if !bytes.Equal(out.Bytes(), want) {
		t.Error("deploy/bench/capacity.md is not what the command prints")
	}
}

func TestFiguresMustBeWhole(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "deploy", "bench", "capacity.json"))
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(figures){
		"missing":   func(f figures) { delete(f, "event_bytes") },
		"unknown":   func(f figures) { f["evnt_bytes"] = f["event_bytes"] },
		"negative":  func(f figures) { f["busy"] = figureOf{Value: -1, Kind: figureAssumed, Source: "x"} },
		"no source": func(f figures) { f["busy"] = figureOf{Value: 1, Kind: figureAssumed} },
		"no kind":   func(f figures) { f["busy"] = figureOf{Value: 1, Source: "x"} },
	} {
		f, err := parseFigures(text)
		if err != nil {
			t.Fatal(err)
		}
		change(f)
		spoiled, err := json.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseFigures(spoiled); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// Twice as much of something needs what arithmetic says.
func TestCapacityIsArithmetic(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "deploy", "bench", "capacity.json"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := parseFigures(text)
	if err != nil {
		t.Fatal(err)
	}
	one := f.plan(1000, 2000)
	set := func(name string, by float64) {
		x := f[name]
		x.Value *= by
		f[name] = x
	}
	set("connections", 2)
	set("event_hours", 10)
	two := f.plan(1000, 2000)
	if two.connectionGiB != 2*one.connectionGiB || two.brokerCores != one.brokerCores || two.mastersBy != "memory" || two.masters <= one.masters {
		t.Errorf("once: %+v\ntwice: %+v", one, two)
	}
	if got := f.plan(1000, 1e6); got.replicasBy != "refreshes" || got.replicas != 1e6/f.of("refreshes_per_replica")/f.of("busy") && got.replicas != float64(int(1e6/f.of("refreshes_per_replica")/f.of("busy"))+1) {
		t.Errorf("a million refreshes a second: %+v", got)
	}
}
