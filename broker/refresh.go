package broker

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
)

// Codes that stand in Connection.Error.
const (
	ErrorExpired      = "expired"       // the token ended and there is no refresh token
	ErrorInvalidGrant = "invalid_grant" // the provider says that the grant is over (RFC 6749 section 5.2)
)

const (
	// leaseMargin is what a lease outlasts the slowest upstream call and the storing of its answer by. A lease shorter
	// than the call is worse than an outage: another replica would send the same refresh token again (faults.md, step 3).
	leaseMargin = 6 * time.Second
	// busyPoll is how often somebody who waits for another replica's refresh looks again.
	busyPollMin, busyPollMax = 40 * time.Millisecond, 200 * time.Millisecond
	// backoff after failures of the provider, per grant.
	backoffMin, backoffMax = 250 * time.Millisecond, 30 * time.Second
	// conservativeLifetime is for a refreshed token of which the provider did not say how long it lives.
	conservativeLifetime = 5 * time.Minute
)

// refresher runs at most one refresh of a grant at a time, here and, by lease, on all replicas.
type refresher struct {
	s      *Service
	flight singleflight.Group

	circuits *circuits
	lanes    *lanes

	mu     sync.Mutex
	hopes  map[string]hope   // connection id: refreshes for a min_ttl that the last one did not reach
	stalls map[string]*stall // by flight
}

func newRefresher(s *Service) *refresher {
	return &refresher{s: s, circuits: newCircuits(s.cfg.Now, s.jitter), lanes: newLanes(s.cfg.Now, s.jitter), hopes: map[string]hope{}, stalls: map[string]*stall{}}
}

// refresh brings the connection's token up to date and returns the connection as it is then. Everybody who asks meanwhile
// gets the same result. The work goes on when the caller leaves: between the provider's answer and its being stored,
// nobody's disconnect may lose the new refresh token.
//
// An error is an *Error, or ErrConflict where the connection stopped being active: then the connection is returned too.
func (r *refresher) refresh(ctx context.Context, caller Caller, actor Actor, conn Connection, w want) (Connection, error) {
	result, stalled := r.start(ctx, refreshRun{caller: caller, actor: actor, first: conn, want: w, urgent: true})
	return r.wait(ctx, result, stalled)
}

// asked is refresh for an operator; why is for the trail.
func (r *refresher) asked(ctx context.Context, conn Connection, op Operator, why string) (Connection, error) {
	caller := Caller{Client: Client{ID: conn.Client, Tenant: conn.Tenant}, RequestID: op.RequestID, TraceID: op.TraceID}
	result, stalled := r.start(ctx, refreshRun{caller: caller, first: conn, want: want{refresh: true}, why: why, urgent: true})
	return r.wait(ctx, result, stalled)
}

// wait is for a refresh that was started or joined.
func (r *refresher) wait(ctx context.Context, result <-chan singleflight.Result, stalled <-chan struct{}) (Connection, error) {
	if result == nil {
		return Connection{}, &Error{Code: CodeTemporarilyUnavailable, Description: "this replica is shutting down; retry", RetryAfter: time.Second}
	}
	// Longer than one upstream call, so that a waiter sees it end even if it came first.
	limit := time.NewTimer(r.s.cfg.UpstreamTimeout + r.s.cfg.PersistTimeout + time.Second)
	defer limit.Stop()
	select {
	case res := <-result:
		fresh, _ := res.Val.(Connection)
		return fresh, res.Err
	case <-stalled:
		return Connection{}, storeError("store the refreshed token", errStalled)
	case <-ctx.Done():
		return Connection{}, (&Error{Code: CodeTemporarilyUnavailable, Description: "the request ended before the provider answered; retry", RetryAfter: time.Second}).Because(ctx.Err())
	case <-limit.C:
		return Connection{}, unavailable(time.Second, errors.New("refresh took longer than a caller can wait"))
	}
}

// ahead starts a refresh for which nobody waits.
func (r *refresher) ahead(conn Connection, w want) {
	caller := Caller{Client: Client{ID: conn.Client, Tenant: conn.Tenant}}
	r.start(context.Background(), refreshRun{caller: caller, first: conn, want: w})
}

// early starts a refresh ahead of need and tells how it ended; why is for the trail. nil: the service is draining.
func (r *refresher) early(conn Connection, why string) <-chan singleflight.Result {
	caller := Caller{Client: Client{ID: conn.Client, Tenant: conn.Tenant}}
	result, _ := r.start(context.Background(), refreshRun{caller: caller, first: conn, why: why})
	return result
}

// look is early, and tells whether the provider was asked on behalf of this very call.
func (r *refresher) look(conn Connection, why string) (<-chan singleflight.Result, *atomic.Bool) {
	caller, sent := Caller{Client: Client{ID: conn.Client, Tenant: conn.Tenant}}, new(atomic.Bool)
	result, _ := r.start(context.Background(), refreshRun{caller: caller, first: conn, why: why, sent: sent})
	return result, sent
}

// start joins the running refresh of this grant, or starts one. It also returns a channel that is closed when the answer of the provider is here and the store does not take it: the work
// goes on then, but nobody need wait for it. nil: the service is draining.
func (r *refresher) start(ctx context.Context, run refreshRun) (<-chan singleflight.Result, <-chan struct{}) {
	if !r.s.enter() {
		return nil, nil
	}
	detached := context.WithoutCancel(ctx) // keeps the trace
	key := run.first.Tenant + "\x00" + run.first.ID + "\x00" + run.want.key
	stall := r.stallOf(key)
	run.stall = stall
	if run.urgent {
		stall.hurryUp()
	}
	done := make(chan singleflight.Result, 1)
	inner := r.flight.DoChan(key, func() (val any, err error) {
		// A panic must not leave the flight stuck, nor end the process while other grants are being stored.
		defer func() {
			if p := recover(); p != nil {
				r.s.cfg.Log.Error("refresh panicked", "panic", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
				val, err = Connection{}, serverError(errors.New("refresh panicked"))
			}
		}()
		defer r.endStall(key, stall)
		return r.run(detached, run)
	})
	go func() {
		defer r.s.leave()
		done <- <-inner
	}()
	return done, stall.c
}

// refreshRun is one refresh from the first look to the stored result.
type refreshRun struct {
	caller Caller
	actor  Actor
	first  Connection // as the caller saw it
	want   want
	why    string       // nobody asked: the reason on record
	sent   *atomic.Bool // see decides; nil: nobody wants to know
	urgent bool         // somebody waits
	stall  *stall
	place  *place // in the lane; nil: nothing may be sent
}

// decides notes that what this run brings, and no other one's, is what comes out: the provider is asked for it, or another holder of the
// shared grant has asked.
func (run *refreshRun) decides() {
	if run.sent != nil {
		run.sent.Store(true)
	}
}

// run is the protocol of faults.md: look, lease, look at the time, one POST, store the new refresh token first, then
// everything else.
func (r *refresher) run(ctx context.Context, run refreshRun) (Connection, error) {
	ctx, end := r.s.telemetry.begin(ctx, "broker.refresh", run.first.Connector)
	started := r.s.cfg.Now()
	conn, err := r.lookAndRefresh(ctx, run)
	took := r.s.cfg.Now().Sub(started)
	r.s.telemetry.refreshed(ctx, run.first.Connector, took, err)
	r.s.pulse.refreshed(run.first.Tenant, run.first.Connector, took, err)
	end(err)
	return conn, err
}

func (r *refresher) lookAndRefresh(ctx context.Context, run refreshRun) (Connection, error) {
	conn, poll, moved := run.first, busyPollMin, 0
	giveUp := r.s.cfg.Now().Add(r.s.cfg.UpstreamTimeout + r.s.cfg.PersistTimeout)
	// What another holder of a shared grant was given needs no request; whether there is such a thing shows with the lease.
	needed := conn.SharedGrant == ""
	defer func() { run.place.leave() }()
	for {
		if needed && run.place == nil {
			var err error
			if run.place, err = r.place(ctx, run, conn); err != nil {
				return Connection{}, err
			}
		}
		lease, token, err := r.beginRefresh(ctx, conn)
		switch {
		case err == nil:
			// Were we stopped since we asked for the lease? Then another one may have it by the time the POST would arrive.
			if lease.Until.Sub(r.s.cfg.Now()) < r.timeout(conn)+leaseMargin/2 {
				r.giveBack(ctx, lease)
				continue
			}
			fresh, err := r.send(ctx, run, conn, lease, token)
			if errors.Is(err, errNoPlace) {
				needed = true
				continue
			}
			if errors.Is(err, errMovedOn) && moved < maxMoved {
				moved++
				continue
			}
			if errors.Is(err, errMovedOn) {
				err = unavailable(time.Second, err)
			}
			return fresh, err
		case errors.Is(err, ErrConflict):
			// Somebody wrote the record: look again, perhaps the work is done.
			now, err := r.s.reread(ctx, conn)
			if errors.Is(err, ErrNotFound) {
				return Connection{Status: ConnectionRevoked}, ErrConflict
			}
			if err != nil {
				return Connection{}, storeError("read the connection", err)
			}
			conn = now
			if conn.Status != ConnectionActive && !r.s.revivable(ctx, conn) {
				return conn, ErrConflict
			}
			if doneSince(run.first, conn, run.want) {
				return conn, nil
			}
		case errors.Is(err, ErrBusy):
			// Another replica is at it. Its result shows as a new generation, which the next try meets as a conflict.
			run.place.leave()
			run.place = nil
			if r.s.cfg.Now().After(giveUp) {
				return Connection{}, unavailable(2*time.Second, err)
			}
			if !r.s.pause(ctx, poll) {
				return Connection{}, unavailable(time.Second, err)
			}
			poll = min(poll*2, busyPollMax)
		case errors.Is(err, ErrNotFound):
			return Connection{Status: ConnectionRevoked}, ErrConflict
		case errors.Is(err, ErrIntegrity):
			return Connection{}, r.s.integrityFailed(ctx, run.caller, conn, "refresh token", err)
		default:
			return Connection{}, storeError("take the lease for a refresh", err)
		}
	}
}

// doneSince tells whether somebody refreshed this token after the first look at it.
func doneSince(first, now Connection, w want) bool {
	token, ok := now.Token(w.key)
	old, had := first.Token(w.key)
	return ok && now.LastRefreshed.After(first.LastRefreshed) && (!had || token.ExpiresAt.After(old.ExpiresAt))
}

// timeout is how long one request for the connection may take. The lease follows it, and with that the wait for a replica
// that died in a refresh.
func (r *refresher) timeout(conn Connection) time.Duration {
	if c, ok := r.s.cfg.Connectors.Connector(conn.Connector); ok && c.Timeout > 0 {
		return min(c.Timeout, r.s.cfg.UpstreamTimeout)
	}
	return r.s.cfg.UpstreamTimeout
}

func (r *refresher) beginRefresh(ctx context.Context, conn Connection) (Lease, Secret, error) {
	ctx, cancel := context.WithTimeout(ctx, r.s.cfg.StoreTimeout)
	defer cancel()
	return r.s.cfg.Refreshes.BeginRefresh(ctx, conn, r.s.cfg.Owner, r.timeout(conn)+2*r.s.cfg.PersistTimeout+leaseMargin)
}

// giveBack ends a lease under which nothing was sent, or nothing that changes the record.
func (r *refresher) giveBack(ctx context.Context, lease Lease) {
	err := r.insist(ctx, lease, func(ctx context.Context) error { return r.s.cfg.Refreshes.EndRefresh(ctx, lease) })
	if err != nil {
		r.s.cfg.Log.WarnContext(ctx, "a refresh lease could not be given back yet", "connection", lease.Connection, "error", err)
	}
}

// insist does a write that ends a lease. If the store can't take it now, callers hear of that at once, and the write is
// repeated behind them while the lease lasts: else a blink of the store would shut the connection until the lease ends.
func (r *refresher) insist(ctx context.Context, lease Lease, write func(context.Context) error) error {
	once := func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.s.cfg.StoreTimeout)
		defer cancel()
		return write(ctx)
	}
	err := once()
	if err == nil || errors.Is(err, ErrConflict) || lostConnection(err) || !r.s.enter() {
		return err
	}
	go func() {
		defer r.s.leave()
		wait := 50 * time.Millisecond
		for r.s.cfg.Now().Before(lease.Until) && r.s.pauseUntilKilled(wait) {
			if err := once(); err == nil || errors.Is(err, ErrConflict) || lostConnection(err) {
				return
			}
			wait = min(wait*2, time.Second)
		}
	}()
	return err
}

// send is the one POST, and what follows from its outcome. A crash before it leaves a lease that runs out; a crash after
// it leaves the grant in doubt until the old refresh token is tried again (faults.md, step 7).
func (r *refresher) send(ctx context.Context, run refreshRun, conn Connection, lease Lease, token Secret) (Connection, error) {
	if conn.Direct {
		run.decides()
		return r.obtain(ctx, run, conn, lease)
	}
	if token.IsZero() {
		return r.fail(ctx, run, conn, lease, dead(conn, ErrorExpired), nil)
	}
	if newer := lease.Shared.Newer; newer != nil && r.serves(*newer, run.want) {
		// Another connection's refresh of the same grant brought this one: nothing is sent.
		lease.Shared.Adopted = true
		run.decides()
		return r.commit(ctx, run, conn, lease, *newer)
	}
	if conn.SharedGrant != "" {
		if err := r.mayTry(conn); err != nil {
			r.giveBack(ctx, lease)
			return Connection{}, err
		}
	}
	if run.place == nil {
		r.giveBack(ctx, lease)
		return Connection{}, errNoPlace
	}
	r.s.holdOn(ctx, conn)
	if err := shut(r.circuits.enter(r.line(conn), r.timeout(conn))); err != nil {
		r.giveBack(ctx, lease)
		return Connection{}, err
	}
	run.decides()
	grant, err := r.post(ctx, conn, lease, token, run.want)
	if err != nil && ClassOf(err) == ClassGrantDead {
		// Nothing is left to lose: each refresh token that a late commit left is worth one try (faults.md, step 8).
		grant, err = r.tryAlternates(ctx, conn, lease, run.want, err)
	}
	if err == nil {
		return r.commit(ctx, run, conn, lease, grant)
	}
	if errors.Is(err, errMovedOn) || ClassOf(err) == ClassGrantDead && r.movedOn(ctx, conn, lease) {
		r.giveBack(ctx, lease)
		return Connection{}, errMovedOn
	}
	switch ClassOf(err) {
	case ClassGrantDead:
		over := dead(conn, ErrorInvalidGrant)
		over.SharedGeneration = max(over.SharedGeneration, lease.Shared.Generation) // those were tried: only newer ones count
		return r.fail(ctx, run, conn, lease, over, err)
	case ClassClientRefused:
		return r.clientRefused(ctx, run, conn, lease, err)
	case ClassRefused:
		r.s.cfg.Log.ErrorContext(ctx, "a provider refuses to refresh a grant for a reason that is neither the grant's end nor our client: look at the connector's scopes and addresses",
			"connector", conn.Connector, "connection", conn.ID, "error", err)
	}
	return r.fail(ctx, run, conn, lease, r.failing(conn, err), err)
}

// post sends the refresh token once. Its deadline ends before the lease does.
func (r *refresher) post(ctx context.Context, conn Connection, lease Lease, token Secret, w want) (Grant, error) {
	timeout := min(r.timeout(conn), lease.Until.Sub(r.s.cfg.Now())-leaseMargin/2)
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	sent := r.s.cfg.Now()
	grant, err := r.ask(limited, conn, token, w)
	grant.ObtainedAt = sent
	to := r.line(conn)
	r.lanes.report(to.lane(), sent, err)
	for _, c := range r.circuits.report(to, err) {
		about := []any{"provider", to.provider, "connector", conn.Connector, "trouble", troubles[c.trouble].name}
		if c.opened {
			r.s.cfg.Log.ErrorContext(ctx, "a provider fails for several grants in a row: refreshes there pause, and one at a time tries again", append(about, "error", err)...)
			r.s.telemetry.circuit(ctx, conn.Connector, c.trouble, "opened")
		} else {
			r.s.cfg.Log.InfoContext(ctx, "the provider is at work again", about...)
			r.s.telemetry.circuit(ctx, conn.Connector, c.trouble, "closed")
		}
	}
	return grant, err
}

// tryAlternates uses the refresh tokens that late commits left. The error is dead, which the current one met, only if
// every one of them is dead too; whatever else went wrong leaves the question open, and nobody is asked to consent again.
// Before each it looks whether the lease is still this one: whoever has the next one tries them too.
func (r *refresher) tryAlternates(ctx context.Context, conn Connection, lease Lease, w want, dead error) (Grant, error) {
	open := func(what string, cause error) error {
		return &UpstreamError{Class: ClassUnsent, What: what, Cause: cause}
	}
	outcome := dead
	var tried []Secret
	for {
		readCtx, cancel := context.WithTimeout(ctx, r.s.cfg.StoreTimeout)
		alternates, err := r.s.cfg.Refreshes.Alternates(readCtx, lease, conn)
		cancel()
		if errors.Is(err, ErrConflict) {
			return Grant{}, errMovedOn
		}
		if err != nil {
			return Grant{}, open("the current refresh token is dead, and its alternates could not be read", err)
		}
		next := slices.IndexFunc(alternates, func(a Secret) bool { return !slices.ContainsFunc(tried, a.Equal) })
		if next < 0 {
			return Grant{}, outcome
		}
		if lease.Until.Sub(r.s.cfg.Now()) < r.timeout(conn) {
			return Grant{}, open("the current refresh token is dead, and there was no time left to try its alternates", nil)
		}
		token := alternates[next]
		tried = append(tried, token)
		grant, err := r.post(ctx, conn, lease, token, w)
		if err == nil {
			r.s.cfg.Log.InfoContext(ctx, "a grant was saved by a refresh token that a late commit had left", "connection", conn.ID)
			if grant.RefreshToken.IsZero() {
				grant.RefreshToken = token // the current one is dead; this one works
			}
			return grant, nil
		}
		if ClassOf(err) != ClassGrantDead {
			outcome = err
		}
	}
}

func unavailable(after time.Duration, cause error) *Error {
	e := Errorf(CodeProviderUnavailable, "the provider does not answer as it should; retry later, the user need not do anything")
	e.RetryAfter = max(after, time.Second)
	return e.Because(cause)
}

func misconfigured(cause error) *Error {
	return Errorf(CodeProviderMisconfigured, "the provider refuses what the broker asks of it: its OAuth client, or the request; tell the operator, the user can do nothing about it").Because(cause)
}
