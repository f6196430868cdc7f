package broker

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// This file writes consents. An error of the store is no refusal: the write may have been carried out all the same, or be so
// when a store that hung goes on. What the user gave hangs on these writes, so each is repeated as it was until it is known
// what became of it; only a conflict, or a record that is gone, says that it was not carried out and never will be.

// Between the repetitions of a write: short, because a provider's code lives for as little as 30 seconds.
const repeatMin, repeatMax = 50 * time.Millisecond, 500 * time.Millisecond

// updateConsent is one compare-and-swap. ErrConflict passes through as it is; not_found: it is gone.
func (s *Service) updateConsent(ctx context.Context, consent Consent, entries ...Entry) (Consent, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.StoreTimeout)
	defer cancel()
	stored, err := s.cfg.Consents.UpdateConsent(ctx, consent, entries)
	switch {
	case err == nil:
		s.followers.wake(stored.ID)
		if stored.Status.isOver() {
			s.leavePlaces(ctx, stored)
		}
		if len(entries) > 0 { // else a code is spent or a claim is taken
			s.telemetry.consent(ctx, stored.Connector, stored.Status)
		}
		if reached(stored.Status, entries) {
			s.pulse.consent(stored.Tenant, stored.Connector, stored.Status)
		}
		return stored, nil
	case errors.Is(err, ErrConflict):
		return Consent{}, ErrConflict
	case errors.Is(err, ErrNotFound):
		return Consent{}, errNoConsent()
	}
	return Consent{}, storeError("store the consent", err)
}

// consentWrite is a write that is repeated until its outcome is known.
type consentWrite struct {
	consent Consent
	entries []Entry
	// claim that the writer holds (BusyUntil): a wrong code that is counted meanwhile moves the version, but not the claim, and
	// must not cost the right caller its grant. Zero: it holds none.
	claim time.Time
	// made tells by the stored consent that the write was carried out, though something else was written behind it.
	made func(now Consent) bool
	// until is how long it is repeated; zero: not at all.
	until time.Time
}

// insistOn carries out the write. ErrConflict, with the consent that is there: it was not carried out, and the claim is
// another's. not_found: the consent is gone. After any other error the outcome is unknown.
func (s *Service) insistOn(ctx context.Context, w consentWrite) (Consent, error) {
	return repeated(ctx, s, w.until, func(doubt bool) (Consent, error) {
		for range releaseAttempts {
			stored, err := s.updateConsent(ctx, w.consent, w.entries...)
			if !errors.Is(err, ErrConflict) {
				return stored, err
			}
			now, err := s.loadConsent(context.WithoutCancel(ctx), w.consent.ID)
			switch {
			case err != nil:
				return Consent{}, err
			case doubt && w.made != nil && w.made(now):
				return now, nil
			case w.claim.IsZero() || !now.BusyUntil.Equal(w.claim):
				return now, ErrConflict
			}
			w.consent.Version, w.consent.Attempts = now.Version, now.Attempts
		}
		return Consent{}, storeError("store the consent", errors.New("it keeps changing"))
	})
}

// repeated repeats a write until its outcome is known or the time is up. doubt: an attempt before this one may have been
// carried out.
func repeated[T any](ctx context.Context, s *Service, until time.Time, write func(doubt bool) (T, error)) (T, error) {
	began, doubt := s.cfg.Now(), false
	for wait := repeatMin; ; wait = min(2*wait, repeatMax) {
		got, err := write(doubt)
		if err == nil || decided(err) {
			return got, err
		}
		doubt = true
		now := s.cfg.Now()
		if now.Sub(began) >= stallAfter {
			stalled(ctx)
		}
		if !now.Add(wait).Before(until) || !s.pauseUntilKilled(wait) {
			return got, err
		}
	}
}

// browserPatience is how long a browser waits for a store that hangs: it can't repeat what it does.
const browserPatience = 20 * time.Second

// untilEnd is how long a write is repeated for a browser that waits.
func (s *Service) untilEnd(ctx context.Context) time.Time {
	wait := browserPatience
	if end, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(end))
	}
	return s.cfg.Now().Add(wait)
}

// decided tells that a write was refused for good, so that repeating it changes nothing.
func decided(err error) bool {
	for _, final := range []error{ErrConflict, ErrNotFound, ErrTenantErased, ErrIntegrity, ErrNewerFormat} {
		if errors.Is(err, final) {
			return true
		}
	}
	return CodeOf(err) == CodeNotFound
}

// updateUnder writes the consent once, whatever its own BusyUntil is to become, as long as the stored one has that claim.
func (s *Service) updateUnder(ctx context.Context, claim time.Time, consent Consent, entries ...Entry) (Consent, error) {
	return s.insistOn(ctx, consentWrite{consent: consent, entries: entries, claim: claim})
}

// stillClaimed takes over what others may change under a claim: the version and the count of wrong codes. ErrConflict:
// the claim is gone.
func (s *Service) stillClaimed(ctx context.Context, claim time.Time, consent Consent) (Consent, error) {
	now, err := s.loadConsent(context.WithoutCancel(ctx), consent.ID)
	if err != nil {
		return Consent{}, err
	}
	if claim.IsZero() || !now.BusyUntil.Equal(claim) {
		return Consent{}, ErrConflict
	}
	consent.Version, consent.Attempts = now.Version, now.Attempts
	return consent, nil
}

// flowBusy is how long one step of a consent may keep others out: an upstream call and its storing.
func (s *Service) flowBusy() time.Duration { return 2*s.cfg.UpstreamTimeout + leaseMargin }

// claimed is the consent with a claim that starts now, to the millisecond, as records keep times.
func (s *Service) claimed(consent Consent) (Consent, error) {
	name, err := s.ids().secret(idBytes)
	if err != nil {
		return Consent{}, serverError(err)
	}
	consent.Claim = name.Reveal()
	consent.BusyUntil = s.cfg.Now().UTC().Add(s.flowBusy()).Truncate(time.Millisecond)
	return consent, nil
}

// takeClaim writes a claim behind which a provider's code is sent. It is insisted on as long as enough of the claim is left
// for that. If it is not known even then, the claim is given back with everything that it took: nothing was sent.
func (s *Service) takeClaim(ctx context.Context, free, claimed Consent) (Consent, error) {
	stored, err := s.insistOn(ctx, consentWrite{
		consent: claimed, until: claimed.BusyUntil.Add(-s.cfg.UpstreamTimeout - s.cfg.PersistTimeout),
		made: func(now Consent) bool { return now.Claim == claimed.Claim && now.BusyUntil.Equal(claimed.BusyUntil) },
	})
	if err != nil && !decided(err) {
		free.BusyUntil, free.Claim, free.Version = claimed.BusyUntil, claimed.Claim, claimed.Version+1
		s.unclaim(ctx, free)
	}
	return stored, err
}

// unclaim lets another call try, with all that was gained so far. If the store can't take it now, it is repeated behind the
// caller while the claim lasts.
func (s *Service) unclaim(ctx context.Context, consent Consent) {
	claim := consent.BusyUntil
	consent.BusyUntil = time.Time{}
	write := consentWrite{consent: consent, claim: claim, made: func(now Consent) bool { return !now.BusyUntil.Equal(claim) }}
	_, err := s.insistOn(ctx, write)
	if err == nil || decided(err) {
		return
	}
	s.cfg.Log.WarnContext(ctx, "a claim on a consent could not be given back yet, and runs out if that fails again", "consent", consent.ID, "error", err)
	if !s.enter() {
		return
	}
	write.until = claim
	go func() {
		defer s.leave()
		_, _ = s.insistOn(ctx, write)
	}()
}

// waiter is the caller of work that goes on without it.
type waiter struct {
	stall
	// settled is set once: by the work, to say that the caller will hear of its result, or by the caller, which has left.
	settled atomic.Bool
}

type waiterKey struct{}

func newWaiter() *waiter { return &waiter{stall: stall{c: make(chan struct{})}} }

// stalled tells the caller that the store does not take what it waits for. The work goes on.
func stalled(ctx context.Context) {
	if w, ok := ctx.Value(waiterKey{}).(*waiter); ok {
		w.close()
	}
}

// settle tells whether it came first.
func (w *waiter) settle() bool { return w.settled.CompareAndSwap(false, true) }
