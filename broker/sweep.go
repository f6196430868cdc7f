package broker

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	sweepBatch    = 100
	sweepParallel = 16
	sweepRounds   = 100
	// revokePatience is how long a provisional grant is kept beyond its time while its provider can't be told.
	revokePatience = time.Hour
	// revocationGrace is how long a begun revocation may take before another replica takes it for abandoned.
	revocationGrace = time.Minute
)

// Run does the background work until ctx ends: what changed of tenants' connectors, consents whose time is up, polls for consents
// on other devices, revocations that a crash interrupted, grants that are refreshed ahead of need, who holds those that end
// together, and jobs of operators. Any number of replicas may run it; each piece is claimed by compare-and-swap.
func (s *Service) Run(ctx context.Context) error {
	// Each by itself: a provider that hangs in one must not hold up the others.
	var group sync.WaitGroup
	group.Go(func() { s.followConnectors(ctx) })
	group.Go(func() { s.followJobs(ctx) })
	group.Go(func() { s.followReplicas(ctx) })
	group.Go(func() { s.followLimits(ctx) })
	group.Go(func() { everyRound(ctx, func(ctx context.Context) { s.recordRefusals(ctx, false) }) })
	group.Go(func() { everyRound(ctx, s.settlePlaces) })
	group.Go(func() {
		s.pulse.follow(ctx, func(err error) {
			s.cfg.Log.WarnContext(ctx, "the counts for the dashboard's charts can't be written; they wait for some minutes", "error", err)
		})
	})
	for _, sweep := range []func(context.Context){s.sweepConsents, s.sweepDevices, s.sweepRevocations, s.sweepRefreshes, s.sweepHolders} {
		group.Go(func() {
			ticker := time.NewTicker(s.cfg.SweepEvery)
			defer ticker.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-ticker.C:
					s.round(ctx, sweep)
				}
			}
		})
	}
	group.Wait()
	return nil
}

// Sweep is one round of all the background work.
func (s *Service) Sweep(ctx context.Context) {
	s.round(ctx, s.sweepConsents)
	s.round(ctx, s.sweepDevices)
	s.round(ctx, s.sweepRevocations)
	s.round(ctx, s.sweepRefreshes)
	s.round(ctx, s.sweepHolders)
}

func (s *Service) round(ctx context.Context, sweep func(context.Context)) {
	if !s.enter() {
		return
	}
	defer s.leave()
	sweep(ctx)
}

func (s *Service) sweepConsents(ctx context.Context) {
	for range sweepRounds {
		readCtx, cancel := context.WithTimeout(ctx, 2*s.cfg.StoreTimeout)
		due, err := s.cfg.Consents.DueConsents(readCtx, s.cfg.Now(), sweepBatch)
		cancel()
		if err != nil {
			s.cfg.Log.WarnContext(ctx, "expired consents could not be read", "error", err)
			return
		}
		var ended atomic.Int32
		s.sweepEach(ctx, len(due), func(ctx context.Context, i int) {
			done, err := s.expire(ctx, due[i])
			if done {
				ended.Add(1)
			}
			if err != nil && !errors.Is(err, ErrConflict) && CodeOf(err) != CodeNotFound {
				s.cfg.Log.WarnContext(ctx, "an expired consent could not be ended yet", "consent", due[i].ID, "error", err)
			}
		})
		// Go on while there is more: a flood of links that nobody used must not keep provisional grants waiting behind it.
		if len(due) < sweepBatch || ended.Load() == 0 || ctx.Err() != nil {
			return
		}
	}
}

// sweepEach does n pieces of work, some at a time: a provider that hangs must not hold up the others'. A piece that was
// begun is finished also if ctx ends meanwhile; Drain waits for it.
func (s *Service) sweepEach(ctx context.Context, n int, work func(ctx context.Context, i int)) {
	var group errgroup.Group
	group.SetLimit(sweepParallel)
	for i := range n {
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error {
			work(context.WithoutCancel(ctx), i)
			return nil
		})
	}
	_ = group.Wait() // no piece returns an error
}

// expire ends a consent whose time is up. A provisional grant is revoked first: a crash in between leaves it claimed for
// a while, and then the next round does it again. It tells whether the consent is ended, or put off.
func (s *Service) expire(ctx context.Context, consent Consent) (bool, error) {
	if s.statusOf(consent) != ConsentExpired || s.cfg.Now().Before(consent.BusyUntil) {
		return false, nil
	}
	s.know(ctx, consent.Tenant, consent.Connector)
	var claim time.Time
	reason := "the link was not used in time"
	switch {
	case consent.Provisional != nil:
		claimed, err := s.claimed(consent)
		if err != nil {
			return false, err
		}
		if claimed, err = s.updateConsent(ctx, claimed); err != nil {
			return false, err
		}
		patient := s.cfg.Now().Before(claimed.Deadline.Add(revokePatience))
		if patient && s.silences.has(s.refresher.lineOf(claimed.Connector).provider, s.cfg.Now()) {
			return true, nil // put off: claimed, and due again after that
		}
		outcome := s.endGrant(ctx, claimed, claimed.Provisional)
		if outcome == RevokedFailed && patient {
			return false, nil // out of everybody's reach already, and claimed: the next round after the claim tries again
		}
		missed := "the code was not brought back in time"
		if claimed.Binding == BindingLogin {
			missed = "the user did not decide on the page in time"
		}
		consent, reason = claimed, missed+"; revoked upstream: "+string(outcome)
		consent.Provisional, claim = nil, claimed.BusyUntil
	case consent.Status == ConsentAwaitingCompletion:
		reason = "the code was not brought back in time; it was never redeemed"
	case consent.Status == ConsentStarted:
		reason = "the user did not come back from the provider in time"
	}
	_, err := s.endUnder(ctx, claim, consent, ConsentExpired, EventConsentFailed, "expired", reason)
	return err == nil, err
}

func (s *Service) sweepRevocations(ctx context.Context) {
	readCtx, cancel := context.WithTimeout(ctx, 2*s.cfg.StoreTimeout)
	due, err := s.cfg.Revocations.DueRevocations(readCtx, s.cfg.Now().Add(-revocationGrace), sweepBatch)
	cancel()
	if err != nil {
		s.cfg.Log.WarnContext(ctx, "unfinished revocations could not be read", "error", err)
		return
	}
	s.sweepEach(ctx, len(due), func(ctx context.Context, i int) {
		conn := due[i]
		caller := Caller{Client: Client{ID: conn.Client, Tenant: conn.Tenant}}
		if outcome, err := s.revoke(ctx, caller, conn, "an interrupted revocation was finished", false); err != nil {
			s.cfg.Log.WarnContext(ctx, "an interrupted revocation could not be finished yet", "connection", conn.ID, "error", err)
		} else {
			s.cfg.Log.InfoContext(ctx, "an interrupted revocation was finished", "connection", conn.ID, "revoked_upstream", string(outcome))
		}
	})
}
