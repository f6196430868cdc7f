package main

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

func readyz(t *testing.T, r *readiness) (int, map[string]string) {
	t.Helper()
	recorder := httptest.NewRecorder()
	opsHandler(r, http.NotFoundHandler()).ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/readyz", nil))
	var answer struct {
		Ready  bool              `json:"ready"`
		Checks map[string]string `json:"checks"`
	}
	if err := json.Unmarshal(recorder.Body.Bytes(), &answer); err != nil {
		t.Fatal(err)
	}
	if answer.Ready != (recorder.Code == http.StatusOK) {
		t.Errorf("status %d, but ready is %v", recorder.Code, answer.Ready)
	}
	return recorder.Code, answer.Checks
}

func TestReadiness(t *testing.T) {
	wrong := ""
	r := &readiness{checks: []readyCheck{
		{name: "redis", run: func(context.Context) trouble { return trouble{text: wrong} }},
		{name: "keyset", run: func(context.Context) trouble { return trouble{} }},
	}}
	if code, checks := readyz(t, r); code != http.StatusOK || checks["redis"] != "ok" || checks["draining"] != "ok" {
		t.Errorf("%d %v", code, checks)
	}
	wrong = "cannot be reached"
	if code, checks := readyz(t, r); code != http.StatusServiceUnavailable || checks["redis"] != wrong || checks["keyset"] != "ok" {
		t.Errorf("%d %v", code, checks)
	}
	wrong = ""
	r.checks = append(r.checks, readyCheck{name: "memory", run: func(context.Context) trouble { return trouble{text: "nearly full", serves: true} }})
	if code, checks := readyz(t, r); code != http.StatusOK || checks["memory"] != "nearly full" {
		t.Errorf("%d %v", code, checks)
	}
	r.draining.Store(true)
	if code, checks := readyz(t, r); code != http.StatusServiceUnavailable || checks["draining"] == "ok" {
		t.Errorf("%d %v", code, checks)
	}
}

// TestReadinessIsBounded: a store that hangs makes the answer late by less than a probe's second.
func TestReadinessIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &readiness{checks: []readyCheck{{name: "redis", run: func(ctx context.Context) trouble { <-ctx.Done(); return trouble{text: "does not answer"} }}}}
		began := time.Now()
		if code, _ := readyz(t, r); code != http.StatusServiceUnavailable {
			t.Errorf("status %d", code)
		}
		if took := time.Since(began); took >= time.Second {
			t.Errorf("took %s", took)
		}
	})
}

func TestOpsRoutes(t *testing.T) {
	h := opsHandler(&readiness{}, http.NotFoundHandler())
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 200, "/debug/pprof/": 404, "/": 404, "/v1/tokens": 404} {
		recorder := httptest.NewRecorder()
		h.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, path, nil))
		if recorder.Code != want {
			t.Errorf("%s: %d, want %d", path, recorder.Code, want)
		}
	}
}
