package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// gate stands between one replica and Redis, reads the commands, and does to single ones what a network and a dying
// process can do: it keeps them from Redis, or lets them have their effect and keeps the answers.
type gate struct {
	t        *testing.T
	addr     string
	target   string
	listener net.Listener
	wait     sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{}
	traps []*trap
	delay func(args []string) time.Duration // of a command on its way to Redis; nil: none
}

// trapKind is what happens to the commands that are caught.
type trapKind int

const (
	holdCommand trapKind = iota // Redis does not get it until the trap is opened
	holdAnswer                  // it has its effect; the answer waits until the trap is opened
	loseAnswer                  // it has its effect; the answer never comes, and the connection ends
)

// trap catches commands.
type trap struct {
	kind  trapKind
	match func(args []string) bool
	left  int // commands still to catch
	// caught is closed when the first one is caught, opened by open.
	caught, opened chan struct{}
	once           sync.Once
}

// open lets go of what is held. Connections whose process is gone take it with them: a command held for a dead process
// never reaches Redis.
func (t *trap) open() { t.once.Do(func() { close(t.opened) }) }

// newGate starts a gate to the address. It ends with the test.
func newGate(t *testing.T, target string) *gate {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{t: t, addr: l.Addr().String(), target: target, listener: l, conns: map[net.Conn]struct{}{}}
	g.wait.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", target)
			if err != nil {
				_ = client.Close()
				continue
			}
			g.serve(client, server)
		}
	})
	t.Cleanup(g.close)
	return g
}

func (g *gate) url() string { return "redis://" + g.addr + "/0" }

func (g *gate) close() {
	_ = g.listener.Close()
	g.mu.Lock()
	for _, trap := range g.traps {
		trap.open()
	}
	for c := range g.conns {
		_ = c.Close()
	}
	g.mu.Unlock()
	g.wait.Wait()
}

// set sets a trap for the next n commands that match.
func (g *gate) set(kind trapKind, n int, match func(args []string) bool) *trap {
	trap := &trap{kind: kind, match: match, left: n, caught: make(chan struct{}), opened: make(chan struct{})}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.traps = append(g.traps, trap)
	return trap
}

// slow delays commands on their way to Redis, counted from when they came; nil ends that.
func (g *gate) slow(delay func(args []string) time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.delay = delay
}

// wantCaught waits until the trap has caught something.
func (g *gate) wantCaught(trap *trap, what string) {
	g.t.Helper()
	select {
	case <-trap.caught:
	case <-time.After(30 * time.Second):
		g.t.Fatalf("never came to Redis: %s", what)
	}
}

// spring takes the trap that catches the command, if there is one.
func (g *gate) spring(args []string) *trap {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, trap := range g.traps {
		if trap.left > 0 && trap.match(args) {
			if trap.left--; !isClosed(trap.caught) {
				close(trap.caught)
			}
			return trap
		}
	}
	return nil
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// link is one connection through the gate.
type link struct {
	client, server net.Conn
	gone           chan struct{} // closed when one side ended
	once           sync.Once

	mu   sync.Mutex
	held *trap // answers wait for it
	lost bool  // the next answer ends the connection
}

func (l *link) end() {
	l.once.Do(func() { close(l.gone) })
	_, _ = l.client.Close(), l.server.Close()
}

func (g *gate) serve(client, server net.Conn) {
	l := &link{client: client, server: server, gone: make(chan struct{})}
	g.mu.Lock()
	g.conns[client], g.conns[server] = struct{}{}, struct{}{}
	g.mu.Unlock()
	end := func() {
		l.end()
		g.mu.Lock()
		delete(g.conns, client)
		delete(g.conns, server)
		g.mu.Unlock()
	}
	// What the client sends is read ahead of what is passed on, so that its death shows while a command is held.
	commands := make(chan command, 4096)
	g.wait.Go(func() {
		defer l.once.Do(func() { close(l.gone) })
		defer close(commands)
		reader := bufio.NewReader(client)
		for {
			c, err := readCommand(reader)
			if err != nil {
				return
			}
			c.came = time.Now()
			select {
			case commands <- c:
			case <-l.gone:
				return
			}
		}
	})
	g.wait.Go(func() {
		defer end()
		for c := range commands {
			if !g.pass(l, c) {
				return
			}
		}
	})
	g.wait.Go(func() { defer end(); l.answers() })
}

// pass sends a command on, as the traps have it.
func (g *gate) pass(l *link, c command) bool {
	if trap := g.spring(c.args); trap != nil {
		switch trap.kind {
		case holdCommand:
			select {
			case <-trap.opened:
			case <-l.gone:
			}
			if isClosed(l.gone) {
				return false // whoever sent it is dead: it was never there
			}
		case holdAnswer, loseAnswer:
			l.mu.Lock()
			l.held, l.lost = trap, trap.kind == loseAnswer
			l.mu.Unlock()
		}
	}
	g.mu.Lock()
	delay := g.delay
	g.mu.Unlock()
	if delay != nil {
		late := time.NewTimer(time.Until(c.came.Add(delay(c.args))))
		defer late.Stop()
		select {
		case <-late.C:
		case <-l.gone:
			return false // a command that a dead process had under way may never come
		}
	}
	_, err := l.server.Write(c.raw)
	return err == nil
}

func (l *link) answers() {
	buf := make([]byte, 64<<10)
	for {
		n, err := l.server.Read(buf)
		if err != nil {
			return
		}
		l.mu.Lock()
		held, lost := l.held, l.lost
		l.held = nil
		l.mu.Unlock()
		switch {
		case lost:
			return
		case held != nil:
			select {
			case <-held.opened:
			case <-l.gone:
				return
			}
		}
		if _, err := l.client.Write(buf[:n]); err != nil {
			return
		}
	}
}

// command is one command as RESP has it, and as bytes.
type command struct {
	args []string
	raw  []byte
	came time.Time
}

func readCommand(r *bufio.Reader) (command, error) {
	var c command
	line := func() (string, error) {
		text, err := r.ReadString('\n')
		c.raw = append(c.raw, text...)
		return strings.TrimRight(text, "\r\n"), err
	}
	head, err := line()
	if err != nil {
		return c, err
	}
	n, err := strconv.Atoi(strings.TrimPrefix(head, "*"))
	if err != nil || !strings.HasPrefix(head, "*") {
		return c, fmt.Errorf("no array: %.20q", head)
	}
	for range n {
		size, err := line()
		if err != nil {
			return c, err
		}
		length, err := strconv.Atoi(strings.TrimPrefix(size, "$"))
		if err != nil {
			return c, fmt.Errorf("no bulk string: %.20q", size)
		}
		value := make([]byte, length+2)
		if _, err := io.ReadFull(r, value); err != nil {
			return c, err
		}
		c.raw = append(c.raw, value...)
		c.args = append(c.args, string(value[:length]))
	}
	return c, nil
}

// The commands of the broker's protocol, told by what is in them: field and key names of the stored form.

// beginsRefresh takes the lease.
func beginsRefresh(args []string) bool {
	return slices.Contains(args, "deadline") && slices.Contains(args, "own") && slices.Contains(args, "fen")
}

// commitsRefresh stores what a refresh gave.
func commitsRefresh(args []string) bool {
	return slices.Contains(args, "rt") && slices.Contains(args, "only") && !writesConsent(args)
}

// releasesToken lets a token out and records it.
func releasesToken(args []string) bool {
	return slices.ContainsFunc(args, func(a string) bool { return strings.Contains(a, "}:i:") }) && slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "at:") })
}

// writesConsent moves a consent on: what consumes a state, a link or a code.
func writesConsent(args []string) bool {
	return slices.Contains(args, "HSET") && slices.ContainsFunc(args, func(a string) bool { return strings.Contains(a, "}:o:") })
}
