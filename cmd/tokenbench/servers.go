package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"tokenbroker/cmd/tokenbench/reference"
	"tokenbroker/providers/sandbox"
)

// The other servers of a measurement, which are this program itself in processes of their own.

// referenceServer is the bare server, running.
type referenceServer struct {
	*process
	address string
}

// startReference starts the reference with so many records on a Redis of its own. eventBytes is the size of its events.
func (b *bench) startReference(ctx context.Context, redis *redisServer, records, eventBytes int, autoPipeline bool) (*referenceServer, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	args := []string{"reference", "--listen", address, "--redis", redis.address, "--records", strconv.Itoa(records), "--event-bytes", strconv.Itoa(eventBytes)}
	if autoPipeline {
		args = append(args, "--auto-pipeline")
	}
	p, err := b.start("reference", "", b.environment(), b.self, args...)
	if err != nil {
		return nil, err
	}
	return &referenceServer{p, address}, p.waitFor(ctx, "ready", func(ctx context.Context) error { return getOK(ctx, "http://"+address+"/readyz") })
}

// getOK asks for a page that must be there.
func getOK(ctx context.Context, url string) error {
	_, err := getText(ctx, url)
	return err
}

func getText(ctx context.Context, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %s", resp.StatusCode, text[:min(len(text), 500)])
	}
	return string(text), err
}

// allocated is what a process has allocated in its life.
type allocated struct{ objects, bytes float64 }

// readAllocated reads the figures of Go's runtime from a page for Prometheus.
func readAllocated(ctx context.Context, url string) (allocated, error) {
	text, err := getText(ctx, url)
	if err != nil {
		return allocated{}, err
	}
	var a allocated
	for line := range strings.Lines(text) {
		for name, into := range map[string]*float64{"go_memstats_mallocs_total ": &a.objects, "go_memstats_alloc_bytes_total ": &a.bytes} {
			if value, ok := strings.CutPrefix(line, name); ok {
				if *into, err = strconv.ParseFloat(strings.TrimSpace(value), 64); err != nil {
					return allocated{}, err
				}
			}
		}
	}
	if a.objects == 0 || a.bytes == 0 {
		return a, fmt.Errorf("%s does not tell what was allocated", url)
	}
	return a, nil
}

type referenceCommand struct {
	Listen       string `required:""`
	Redis        string `required:""`
	Records      int    `required:""`
	EventBytes   int
	AutoPipeline bool
}

// Run is the child.
func (c *referenceCommand) Run(ctx context.Context) error {
	s, err := reference.New(reference.Config{
		Redis: c.Redis, KeySHA256: sha256.Sum256([]byte(benchKey)), Tenant: benchTenant, Client: benchClient, EventBytes: c.EventBytes, AutoPipeline: c.AutoPipeline,
	})
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	now := time.Now().UTC().Truncate(time.Millisecond)
	for i := 0; i < c.Records; {
		var batch []reference.Record
		for ; i < c.Records && len(batch) < 500; i++ {
			batch = append(batch, referenceRecord(i, now))
		}
		if err := s.Put(ctx, batch); err != nil {
			return fmt.Errorf("put records: %w", err)
		}
	}
	return serveHTTP(ctx, c.Listen, s)
}

// referenceRecord is the connection of that number as the reference keeps it.
func referenceRecord(i int, now time.Time) reference.Record {
	return reference.Record{
		ID: expand("connection", i, 24), Tenant: benchTenant, Subject: subject(i), Connector: benchConnector, Client: benchClient, Status: "active",
		Scopes: benchScopes(), AccessToken: accessToken(i), RefreshToken: refreshToken(i),
		ExpiresAt: now.Add(tokenLife), CreatedAt: now, RefreshedAt: now, Account: reference.Account(accountOf(i)),
	}
}

// serveHTTP serves until ctx ends.
func serveHTTP(ctx context.Context, address string, handler http.Handler) error {
	socket, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(socket) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := server.Shutdown(last); err != nil {
		_ = server.Close()
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// providerServer is the sandbox, running. Its faults are set at address/_sandbox (package sandbox).
type providerServer struct {
	*process
	address string
	secret  string // of the broker's client there
}

// startProvider starts a sandbox. lifetime is that of the access tokens that it gives.
func (b *bench) startProvider(ctx context.Context, lifetime time.Duration) (*providerServer, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	secret := rand.Text()
	p, err := b.start("provider", "", b.environment("PROVIDER_SECRET="+secret), b.self, "provider", "--listen", address, "--lifetime", lifetime.String())
	if err != nil {
		return nil, err
	}
	return &providerServer{p, address, secret}, p.waitFor(ctx, "ready", func(ctx context.Context) error {
		return getOK(ctx, "http://"+address+"/.well-known/openid-configuration")
	})
}

type providerCommand struct {
	Listen   string        `required:""`
	Lifetime time.Duration `default:"1h"`
}

// Run is the child.
func (c *providerCommand) Run(ctx context.Context) error {
	var scopes []sandbox.Scope
	for _, s := range benchScopes() {
		scopes = append(scopes, sandbox.Scope{Name: s, Description: s})
	}
	server, err := sandbox.New(sandbox.Config{
		Issuer: "http://" + c.Listen, Now: time.Now, Random: rand.Reader, Admin: true, AccessTokenLifetime: c.Lifetime, Scopes: scopes,
		Clients: []sandbox.Client{{ID: providerClient, Secret: os.Getenv("PROVIDER_SECRET"), RedirectURIs: []string{"http://127.0.0.1/oauth2/callback/" + benchConnector}}},
		Auto:    &sandbox.Auto{User: "alice", Decision: "allow"},
	})
	if err != nil {
		return err
	}
	defer func() { _ = server.Close() }()
	return serveHTTP(ctx, c.Listen, server)
}

// providerClient is the broker's id at the provider.
const providerClient = "bench-client"
