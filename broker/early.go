package broker

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Early refresh: a grant in use gets its next access token before anybody has to wait for it, and a grant that nobody
// uses is kept from dying of that at the provider. What is due when stands in the schedule, one entry for each grant, and
// any replica that is free takes a part of what is due; nothing ever walks through all records.

const (
	// A token that lives shorter is refreshed by whoever asks: looking after it would be a steady stream of requests.
	earlyLifetime = 20 * time.Second
	// A grant whose refresh token lives shorter is not kept from ending unused: that would be such a stream, for nobody.
	earlyIdle = 5 * time.Minute
	// A grant counts as in use for two lives of its token after the last one was issued, an hour at least.
	earlyUse = time.Hour
	// idleMargin is the part of an idle limit, at its end, in which the grant is refreshed: early enough for a provider
	// that is down for days, late enough to be rare.
	idleMargin = 0.3
	// What can't be done now is looked at again after that, and some more so that not all come back together.
	earlyAgain, earlyMisconfigured = 10 * time.Second, 5 * time.Minute
	// A round takes so many batches of what is due; in each, whoever finds no place with the provider waits while others leave theirs.
	earlyBatch    = 500
	earlyRounds   = 20
	earlyPatience = 3 * time.Second
	// earlyTurn is how long one provider's queue may hold up a round: what is due elsewhere meanwhile is found by the next one.
	earlyTurn = 5 * time.Second
)

// early knows the refreshes under way that nobody waits for: a provider that hangs must not take the places of the others,
// nor get all the requests at once when it comes back.
type early struct {
	mu      sync.Mutex
	places  map[string]*places // by provider
	running map[string]bool    // by grant
}

// places are those at one provider.
type places struct {
	taken int
	freed chan struct{} // closed when one is given back
	stuck bool          // somebody waited in vain since one was given back last: nobody waits
}

func newEarly() early { return early{places: map[string]*places{}, running: map[string]bool{}} }

// has tells whether the grant's refresh is under way.
func (e *early) has(grant string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.running[grant]
}

// enter takes a place with the provider, of so many, and waits for one as long as they are given back: the work of a provider that
// answers goes on place by place, however much there is, and one that hangs holds up nobody for long.
func (e *early) enter(ctx context.Context, provider, grant string, most int) bool {
	timer := time.NewTimer(earlyPatience)
	defer timer.Stop()
	for {
		entered, freed := e.take(provider, grant, most)
		if freed == nil {
			return entered
		}
		select {
		case <-freed:
			timer.Reset(earlyPatience)
		case <-timer.C:
			e.mu.Lock()
			if p := e.places[provider]; p != nil && p.freed == freed {
				p.stuck = true
			}
			e.mu.Unlock()
		case <-ctx.Done():
			return false
		}
	}
}

// take takes a place if there is one; freed: all are taken, and that tells when to ask again.
func (e *early) take(provider, grant string, most int) (entered bool, freed chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.places[provider]
	if p == nil {
		p = &places{freed: make(chan struct{})}
		e.places[provider] = p
	}
	switch {
	case e.running[grant]:
		return false, nil
	case p.taken >= most && p.stuck:
		return false, nil
	case p.taken >= most:
		return false, p.freed
	}
	p.taken++
	e.running[grant] = true
	return true, nil
}

func (e *early) leave(provider, grant string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.running, grant)
	p := e.places[provider]
	if p.taken--; p.taken == 0 {
		delete(e.places, provider)
	}
	close(p.freed)
	p.freed, p.stuck = make(chan struct{}), false
}

// softBand is how long before its end a token is refreshed behind the back of those who ask for it: a fifth of its life,
// five minutes at most.
func softBand(lifetime time.Duration) time.Duration { return min(lifetime/5, 5*time.Minute) }

// usedUntil is when the grant stops counting as in use.
func usedUntil(conn Connection) time.Time {
	if conn.LastIssued.IsZero() {
		return time.Time{}
	}
	return conn.LastIssued.Add(max(2*conn.Lifetime, earlyUse))
}

// tokenDue is when the token with all scopes should be refreshed if the grant is in use: one to two soft bands before its
// end, so that nobody ever finds it in the band. Zero: it is not refreshed early.
func (s *Service) tokenDue(conn Connection) time.Time {
	token, ok := conn.Token("")
	if !ok || token.Never || conn.Lifetime < earlyLifetime || s.connector(conn.Connector).RefreshEndsAccess {
		return time.Time{}
	}
	band := softBand(conn.Lifetime)
	return token.ExpiresAt.Add(-2*band + s.jitter(band))
}

// idleDue is when the grant should be refreshed although nobody uses it, and zero where the provider has no such limit.
func (s *Service) idleDue(conn Connection) time.Time {
	since, end := idleSpan(conn, s.connector(conn.Connector).RefreshIdle)
	if end.IsZero() {
		return time.Time{}
	}
	margin := time.Duration(float64(end.Sub(since)) * idleMargin)
	return end.Add(-margin + s.jitter(margin/2))
}

// idleSpan is from the grant's last refresh, or its consent, to when it ends without another one.
func idleSpan(conn Connection, idle time.Duration) (since, end time.Time) {
	since = conn.LastRefreshed
	if token, ok := conn.Token(""); ok && !token.Never {
		if issued := token.ExpiresAt.Add(-conn.Lifetime); issued.After(since) {
			since = issued // the consent's own token: renewed connections have an older CreatedAt
		}
	}
	if since.IsZero() {
		since = conn.CreatedAt
	}
	if idle > 0 {
		end = since.Add(idle)
	}
	if expiry := conn.RefreshExpiry; !expiry.IsZero() && (end.IsZero() || expiry.Before(end)) {
		end = expiry
	}
	if end.Sub(since) < earlyIdle {
		return since, time.Time{} // there is no span to speak of
	}
	return since, end
}

func (s *Service) connector(id string) Connector {
	c, _ := s.cfg.Connectors.Connector(id)
	return c
}

// scheduled returns the connection with the time at which the background looks after it next.
func (s *Service) scheduled(conn Connection) Connection {
	conn.RefreshAt = time.Time{}
	if !conn.renews() || conn.Status != ConnectionActive {
		return conn
	}
	conn.RefreshAt = earliest(s.tokenDue(conn), s.idleDue(conn))
	if again := conn.RetryAt; !conn.RefreshAt.IsZero() && conn.Failures > 0 {
		// Whoever asks for its token tries again at RetryAt. For nobody's sake it is tried more and more rarely.
		wait := min(earlyAgain<<min(conn.Failures, 10), time.Hour)
		if again = again.Add(wait + s.jitter(wait/5)); conn.RefreshAt.Before(again) {
			conn.RefreshAt = again
		}
	}
	return conn
}

func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// sweepRefreshes is one round of early refreshes.
func (s *Service) sweepRefreshes(ctx context.Context) {
	if s.cfg.EarlyRefreshes < 0 {
		return
	}
	for range earlyRounds {
		readCtx, cancel := context.WithTimeout(ctx, 2*s.cfg.StoreTimeout)
		due, err := s.cfg.Schedule.DueRefreshes(readCtx, s.cfg.Now(), 2*s.cfg.SweepEvery, earlyBatch)
		cancel()
		if err != nil {
			s.cfg.Log.WarnContext(ctx, "grants that are due for a refresh could not be read", "error", err)
			return
		}
		s.lookAfterAll(ctx, due)
		if len(due) < earlyBatch || ctx.Err() != nil {
			return
		}
	}
}

// lookAfterAll goes through what is due at each provider by itself: none holds up another.
func (s *Service) lookAfterAll(ctx context.Context, due []Connection) {
	byProvider := map[string][]Connection{}
	for _, conn := range due {
		provider := s.refresher.lineOf(conn.Connector).provider
		byProvider[provider] = append(byProvider[provider], conn)
	}
	turn, cancel := context.WithTimeout(ctx, earlyTurn)
	defer cancel()
	var group sync.WaitGroup
	for provider, conns := range byProvider {
		place := func(conn Connection) bool {
			return s.early.enter(turn, provider, grantOf(conn), s.cfg.EarlyRefreshes)
		}
		group.Go(func() {
			s.sweepEach(ctx, len(conns), func(ctx context.Context, i int) {
				s.lookAfter(ctx, conns[i], provider, place)
			})
		})
	}
	group.Wait()
}

// lookAfter begins the refresh of a grant that is due, or says when to look again. It waits for a place, and not for the provider.
func (s *Service) lookAfter(ctx context.Context, conn Connection, provider string, place func(Connection) bool) {
	now := s.cfg.Now()
	connector, configured := s.connectorsOf(ctx, conn.Tenant).Connector(conn.Connector)
	_, known := s.cfg.Client(conn.Client)
	why, next := s.whyEarly(conn, connector)
	switch {
	case s.early.has(grantOf(conn)): // it stays due until its outcome is stored
	case !configured || !known || !mayStand(connector, conn):
		// The operator took it away and may bring it back. Until then nobody asks for it, and nothing is sent.
		s.reschedule(ctx, conn, now.Add(time.Hour))
	case why == "":
		s.reschedule(ctx, conn, next)
	case conn.retryIn(now) > 0:
		s.reschedule(ctx, conn, conn.RetryAt.Add(s.jitter(earlyAgain)))
	case s.refresher.mayTry(conn) != nil || !place(conn):
		s.reschedule(ctx, conn, now.Add(earlyAgain+s.jitter(earlyAgain)))
	default:
		done := s.refresher.early(conn, why)
		if done == nil || !s.enter() {
			s.early.leave(provider, grantOf(conn))
			return // draining: another replica takes it
		}
		go func() {
			defer s.leave()
			defer s.early.leave(provider, grantOf(conn))
			if res := <-done; res.Err != nil {
				s.tryAgain(ctx, conn, res.Err)
			}
		}()
	}
}

// whyEarly tells why the grant should be refreshed now; else when to look at it again.
func (s *Service) whyEarly(conn Connection, connector Connector) (why string, next time.Time) {
	if !conn.renews() || conn.Status != ConnectionActive {
		return "", time.Time{}
	}
	now := s.cfg.Now()
	if since, end := idleSpan(conn, connector.RefreshIdle); !end.IsZero() {
		if margin := time.Duration(float64(end.Sub(since)) * idleMargin); !now.Before(end.Add(-margin)) {
			return "kept from ending unused", time.Time{}
		}
	}
	token, ok := conn.Token("")
	due := ok && !token.Never && !connector.RefreshEndsAccess && conn.Lifetime >= earlyLifetime && !now.Before(token.ExpiresAt.Add(-2*softBand(conn.Lifetime)))
	switch {
	case due && now.Before(usedUntil(conn)):
		return "in use, and its token ends soon", time.Time{}
	case due:
		return "", s.idleDue(conn) // nobody uses it; whoever does again refreshes it, and puts it back
	}
	return "", earliest(s.tokenDue(conn), s.idleDue(conn))
}

// tryAgain puts a grant back whose early refresh gave nothing. Where the outcome was stored, that is done already.
func (s *Service) tryAgain(ctx context.Context, conn Connection, cause error) {
	if errors.Is(cause, ErrConflict) {
		return
	}
	after := earlyAgain
	if CodeOf(cause) == CodeProviderMisconfigured {
		_, refused := s.refresher.circuits.refused(s.refresher.line(conn))
		after = min(earlyMisconfigured<<max(0, min(refused, 10)-1), time.Hour)
	}
	s.reschedule(ctx, conn, s.cfg.Now().Add(after+s.jitter(after)))
}

func (s *Service) reschedule(ctx context.Context, conn Connection, at time.Time) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
	defer cancel()
	if err := s.cfg.Schedule.Reschedule(ctx, conn, at); err != nil && !errors.Is(err, ErrConflict) && !errors.Is(err, ErrNotFound) {
		s.cfg.Log.WarnContext(ctx, "a grant could not be scheduled for its next refresh and stays due", "connection", conn.ID, "error", err)
	}
}
