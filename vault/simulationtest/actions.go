package simulationtest

import (
	"context"
	"encoding/base64"
	"slices"
	"strconv"
	"time"

	"tokenbroker/broker"
)

// step does one thing.
func (w *world) step() {
	r := w.rng.IntN(1000)
	switch {
	case r < 120 && w.trouble():
	case r < 120+w.plan.Crowd && w.plan.Callers > 0:
		w.arrive()
	case r >= 1000-w.plan.Hurry:
		w.hurry()
	case !w.pick():
		if w.plan.Callers > 0 && w.rng.IntN(3) == 0 {
			w.arrive()
			return
		}
		w.tick(time.Duration(5+w.rng.IntN(250)) * time.Millisecond)
	}
}

// hurry lets time go on while things are under way.
func (w *world) hurry() {
	span := oneOf(w.rng, 20*time.Millisecond, 20*time.Millisecond, 300*time.Millisecond, 2*time.Second, 2*time.Second, 12*time.Second, leaseLasts, 2*lifetime)
	span = span/2 + time.Duration(w.rng.Int64N(int64(span)))
	if slices.ContainsFunc(w.live, func(p *process) bool { return p.resumed != nil }) && w.rng.IntN(3) == 0 {
		span = leaseLasts + time.Duration(w.rng.Int64N(int64(leaseLasts)))
	}
	w.note("%v go by", span.Round(time.Millisecond))
	w.tick(span)
	if span >= leaseLasts && w.late > 0 {
		w.late--
		w.plan.Callers++
		w.arrive()
	}
	if span < replayEvery {
		return
	}
	for _, p := range w.live {
		if p.disk != nil && len(p.disk.files) > 0 {
			p.replay()
		}
	}
}

// replayEvery is how often a process looks through its spool (vault.Config.SpoolInterval).
const replayEvery = 5 * time.Second

// event is a kind of trouble, or of work that nobody asked for.
type event struct {
	left *int
	do   func(p *process)
}

// trouble makes one event happen; false: there is none left.
func (w *world) trouble() bool {
	always := 1
	p := w.victim()
	events := []event{
		{&w.plan.Kills, w.crash}, {&w.plan.Stops, w.halt}, {&w.plan.Jumps, w.jump}, {&w.plan.Outages, w.fail},
		{&w.plan.Disconnects, w.disconnect}, {&w.plan.Renewals, w.renew}, {&w.plan.Ends, w.endAtProvider},
		{&w.plan.Sweeps, func(p *process) { w.note("%s: sweeps", p.name); p.sweep() }},
		{&w.plan.Failovers, w.failover},
	}
	if p.disk != nil && len(p.disk.files) > 0 {
		events = append(events, event{&always, func(p *process) { w.note("%s: replays its spool", p.name); p.replay() }})
	}
	if p.resumed != nil {
		events = append(events, event{&always, func(p *process) { w.note("%s: goes on", p.name); w.resume(p); w.settle() }})
	}
	if w.outage {
		events = append(events, event{&always, func(*process) { w.note("the store is back"); w.outage = false }})
	}
	able := events[:0]
	for _, e := range events {
		if *e.left > 0 {
			able = append(able, e)
		}
	}
	if len(able) == 0 {
		return false
	}
	e := able[w.rng.IntN(len(able))]
	*e.left--
	e.do(p)
	return true
}

// victim is a process, one that is in the middle of a refresh if chance has it.
func (w *world) victim() *process {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.rng.IntN(2) == 0 {
		for _, g := range w.gates {
			if g.conn >= 0 && !g.left && !g.proc.dead && (g.call == callRefresh || g.call == callKeep || w.rng.IntN(4) == 0) {
				return g.proc
			}
		}
	}
	return w.live[w.rng.IntN(len(w.live))]
}

// crash kills the process; another one of the same replica takes its place.
func (w *world) crash(p *process) {
	back := 0
	w.kill(p)
	if p.disk != nil {
		if w.rng.IntN(4) == 0 {
			back = p.disk.reappear()
		}
		p.disk.removed = nil
	}
	w.note("%s: is killed; %d removed files of its spool are there again", p.name, back)
	w.settle()
	w.start(p.replica, p.disk)
}

func (w *world) halt(p *process) {
	if p.resumed != nil {
		return
	}
	w.note("%s: stops", p.name)
	w.pause(p)
}

func (w *world) jump(p *process) {
	by := time.Duration(w.rng.IntN(2*3600)-3600) * time.Second
	w.mu.Lock()
	p.offset += by
	w.jumped = true
	w.mu.Unlock()
	w.note("%s: its wall clock is put %v ahead", p.name, by)
}

func (w *world) fail(*process) {
	w.note("the store is away")
	w.outage = true
}

func (w *world) endAtProvider(*process) {
	conn := w.rng.IntN(w.plan.Conns)
	if g := w.records[conn].grant; g != nil {
		w.note("the user ends grant %d at the provider", g.n)
		w.provider.end(g, "ended by the user")
	}
}

// What the simulation asks with.
const (
	tenant    = "acme"
	connector = "files"
)

func subject(conn int) string { return "user" + strconv.Itoa(conn) }

func account(conn int) broker.Account { return broker.Account{ID: "account" + strconv.Itoa(conn)} }

func scopes() broker.ScopeSet { return broker.NewScopeSet("files.read") }

// arrive lets callers ask, some at the same time.
func (w *world) arrive() {
	for n := oneOf(w.rng, 1, 1, 2, 3); n > 0 && w.plan.Callers > 0; n-- {
		w.plan.Callers--
		patience := oneOf(w.rng, 300*time.Millisecond, 3*time.Second, 30*time.Second, 60*time.Second)
		var minTTL *time.Duration
		if w.rng.IntN(3) > 0 {
			d := time.Duration(w.rng.IntN(int(lifetime/time.Second))) * time.Second
			minTTL = &d
		}
		p := w.live[w.rng.IntN(len(w.live))]
		if p.resumed != nil && w.rng.IntN(4) > 0 {
			p = w.live[w.rng.IntN(len(w.live))] // others find out sooner that it does not answer
		}
		c := w.ask(w.rng.IntN(w.plan.Conns), p, patience, minTTL)
		if w.rng.IntN(6) == 0 {
			c.leave()
			w.note("%s leaves at once", c.name)
		}
	}
}

// ask lets a caller ask a process for a token.
func (w *world) ask(conn int, p *process, patience time.Duration, minTTL *time.Duration) *caller {
	number := len(w.callers) + 1
	c := &caller{number: number, name: "u" + strconv.Itoa(number), conn: conn, proc: p, deadline: time.Now().Add(patience)}
	w.callers = append(w.callers, c)
	w.waiting++
	ctx, cancel := context.WithDeadline(context.WithValue(context.Background(), whoKey{}, c.name), c.deadline)
	c.leave = cancel
	w.note("%s: %s asks for a token of connection %d, min_ttl %v, for %v", p.name, c.name, conn, minTTL, patience)
	p.ended.Go(func() {
		defer cancel()
		token, err := p.service.IssueToken(ctx, broker.Caller{Client: client, RequestID: c.name},
			broker.TokenRequest{Connector: connector, Subject: subject(conn), MinTTL: minTTL})
		w.mu.Lock()
		defer w.mu.Unlock()
		c.token, c.err, c.ended = token, err, time.Now()
		w.finished = append(w.finished, c)
	})
	w.settle()
	return c
}

// disconnect ends a connection.
func (w *world) disconnect(p *process) {
	conn := w.rng.IntN(w.plan.Conns)
	w.note("%s: connection %d is to be disconnected", p.name, conn)
	w.disconnects[conn] = true
	p.ended.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithValue(context.Background(), whoKey{}, "disconnect"), 30*time.Second)
		defer cancel()
		// An error is one of those that trouble makes; what matters is what the record says.
		_, _ = p.service.Disconnect(ctx, broker.Caller{Client: client, RequestID: "disconnect"}, w.conns[conn].ID)
	})
	w.settle()
}

// renew lets the user consent again, up to the code; the process completes it.
func (w *world) renew(p *process) {
	conn := w.rng.IntN(w.plan.Conns)
	var raw [18]byte
	for i := range raw {
		raw[i] = byte(w.rng.Uint32())
	}
	raw[0] = w.setup.Shard(tenant, subject(conn)) ^ raw[17]
	id := base64.RawURLEncoding.EncodeToString(raw[:])
	g, provisional := w.provider.newGrant(w.group(conn))
	w.consents[id] = g
	now := time.Now()
	_, err := w.setup.CreateConsent(context.Background(), broker.Consent{
		ID: id, Tenant: tenant, Client: client.ID, Subject: subject(conn), Connector: connector, Connection: w.conns[conn].ID, Scopes: scopes(), Binding: broker.BindingCode,
		Link: broker.NewSecret("link"), Status: broker.ConsentAwaitingCompletion, Deadline: now.Add(broker.ProvisionalLife), CreatedAt: now,
		CompletionCode: broker.NewSecret("BCDF-GHJK"), Provisional: &provisional, Identified: true, Account: account(w.group(conn)),
	}, "", nil)
	if err != nil {
		w.violate("prepare a consent: %v", err)
		return
	}
	w.note("%s: a consent that renews connection %d with grant %d is to be completed", p.name, conn, g.n)
	p.ended.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithValue(context.Background(), whoKey{}, "consent"), 30*time.Second)
		defer cancel()
		for {
			_, err := p.service.CompleteConsent(ctx, broker.Caller{Client: client, RequestID: "consent"}, id,
				broker.Completion{Subject: subject(conn), Code: broker.NewSecret("BCDF-GHJK")}) // as above
			if err == nil || w.shared == nil {
				return
			}
			// Until it is completed nobody else has what all holders need: the client comes back, as it is told to.
			select {
			case <-time.After(2 * time.Second):
			case <-p.killed:
				return
			case <-ctx.Done():
				return
			}
		}
	})
	w.settle()
}

// client is who asks.
var client = broker.Client{ID: "chat", Name: "Chat", Tenant: tenant}

// connectors is the operator's configuration.
type connectors struct{ shared bool }

// Connector is part of broker.Connectors.
func (c connectors) Connector(id string) (broker.Connector, bool) {
	shared := ""
	if c.shared {
		shared = sharedProvider
	}
	return broker.Connector{
		ID: connector, Name: "Files", Provider: "Rig", ProviderID: "rig", Timeout: upstreamTimeout, Exclusive: true, Default: scopes(), SharedGrants: shared,
		Scopes: []broker.ScopeInfo{{Name: "files.read", Description: "Read your files"}},
	}, id == connector
}

// All is part of broker.Connectors.
func (c connectors) All() []broker.Connector {
	one, _ := c.Connector(connector)
	return []broker.Connector{one}
}
