package broker

import (
	"context"
	"strings"
	"sync"
	"time"
)

// Places counts what there may be only so many of at the same time, for all replicas together.
type Places interface {
	// TakePlaces takes a place in each list for so long, by the store's clock (those of replicas differ), or in none, and tells the first
	// list that is full (-1: none is). A place that is not given back ends then by itself. An error means that some may be taken, or be so later; they are to be given back.
	TakePlaces(ctx context.Context, id string, life time.Duration, lists []PlaceList) (full int, err error)
	// LeavePlaces gives them back. One that is not held is no error.
	LeavePlaces(ctx context.Context, id string, lists []PlaceList) error
}

// PlaceList is a list of places. Its name is kept from whoever reads the store.
type PlaceList struct {
	Name []string
	Most int
}

// placeRetry is when somebody who found a list full may come again: consents end at any time.
const placeRetry = 30 * time.Second

// consentPlaces are the lists in which a consent has a place while its link lives, and what limits each.
func (s *Service) consentPlaces(c Consent) (lists []PlaceList, kinds []limitKind) {
	limits := s.limiter.cfg
	add := func(kind limitKind, most int, name ...string) {
		if most > 0 {
			lists, kinds = append(lists, PlaceList{Name: append([]string{string(kind)}, name...), Most: most}), append(kinds, kind)
		}
	}
	// The narrowest first: whose list is full is told so.
	add(limitSubjectConsents, limits.Subject.Consents, c.Tenant, c.Subject)
	add(limitClientConsents, limits.client(c.Client).Consents, c.Client)
	add(limitTenantConsents, limits.tenant(c.Tenant).Consents, c.Tenant)
	if c.From != "" {
		// Of one tenant: the servers of all of them may call from behind one address, and must not take places from each other.
		add(limitAddressConsents, limits.Address.Consents, c.Tenant, c.From)
	}
	return lists, kinds
}

// subjectOf is whom a refusal of that limit is about.
func subjectOf(limit limitKind, c Consent) string {
	if limit == limitSubjectConsents {
		return c.Subject
	}
	return ""
}

// limitWords say to callers what is limited.
var limitWords = map[limitKind]string{
	limitSubjectConsents: "links of this subject are pending", limitClientConsents: "links of this client are pending",
	limitTenantConsents: "links of this client's tenant are pending", limitAddressConsents: "links made from this address are pending",
}

// admitConsent is the error for a consent too many: made, or pending at the same time. One that finds no place is not made.
func (s *Service) admitConsent(ctx context.Context, caller Caller, c Consent) error {
	if err := s.admitLink(caller); err != nil {
		return err
	}
	err := s.takePlaces(ctx, caller, c)
	if err != nil {
		s.limiter.kinds[limitLinks].giveBack(linksKey(caller))
	}
	return err
}

// takePlaces is the error for a consent that has no place among those that are pending. A crash behind it leaves places that end with
// the link.
func (s *Service) takePlaces(ctx context.Context, caller Caller, c Consent) error {
	lists, kinds := s.consentPlaces(c)
	if s.cfg.Places == nil || len(lists) == 0 {
		return nil
	}
	if full := s.full.first(lists, s.cfg.Now()); full >= 0 {
		return s.tooMany(caller, kinds[full], subjectOf(kinds[full], c), placeRetry, limitWords[kinds[full]])
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
	defer cancel()
	full, err := s.cfg.Places.TakePlaces(ctx, c.ID, c.Deadline.Sub(s.cfg.Now()), lists)
	switch {
	case err != nil:
		s.doubtPlaces(c, false)
		return storeError("count the pending consents", err)
	case full >= 0:
		s.full.note(lists[full], s.cfg.Now())
		return s.tooMany(caller, kinds[full], subjectOf(kinds[full], c), placeRetry, limitWords[kinds[full]])
	}
	return nil
}

// leavePlaces gives the places of a consent back that has ended, or was not made. What the store does not take now it is told again.
// Whether they have ended by themselves is not asked: that goes by the store's clock, and the consent's times by that of the replica which
// made it.
func (s *Service) leavePlaces(ctx context.Context, c Consent) {
	if lists, _ := s.consentPlaces(c); s.cfg.Places != nil && len(lists) > 0 {
		s.full.forget(lists)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.AuditTimeout)
		defer cancel()
		if err := s.cfg.Places.LeavePlaces(ctx, c.ID, lists); err != nil {
			s.cfg.Log.DebugContext(ctx, "a consent that has ended counts as pending for a while", "consent", c.ID, "error", err)
			s.doubtPlaces(c, false)
		}
	}
}

// isOver tells that nothing becomes of a consent any more.
func (s ConsentStatus) isOver() bool {
	switch s {
	case ConsentPending, ConsentStarted, ConsentAwaitingCompletion:
		return false
	}
	return true
}

// fullLists are those that were found full a moment ago, so that a flood that goes on asks the store once a second and not each time.
// A place that another replica's consent gives back shows here as much later.
type fullLists struct {
	mu    sync.Mutex
	until map[string]time.Time
}

const (
	fullFor      = time.Second
	fullRemember = 10_000
)

func (l PlaceList) key() string { return strings.Join(l.Name, "\x00") }

// first is the first of the lists that is known to be full, -1: none is.
func (f *fullLists) first(lists []PlaceList, now time.Time) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, list := range lists {
		if until, known := f.until[list.key()]; known && now.Before(until) && until.Sub(now) <= fullFor {
			return i
		}
	}
	return -1
}

func (f *fullLists) note(list PlaceList, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.until == nil || len(f.until) >= fullRemember {
		f.until = map[string]time.Time{}
	}
	f.until[list.key()] = now.Add(fullFor)
}

func (f *fullLists) forget(lists []PlaceList) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, list := range lists {
		delete(f.until, list.key())
	}
}
