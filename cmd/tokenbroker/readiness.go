package main

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// readyCheck tells what is wrong with one thing that serving needs.
type readyCheck struct {
	name string
	run  func(ctx context.Context) trouble
}

// trouble is what is wrong; without a text it is nothing.
type trouble struct {
	text   string
	serves bool // the process serves all the same
}

// checkTimeout bounds all checks of one /readyz together. It is below the second that probes usually wait.
const checkTimeout = 800 * time.Millisecond

// readiness answers /readyz.
type readiness struct {
	checks   []readyCheck
	draining atomic.Bool
}

// report runs all checks at once. Each gets "ok" or what is wrong.
func (r *readiness) report(ctx context.Context) (ready bool, checks map[string]string) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	results := make([]trouble, len(r.checks))
	var running sync.WaitGroup
	for i, check := range r.checks {
		running.Go(func() { results[i] = check.run(ctx) })
	}
	running.Wait()

	ready, checks = true, map[string]string{"draining": "ok"}
	for i, check := range r.checks {
		checks[check.name] = "ok"
		if results[i].text != "" {
			ready, checks[check.name] = ready && results[i].serves, results[i].text
		}
	}
	if r.draining.Load() {
		ready, checks["draining"] = false, "the process is ending and takes no new work"
	}
	return ready, checks
}

func (r *readiness) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	ready, checks := r.report(req.Context())
	status := http.StatusOK
	if !ready {
		status = http.StatusServiceUnavailable
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(struct {
		Ready  bool              `json:"ready"`
		Checks map[string]string `json:"checks"`
	}{ready, checks})
}

// opsHandler is what listens on ops_listen. There is no pprof on it: a heap holds tokens (threats.md, 77).
func opsHandler(ready *readiness, metrics http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		_, _ = w.Write([]byte(`{"alive":true}` + "\n"))
	})
	mux.Handle("GET /readyz", ready)
	mux.Handle("GET /metrics", metrics)
	return mux
}
