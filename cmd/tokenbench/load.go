package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// loadPlan is one load: which requests, on how many connections, for how long. It goes to a child as JSON. The generator is a
// process of its own so that what this program does besides (garbage, logs of children, reports) is not in its latencies, so
// that its own use of the processors can be told apart, and so that several loads can run at the same time.
type loadPlan struct {
	Address     string // HOST:PORT
	Connections int
	// Rate is the requests a second of an open loop, whose latencies count from the moment at which a request should have
	// been sent (no coordinated omission). 0: a closed loop, in which each connection asks again as soon as it is answered.
	Rate float64
	// Warm comes first and is not counted; Span is counted.
	Warm, Span time.Duration
	// Each ends a connection after so many requests, 0: when the time is over.
	Each int
	// Watch are processes whose use of the processors during Span is told.
	Watch []int

	// Tokens asks for tokens; Paths, where it is nil, are asked for in turn with GET and the API key.
	Tokens *tokenRequests
	Paths  []string
	Key    string // API key
}

// tokenRequests are POST /v1/tokens for users from First on, chosen at random.
type tokenRequests struct {
	First, Count int
	// InTurn asks for each of them in turn, in place of at random.
	InTurn bool
	// Check compares a sample of the answers with accessToken. Not for tokens that the provider renews.
	Check bool
}

// loadResult is what came of a load.
type loadResult struct {
	Requests int64         // answered well within the span
	Asked    int64         // all requests, of the warm-up too
	Span     time.Duration // as it was
	Latency  latency
	Checked  int64            // answers whose token was compared, and was right
	Errors   map[string]int64 // what went wrong how often, in the warm-up too
	CPU      map[int]time.Duration
	OwnCPU   time.Duration // of the generator, all in all

	// What the server allocated for a request, which alternate fills in.
	Allocations, AllocatedBytes float64 `json:"-"`
}

// latency is a distribution of times from request to whole answer.
type latency struct {
	Mean, P50, P90, P99, P999, Max time.Duration
}

func (r loadResult) perSecond() float64 { return float64(r.Requests) / r.Span.Seconds() }

// cpuPerRequest is in microseconds, for the processes together.
func (r loadResult) cpuPerRequest(pids ...int) float64 {
	var sum time.Duration
	for _, pid := range pids {
		sum += r.CPU[pid]
	}
	return float64(sum.Microseconds()) / float64(max(1, r.Requests))
}

// trouble is an error where not all went well.
func (r loadResult) trouble() error {
	if len(r.Errors) > 0 {
		return fmt.Errorf("requests failed: %v", r.Errors)
	}
	if r.Requests == 0 {
		return errors.New("no request was answered")
	}
	return nil
}

// loadSlack is how long a load may take beyond its plan: to connect, and for the last answers.
const loadSlack = 60 * time.Second

// load runs a plan in a child and waits for it. Failed requests are in the result, not an error.
func (b *bench) load(ctx context.Context, plan loadPlan) (loadResult, error) {
	ctx, cancel := context.WithTimeout(ctx, plan.Warm+plan.Span+loadSlack)
	defer cancel()
	text, err := json.Marshal(plan)
	if err != nil {
		return loadResult{}, err
	}
	cmd := exec.CommandContext(ctx, b.self, "load")
	var out, complaints bytes.Buffer
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = b.environment(), bytes.NewReader(text), &out, &complaints
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // the signal at the parent's death comes when this thread ends
	err = cmd.Run()
	runtime.UnlockOSThread()
	if err != nil {
		return loadResult{}, fmt.Errorf("load: %w: %s", errors.Join(ctx.Err(), err), strings.TrimSpace(complaints.String()))
	}
	var result loadResult
	if err := json.Unmarshal(out.Bytes(), &result); err != nil {
		return loadResult{}, fmt.Errorf("load: its result can't be read: %w", err)
	}
	return result, nil
}

// environment is what children that are this program itself get.
func (b *bench) environment(more ...string) []string {
	return append(append(os.Environ(), childVariable+"=1"), more...)
}

// childVariable marks such a child, for the test, whose program is another.
const childVariable = "TOKENBENCH_CHILD"

type loadCommand struct{}

// Run is the child.
func (loadCommand) Run(ctx context.Context, con *console) error {
	var plan loadPlan
	if err := json.NewDecoder(con.in).Decode(&plan); err != nil {
		return fmt.Errorf("the plan can't be read: %w", err)
	}
	result, err := newGenerator(plan).run(ctx)
	if err != nil {
		return err
	}
	return json.NewEncoder(con.out).Encode(result)
}
