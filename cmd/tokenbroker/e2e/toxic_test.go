//go:build chaos

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// toxicProxy is a toxiproxy in this process, before one server.
type toxicProxy struct {
	t     *testing.T
	proxy *toxiproxy.Proxy
	addr  string
}

func newToxicProxy(t *testing.T, name, target string) *toxicProxy {
	t.Helper()
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	p := toxiproxy.NewProxy(server, name, "127.0.0.1:0", target)
	if err := p.Start(); err != nil {
		t.Fatalf("start toxiproxy: %v", err)
	}
	t.Cleanup(p.Stop)
	return &toxicProxy{t: t, proxy: p, addr: p.Listen}
}

// toxic is a fault of a connection; the names are toxiproxy's: latency, timeout, reset_peer, limit_data, bandwidth.
type toxic struct {
	kind       string
	downstream bool // it strikes answers, otherwise requests
	attributes map[string]int64
}

// with lets the toxic work for a while, or until stop is closed.
func (p *toxicProxy) with(x toxic, d time.Duration, stop <-chan struct{}) {
	stream := "upstream"
	if x.downstream {
		stream = "downstream"
	}
	text, err := json.Marshal(map[string]any{"name": "fault", "type": x.kind, "stream": stream, "toxicity": 1, "attributes": x.attributes})
	if err != nil {
		p.t.Error(err)
		return
	}
	if _, err := p.proxy.Toxics.AddToxicJson(bytes.NewReader(text)); err != nil {
		p.t.Errorf("toxic %s: %v", x.kind, err)
		return
	}
	wait(d, stop)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := p.proxy.Toxics.RemoveToxic(ctx, "fault"); err != nil {
		p.t.Errorf("end the toxic %s: %v", x.kind, err)
	}
}

func wait(d time.Duration, stop <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-stop:
	}
}
