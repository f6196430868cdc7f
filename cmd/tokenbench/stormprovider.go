package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// stormProvider is a token endpoint that does no more than scenarios of refreshes need: it takes a while, rotates refresh tokens
// strictly, and has a limit. The sandbox does all that as well, and everything else that an authorization server does, for which it
// takes more of the processors than the broker. It runs in this program.
type stormProvider struct {
	address string
	secret  string
	latency time.Duration
	limit   int // requests at the same time; 0: none
	server  *http.Server
	ended   chan error

	mu    sync.Mutex
	used  map[string]int // generation of each grant's refresh token
	now   int
	count stormCount
}

// stormCount is what reached it.
type stormCount struct {
	Requests, Refreshed int
	Beyond              int // the limit
	Unknown             int // refresh tokens that were used or never given
	Most                int // at the same time, those beyond the limit not counted
}

func startStormProvider(ctx context.Context, latency time.Duration, limit int) (*stormProvider, error) {
	socket, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &stormProvider{address: socket.Addr().String(), secret: rand.Text(), latency: latency, limit: limit, used: map[string]int{}, ended: make(chan error, 1)}
	p.server = &http.Server{Handler: p, ReadHeaderTimeout: 5 * time.Second}
	go func() { p.ended <- p.server.Serve(socket) }()
	return p, nil
}

func (p *stormProvider) close() {
	_ = p.server.Close()
	<-p.ended
}

// asServer is what a house wants.
func (p *stormProvider) asServer() *providerServer {
	return &providerServer{address: p.address, secret: p.secret}
}

func (p *stormProvider) counted() stormCount {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count
}

// firstToken is the refresh token of a grant as it was consented to.
func firstToken(grant string) string { return grant + "~0~" + expand("refresh", 0, refreshTokenBytes) }

var errUnknownToken = errors.New("the refresh token is not the grant's")

// take uses a refresh token up.
func (p *stormProvider) take(token string) (grant string, next int, err error) {
	grant, rest, _ := strings.Cut(token, "~")
	number, _, _ := strings.Cut(rest, "~")
	n, err := strconv.Atoi(number)
	if err != nil || n != p.used[grant] {
		return "", 0, errUnknownToken
	}
	p.used[grant]++
	return grant, p.used[grant], nil
}

// ServeHTTP is the token endpoint (RFC 6749 section 6).
func (p *stormProvider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		http.Error(w, "not a form", http.StatusBadRequest)
		return
	}
	status, answer := p.refresh(r)
	w.Header().Set("Content-Type", "application/json")
	if status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", "1")
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer)
}

func (p *stormProvider) refresh(r *http.Request) (int, map[string]any) {
	p.mu.Lock()
	p.count.Requests++
	if p.limit > 0 && p.now >= p.limit {
		p.count.Beyond++
		p.mu.Unlock()
		return http.StatusTooManyRequests, map[string]any{"error": "slow_down"}
	}
	p.now++
	p.count.Most = max(p.count.Most, p.now)
	grant, next, err := p.take(r.PostForm.Get("refresh_token"))
	if err != nil {
		p.count.Unknown++
	} else {
		p.count.Refreshed++
	}
	p.mu.Unlock()
	timer := time.NewTimer(p.latency)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.Context().Done():
	}
	p.mu.Lock()
	p.now--
	p.mu.Unlock()
	if err != nil {
		return http.StatusBadRequest, map[string]any{"error": "invalid_grant"}
	}
	return http.StatusOK, map[string]any{
		"access_token": fmt.Sprintf("%s~%d~%s", grant, next, expand("access", next, accessTokenBytes)), "token_type": "Bearer", "expires_in": 3600,
		"refresh_token": fmt.Sprintf("%s~%d~%s", grant, next, expand("refresh", next, refreshTokenBytes)), "scope": strings.Join(benchScopes(), " "),
	}
}
