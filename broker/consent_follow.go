package broker

import (
	"context"
	"sync"
	"time"
)

// This file tells those who wait how a consent goes on. Its record may be written by any replica, and there is nothing in the
// store that would say so by itself on every topology and with the permissions that we ask for: each follower reads the record
// at a short interval, and what this very process writes wakes those who follow it at once.

const (
	// newsEvery is how old the news of another replica may get, give or take a quarter: a chat goes on within a second.
	newsEvery = 400 * time.Millisecond
	// newsReads is how often in a second all followers of this process may read in all: beyond, each reads less often.
	newsReads = 2000
	// maxFollowers bounds those of this process: at that number each reads every half second. Half of them may be one client's,
	// so that it leaves room for others, and few one consent's. Half of a client's and of a consent's may follow by links: whoever
	// has many of them, or somebody else's, can't take what the client's own backend needs.
	maxFollowers          = 1000
	maxFollowersOfClient  = maxFollowers / 2
	maxFollowersByLink    = maxFollowersOfClient / 2
	maxFollowersOfConsent = 8
	// followLater is when one who found no room may come again.
	followLater = 5 * time.Second
)

// followers are all who follow a consent in this process. Each belongs to the call that made it, and ends with it.
type followers struct {
	mu       sync.Mutex
	n        int
	byClient map[clientKey]int
	byLink   map[clientKey]int // those of byClient that have a link alone
	byID     map[string]map[*follower]struct{}
	over     chan struct{} // closed when nobody shall follow any more
	end      func()
	count    func(more int64)
}

type clientKey struct{ tenant, client string }

// follower is one who waits for news of one consent.
type follower struct {
	all    *followers
	id     string
	client clientKey
	byLink bool
	woken  chan struct{} // holds a value when there may be news
}

func newFollowers(count func(more int64)) *followers {
	f := &followers{count: count, byClient: map[clientKey]int{}, byLink: map[clientKey]int{}, byID: map[string]map[*follower]struct{}{}, over: make(chan struct{})}
	f.end = sync.OnceFunc(func() { close(f.over) })
	return f
}

// follow makes a follower, who must leave. slow_down: there is no room.
func (f *followers) follow(c Consent, byLink bool) (*follower, error) {
	one := &follower{all: f, id: c.ID, client: clientKey{c.Tenant, c.Client}, byLink: byLink, woken: make(chan struct{}, 1)}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.n >= maxFollowers || f.byClient[one.client] >= maxFollowersOfClient || len(f.byID[c.ID]) >= maxFollowersOfConsent ||
		byLink && (f.byLink[one.client] >= maxFollowersByLink || f.linksOf(c.ID) >= maxFollowersOfConsent/2) {
		return nil, &Error{Code: CodeSlowDown, Description: "too many wait for the status of a consent here; read it without wait, a second apart, or come again later", RetryAfter: followLater}
	}
	if f.byID[c.ID] == nil {
		f.byID[c.ID] = map[*follower]struct{}{}
	}
	f.byID[c.ID][one] = struct{}{}
	f.byClient[one.client]++
	if byLink {
		f.byLink[one.client]++
	}
	f.n++
	f.count(1)
	return one, nil
}

// linksOf counts those of one consent that have its link alone.
func (f *followers) linksOf(id string) (n int) {
	for one := range f.byID[id] {
		if one.byLink {
			n++
		}
	}
	return n
}

// leave ends it.
func (o *follower) leave() {
	f := o.all
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.byID[o.id], o)
	if len(f.byID[o.id]) == 0 {
		delete(f.byID, o.id)
	}
	if f.byClient[o.client]--; f.byClient[o.client] == 0 {
		delete(f.byClient, o.client)
	}
	if o.byLink {
		if f.byLink[o.client]--; f.byLink[o.client] == 0 {
			delete(f.byLink, o.client)
		}
	}
	f.n--
	f.count(-1)
}

// wake tells those who follow the consent to look.
func (f *followers) wake(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for one := range f.byID[id] {
		select {
		case one.woken <- struct{}{}:
		default: // it is told already
		}
	}
}

// interval is the time between two looks of one follower.
func (f *followers) interval() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return max(newsEvery, time.Duration(f.n)*time.Second/newsReads)
}

// pause waits until it is time to look again. False: there is nothing to wait for any more, as the caller has gone, the
// time is up, or this process is ending.
func (s *Service) pauseFollower(ctx context.Context, o *follower, until time.Time) bool {
	left := until.Sub(s.cfg.Now())
	if left <= 0 {
		return false
	}
	every := s.followers.interval()
	timer := time.NewTimer(min(left, every*3/4+s.jitter(every/2)))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-o.woken:
	case <-ctx.Done():
		return false
	case <-s.followers.over:
		return false
	}
	return ctx.Err() == nil
}

// EndFollowing lets go of all who follow a consent, now and later: each is answered with what is known. For a process that
// is about to end, whose callers find another replica.
func (s *Service) EndFollowing() { s.followers.end() }

// Following is how a consent is followed.
type Following struct {
	// Known is the status that the caller has been told before; empty: none.
	Known ConsentStatus
	// Tell is called with the consent when its status is another than that, and again with every other. An error ends it.
	Tell func(ConsentView) error
	// Still is called where there is nothing to tell: at the beginning, and when nothing was told for Every. An error ends it.
	Still func() error
	Every time.Duration
}

// FollowConsent tells how a consent of the caller's goes on, until it has come to its end, is gone, or the caller or this
// process is. What changes faster than it looks is told as what it came to. Errors are *Error, and those of Tell and Still;
// once something was told, the store may fail for a while.
func (s *Service) FollowConsent(ctx context.Context, caller Caller, id string, f Following) error {
	consent, err := s.consentOf(ctx, caller, id)
	if err != nil {
		return err
	}
	if s.heard(consent) == f.Known && f.Known.final() {
		return nil
	}
	one, err := s.followers.follow(consent, false)
	if err != nil {
		return err
	}
	defer one.leave()
	known, said := f.Known, time.Time{}
	for {
		status := s.heard(consent)
		now := s.cfg.Now()
		switch {
		case err == nil && status != known:
			view, viewErr := s.viewOf(ctx, consent)
			if viewErr != nil && said.IsZero() {
				return viewErr // nothing at all would look as if the end had been heard
			}
			if viewErr != nil {
				break // told at the next look
			}
			view.Status = status
			if err := f.Tell(view); err != nil {
				return err
			}
			if known, said = status, now; status.final() {
				return nil
			}
		case said.IsZero() || now.Sub(said) >= f.Every:
			if err := f.Still(); err != nil {
				return err
			}
			said = now
		}
		if !s.pauseFollower(ctx, one, now.Add(f.Every)) {
			return nil
		}
		var next Consent
		if next, err = s.consentOf(ctx, caller, id); err == nil {
			consent = next
		} else if CodeOf(err) == CodeNotFound {
			return nil
		}
	}
}

// AwaitConsent is ConsentStatus that waits while the status is known, for news or until the time is up. Empty: the one that
// it has now. One that can't change any more is not waited for.
func (s *Service) AwaitConsent(ctx context.Context, caller Caller, id string, known ConsentStatus, wait time.Duration) (ConsentView, error) {
	read := func(ctx context.Context) (Consent, error) { return s.consentOf(ctx, caller, id) }
	consent, err := s.await(ctx, false, known, wait, read)
	if err != nil {
		return ConsentView{}, err
	}
	view, err := s.viewOf(ctx, consent)
	view.Status = s.heard(consent)
	return view, err
}

// LinkStatus is what everybody who has a link may know of its consent.
type LinkStatus struct {
	ConsentID string
	Status    ConsentStatus
	Origins   []string // the client's, whose pages may read it
}

// LinkStatus tells how the consent behind a link goes on, to whoever has the link, also when it was used: until the record
// is gone. It changes nothing. It waits as AwaitConsent does; with slow_down the origins come beside the error, so that the
// page that asks can be told.
func (s *Service) LinkStatus(ctx context.Context, link Secret, known ConsentStatus, wait time.Duration) (LinkStatus, error) {
	var out LinkStatus
	read := func(ctx context.Context) (Consent, error) {
		id, ok := consentIDOf(link)
		if !ok {
			return Consent{}, errNoConsent()
		}
		consent, err := s.loadConsent(ctx, id)
		if err != nil {
			return Consent{}, err
		}
		client, there := s.cfg.Client(consent.Client)
		if !link.Equal(consent.Link) || !there {
			return Consent{}, errNoConsent()
		}
		out = LinkStatus{ConsentID: consent.ID, Status: s.heard(consent), Origins: client.Origins}
		return consent, nil
	}
	_, err := s.await(ctx, true, known, wait, read)
	return out, err
}

// await reads a consent until its status is not the known one, it has come to its end, or the time is up.
func (s *Service) await(ctx context.Context, byLink bool, known ConsentStatus, wait time.Duration, read func(context.Context) (Consent, error)) (Consent, error) {
	consent, err := read(ctx)
	if err != nil || wait <= 0 {
		return consent, err
	}
	if known == "" {
		known = s.heard(consent)
	}
	news := func() bool { status := s.heard(consent); return status != known || status.final() }
	if news() {
		return consent, nil
	}
	one, err := s.followers.follow(consent, byLink)
	if err != nil {
		return Consent{}, err
	}
	defer one.leave()
	for until := s.cfg.Now().Add(wait); s.pauseFollower(ctx, one, until); {
		var next Consent
		// The store may fail for a moment; what it says at the end counts.
		if next, err = read(ctx); err == nil {
			consent = next
		} else if CodeOf(err) == CodeNotFound {
			return Consent{}, err
		}
		if err == nil && news() {
			break
		}
	}
	return consent, err
}

// heard is the status as followers hear it: one whose time is up while it is just being completed is not over yet, for what
// they hear as the end must be the end.
func (s *Service) heard(c Consent) ConsentStatus {
	status := s.statusOf(c)
	if status != c.Status && s.cfg.Now().Before(c.BusyUntil) {
		return c.Status
	}
	return status
}

// viewOf is the consent with its account.
func (s *Service) viewOf(ctx context.Context, consent Consent) (ConsentView, error) {
	var err error
	if consent.Account, err = s.accountOf(ctx, consent); err != nil {
		return ConsentView{}, err
	}
	return s.view(consent), nil
}

// final tells that no other status follows.
func (s ConsentStatus) final() bool {
	switch s {
	case ConsentPending, ConsentStarted, ConsentAwaitingCompletion:
		return false
	}
	return true
}
