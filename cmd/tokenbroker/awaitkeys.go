package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault/kek"
)

const (
	// The pauses between two questions to a key management service that did not answer.
	firstKeyPause = time.Second
	longKeyPause  = 15 * time.Second
)

// awaitKeys opens the doors, tells on them that the process is alive and can't serve yet, and asks the key management service
// until the keyset opens, and the keys that sign the audit trail. Then cfg.Keys is set. It is not if ctx ended first. A refusal is an error: nobody is served before
// somebody mends it, and a process that ends says so more loudly than one that waits.
func awaitKeys(ctx context.Context, cfg *Config, env environment, telemetry *telemetry, log *slog.Logger) (*doors, error) {
	d, err := openDoors(ctx, cfg, log)
	if err != nil {
		return nil, err
	}
	var reason atomic.Pointer[string]
	because := func(err error) {
		text := err.Error()
		reason.Store(&text)
	}
	because(cfg.KeysWait)
	waiting := &readiness{checks: []readyCheck{{name: "keyset", run: func(context.Context) trouble { return trouble{text: *reason.Load()} }}}}
	d.lead(telemetry.instrument(withoutKeys(log)), opsHandler(waiting, telemetry.handler()))
	log.WarnContext(ctx, "not ready: the keyset can't be opened yet; asking on", "listen", d.main.address(), "ops_listen", d.ops.address(), "error", cfg.KeysWait)

	for pause := firstKeyPause; ; pause = min(2*pause, longKeyPause) {
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			d.close()
			return nil, nil
		case <-timer.C:
		}
		err := cfg.askForKeys(env)
		switch {
		case err == nil:
			log.InfoContext(ctx, "the keyset is open")
			return d, nil
		case !errors.Is(err, kek.ErrUnavailable):
			d.close()
			return nil, err
		}
		because(err)
	}
}

// askForKeys reads everything anew: credentials in files, and the keyset, may have been exchanged meanwhile.
func (c *Config) askForKeys(env environment) error {
	key, err := parseKEK(c.Keyset.KEK, env)
	if err != nil {
		return err
	}
	content, err := readKeysetFile(c.Keyset.File, c.Keyset.KEK, env)
	if err != nil {
		return err
	}
	if err := c.openKeys(c.Keyset, key, content); err != nil || c.Audit.SigningFile == "" {
		return err
	}
	if content, err = readSigningFile(c.Audit.SigningFile, env); err != nil {
		return err
	}
	c.Audit.Signing, err = openSigningKeys(c.Audit.SigningFile, c.Keyset.KEK, key, content)
	return err
}

// withoutKeys answers everything with the API's 503: nothing can be read, and nobody authenticated would change that.
func withoutKeys(log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := rand.Text()
		r.Pattern = "OTHER /*"
		h := w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("X-Frame-Options", "DENY")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Retry-After", "5")
		h.Set("Request-Id", id)
		w.WriteHeader(http.StatusServiceUnavailable)
		_ = json.NewEncoder(w).Encode(map[string]any{
			"error": broker.CodeTemporarilyUnavailable, "error_description": "this process waits for its keys; repeat the request", "request_id": id,
		})
		log.DebugContext(r.Context(), "refused: no keys yet", "request_id", id)
	})
}
