package broker

import (
	"context"
	"errors"
	"sync"
	"time"
)

// This file gives places back whose fate an error of the store left open: some of the lists may have one for a consent that was never
// made, and who tries again would find them full of what is not there. They are kept in this process alone; what a crash or the bound
// loses ends with the link.

const (
	doubtsKept  = 4096 // of some 500 bytes
	doubtsRound = 64   // are settled in a round at most
)

// placeDoubt is a consent that may have places that it should not have.
type placeDoubt struct {
	consent Consent // the fields that name its lists
	look    bool    // it may have been made: then it keeps them
	due     time.Time
	over    time.Time // when its places have ended by themselves, by this replica's clock; the consent's times may be by another's
}

type placeDoubts struct {
	mu  sync.Mutex
	all []placeDoubt
}

func (d *placeDoubts) add(doubts ...placeDoubt) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all = append(d.all, doubts[:min(len(doubts), max(0, doubtsKept-len(d.all)))]...)
}

// take takes some that are due, and forgets those whose places are over.
func (d *placeDoubts) take(now time.Time) (taken []placeDoubt) {
	d.mu.Lock()
	defer d.mu.Unlock()
	kept := d.all[:0]
	for _, one := range d.all {
		switch {
		case !now.Before(one.over):
		case len(taken) < doubtsRound && !now.Before(one.due):
			taken = append(taken, one)
		default:
			kept = append(kept, one)
		}
	}
	clear(d.all[len(kept):])
	d.all = kept
	return taken
}

// doubtPlaces has the places of a consent settled in the background, when what is on its way to the store has had its time.
func (s *Service) doubtPlaces(c Consent, look bool) {
	if lists, _ := s.consentPlaces(c); s.cfg.Places == nil || len(lists) == 0 {
		return
	}
	now := s.cfg.Now()
	s.doubts.add(placeDoubt{
		consent: Consent{ID: c.ID, Tenant: c.Tenant, Client: c.Client, Subject: c.Subject, From: c.From},
		look:    look, due: now.Add(s.cfg.StoreTimeout), over: now.Add(LinkLife),
	})
}

// settlePlaces gives back what is due. While the store does not answer it tries one a round.
func (s *Service) settlePlaces(ctx context.Context) {
	due := s.doubts.take(s.cfg.Now())
	if len(due) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
	defer cancel()
	for i, one := range due {
		err := s.settlePlace(ctx, one)
		if err == nil {
			continue
		}
		s.cfg.Log.DebugContext(ctx, "places of consents that may not have been made are not given back yet", "error", err)
		if errors.Is(err, ErrIntegrity) || errors.Is(err, ErrNewerFormat) || errors.Is(err, ErrKeyNotYet) {
			s.doubts.add(one) // that one can't be read; the others may be
			continue
		}
		s.doubts.add(due[i:]...)
		return
	}
}

func (s *Service) settlePlace(ctx context.Context, one placeDoubt) error {
	if one.look {
		made, err := s.cfg.Consents.Consent(ctx, one.consent.ID)
		switch {
		case err == nil && !made.Status.isOver():
			return nil
		case err != nil && !errors.Is(err, ErrNotFound):
			return err
		}
	}
	lists, _ := s.consentPlaces(one.consent)
	if err := s.cfg.Places.LeavePlaces(ctx, one.consent.ID, lists); err != nil {
		return err
	}
	s.full.forget(lists)
	return nil
}
