package main

import (
	"context"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"tokenbroker/vault"
)

// TestMain lets the scripts run tokenbroker as a process of its own: the test binary is the program.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"tokenbroker": main})
}

// TestCommands runs the command line as scripts: testdata/*.txtar.
func TestCommands(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits,
			"lines": lines,
			"keys":  keys,
		},
		Setup: func(env *testscript.Env) error {
			// What a script does not set is not set.
			env.Setenv("TOKENBROKER_KEK", "")
			return nil
		},
	})
}

// exits runs a command and wants that exit status: exits 2 tokenbroker frobnicate.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS COMMAND...")
	}
	err := ts.Exec(args[1], args[2:]...)
	status := "0"
	if err != nil {
		status = err.Error()
	}
	want := args[0]
	if want != "0" {
		want = "exit status " + want
	}
	if status != want {
		ts.Fatalf("%v: %s, want %s", args[1:], status, want)
	}
}

// lines wants so many lines in a file or stream: lines stderr 1.
func lines(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: lines FILE COUNT")
	}
	count := 0
	for _, c := range ts.ReadFile(args[0]) {
		if c == '\n' {
			count++
		}
	}
	if want := args[1]; want != itoa(count) {
		ts.Fatalf("%s has %d lines, want %s", args[0], count, want)
	}
}

// keys sets variables to the ids of a keyset file's keys for records, oldest first: keys keyset.json OLD NEW.
func keys(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: keys FILE VARIABLE...")
	}
	kek, err := parseKEK("env:TOKENBROKER_KEK", environment{lookup: func(name string) (string, bool) { return ts.Getenv(name), true }})
	ts.Check(err)
	list, err := vault.ListKeyset([]byte(ts.ReadFile(args[0])), kek)
	ts.Check(err)
	for i, name := range args[1:] {
		ts.Setenv(name, strconv.FormatUint(uint64(list[i].ID), 10))
	}
}

func itoa(n int) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return itoa(n/10) + itoa(n%10)
}

// TestRunWithoutProcess holds run to its promise: no os.Exit, no global streams.
func TestRunWithoutProcess(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = null.Close() }()
	for _, c := range []struct {
		args []string
		want int
	}{
		{[]string{"version"}, exitFine},
		{[]string{"--help"}, exitFine},
		{[]string{"config", "check", "--config", "testdata/absent.yaml"}, exitFound},
		{[]string{"config", "check"}, exitUsage},
		{nil, exitUsage},
	} {
		if got := run(context.Background(), c.args, strings.NewReader(""), discard{}, discard{}); got != c.want {
			t.Errorf("run(%q) = %d, want %d", c.args, got, c.want)
		}
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
