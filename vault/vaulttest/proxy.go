package vaulttest

import (
	"io"
	"net"
	"sync"
	"testing"
)

// Proxy stands before a server and loses answers when told so: the request has its effect, the answer never comes.
type Proxy struct {
	Addr string

	listener net.Listener
	wait     sync.WaitGroup

	mu     sync.Mutex
	target string
	lose   int
	conns  map[net.Conn]struct{}
}

// StartProxy starts a proxy to the address. It ends with the test.
func StartProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("start proxy: %v", err)
	}
	p := &Proxy{Addr: l.Addr().String(), target: target, listener: l, conns: make(map[net.Conn]struct{})}
	p.wait.Go(p.accept)
	t.Cleanup(func() {
		_ = l.Close()
		p.mu.Lock()
		for c := range p.conns {
			_ = c.Close()
		}
		p.mu.Unlock()
		p.wait.Wait()
	})
	return p
}

// Switch makes the proxy stand before another server, and ends all connections to the one before.
func (p *Proxy) Switch(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
	for c := range p.conns {
		_ = c.Close()
	}
}

// LoseAnswers makes the proxy drop the next n pieces of answers, each with its connection.
func (p *Proxy) LoseAnswers(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lose = n
}

// Left is how many of those are still to come.
func (p *Proxy) Left() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lose
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		target := p.target
		p.mu.Unlock()
		server, err := net.Dial("tcp", target)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mu.Lock()
		p.conns[client], p.conns[server] = struct{}{}, struct{}{}
		moved := p.target != target
		p.mu.Unlock()
		if moved {
			_, _ = client.Close(), server.Close()
		}
		end := func() {
			_, _ = client.Close(), server.Close()
			p.mu.Lock()
			delete(p.conns, client)
			delete(p.conns, server)
			p.mu.Unlock()
		}
		p.wait.Go(func() { defer end(); _, _ = io.Copy(server, client) })
		p.wait.Go(func() { defer end(); p.answers(client, server) })
	}
}

func (p *Proxy) answers(client, server net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := server.Read(buf)
		if err != nil {
			return
		}
		p.mu.Lock()
		lose := p.lose > 0
		if lose {
			p.lose--
		}
		p.mu.Unlock()
		if lose {
			return
		}
		if _, err := client.Write(buf[:n]); err != nil {
			return
		}
	}
}
