package broker

import (
	"container/list"
	"net/netip"
	"sync"
	"time"
)

// This file holds the limits of requests: token buckets in this process's memory, so that a request asks nobody. What replicas
// tell one another of them is in limit_share.go, what refusals leave behind in limit_refused.go (decisions/0028).

// Limit is what one client, tenant, subject or address may do.
type Limit struct {
	// Rate is how many requests a second, Burst how many at once. Of an address they count wrong API keys alone. A rate of 0: no limit.
	Rate  float64
	Burst int
	// Consents is how many consent links may be pending at the same time. 0: no cap.
	Consents int
}

// Limits bounds what callers of the API may do. The zero value bounds nothing.
type Limits struct {
	// Client, Tenant and Subject are those of each that has none of its own; Address that of whoever calls, behind trusted proxies.
	Client, Tenant, Subject, Address Limit
	// Clients and Tenants have limits of their own, by id.
	Clients, Tenants map[string]Limit
	// WrongKeys bounds wrong API keys from all addresses together.
	WrongKeys Limit
}

func (l Limits) client(id string) Limit {
	if own, ok := l.Clients[id]; ok {
		return own
	}
	return l.Client
}

func (l Limits) tenant(id string) Limit {
	if own, ok := l.Tenants[id]; ok {
		return own
	}
	return l.Tenant
}

// limitKind is what is limited: the label of metrics and the beginning of an event's reason, so there are few.
type limitKind string

const (
	limitClient    limitKind = "client"
	limitTenant    limitKind = "tenant"
	limitSubject   limitKind = "subject"
	limitAddress   limitKind = "address"    // wrong API keys from one address
	limitWrongKeys limitKind = "wrong_keys" // from all of them
	limitLinks     limitKind = "links"      // that a client makes, whatever becomes of them

	limitClientConsents  limitKind = "client_consents" // pending at the same time
	limitTenantConsents  limitKind = "tenant_consents"
	limitSubjectConsents limitKind = "subject_consents"
	limitAddressConsents limitKind = "address_consents"
)

// limitKinds are all that refusals are counted by.
var limitKinds = []limitKind{
	limitClient, limitTenant, limitSubject, limitAddress, limitWrongKeys, limitLinks,
	limitClientConsents, limitTenantConsents, limitSubjectConsents, limitAddressConsents,
	limitKind(GuessedLinks), limitKind(GuessedSignIns), limitKind(BegunSignIns),
}

// limitKey names who is limited. Its parts are ids as they are: they stay in memory, the store gets a keyed hash.
type limitKey struct {
	kind         limitKind
	tenant, name string
}

// bucketsKept bounds the buckets of each kind in memory (some 300 bytes each, and its name). Beyond it a tenant with more than a fair share
// of them makes full ones of its own: by asking about many subjects nobody takes the limits of another tenant's.
const bucketsKept = 20_000

// bucket is one token bucket. Others' uses, which are heard of later, can overdraw it, by its size at most, and calls that complete
// something by as much again.
type bucket struct {
	key    limitKey
	limit  Limit
	place  *list.Element // in its tenant's order
	tokens float64
	at     time.Time
	// used since the replicas were last told; told is what the shared count was then, -1 before it is known.
	used int64
	told int64
	// unsure are uses since then that may be in the count or not.
	unsure int64
}

func (b *bucket) refill(now time.Time) {
	if passed := now.Sub(b.at); passed > 0 {
		b.tokens = min(float64(b.limit.Burst), b.tokens+passed.Seconds()*b.limit.Rate)
		b.at = now
	}
}

// wait is how long it takes until there is one token more than so many.
func (b *bucket) wait(least float64) time.Duration {
	return max(time.Second, time.Duration((least+1-b.tokens)/b.limit.Rate*float64(time.Second)))
}

// isNearEnd tells that the replicas must hear of it: until half of it is used, no others can have done much harm with theirs, and most
// buckets never come so far.
func (b *bucket) isNearEnd() bool { return b.tokens < float64(b.limit.Burst)/2 }

// buckets are those of one kind.
type buckets struct {
	mu       sync.Mutex
	byTenant map[string]*list.List // of *bucket, used last first; of kinds without a tenant there is one
	all      map[limitKey]*bucket
	hot      map[limitKey]*bucket // that replicas are told of
	most     int
}

func newBuckets(most int) *buckets {
	return &buckets{byTenant: map[string]*list.List{}, all: map[limitKey]*bucket{}, hot: map[limitKey]*bucket{}, most: most}
}

// take takes one token, or tells when there will be one. Where debts are allowed, it takes one that is not there too: as many as the
// bucket holds, whatever others have used of it.
func (s *buckets) take(key limitKey, limit Limit, now time.Time, debts bool) (wait time.Duration) {
	if limit.Rate <= 0 {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.of(key, limit, now)
	b.refill(now)
	least := 0.0
	if debts {
		least = -2 * float64(limit.Burst)
	}
	if b.tokens < least+1 {
		return b.wait(least)
	}
	b.tokens--
	if s.hot[key] == nil && b.isNearEnd() {
		s.hot[key] = b
		b.used, b.told, b.unsure = 0, -1, 0
	}
	b.used++
	return 0
}

// giveBack gives back a token that was taken in vain.
func (s *buckets) giveBack(key limitKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, ok := s.all[key]; ok {
		b.tokens, b.used = min(b.tokens+1, float64(b.limit.Burst)), max(0, b.used-1)
	}
}

func (s *buckets) of(key limitKey, limit Limit, now time.Time) *bucket {
	if b, ok := s.all[key]; ok {
		s.byTenant[key.tenant].MoveToFront(b.place)
		return b
	}
	order := s.byTenant[key.tenant]
	if order == nil {
		order = list.New()
		s.byTenant[key.tenant] = order
	}
	b := &bucket{key: key, limit: limit, tokens: float64(limit.Burst), at: now, told: -1}
	b.place = order.PushFront(b)
	s.all[key] = b
	if len(s.all) > s.most {
		s.forgetOne(key.tenant)
	}
	return b
}

// forgetOne makes room at the cost of who has more than a fair share: the tenant that asks, if it has, else the one that has most.
func (s *buckets) forgetOne(asking string) {
	from := asking
	if s.byTenant[asking].Len() <= s.most/len(s.byTenant) {
		for tenant, order := range s.byTenant {
			if order.Len() > s.byTenant[from].Len() {
				from = tenant
			}
		}
	}
	order := s.byTenant[from]
	oldest := order.Remove(order.Back()).(*bucket)
	delete(s.all, oldest.key)
	delete(s.hot, oldest.key)
	if order.Len() == 0 {
		delete(s.byTenant, from)
	}
}

// limiter is all buckets of this process.
type limiter struct {
	cfg   Limits
	kinds map[limitKind]*buckets // fixed after newLimiter
}

func newLimiter(cfg Limits) *limiter {
	l := &limiter{cfg: cfg, kinds: map[limitKind]*buckets{}}
	for _, kind := range []limitKind{limitClient, limitTenant, limitSubject, limitAddress, limitWrongKeys, limitLinks} {
		l.kinds[kind] = newBuckets(bucketsKept)
	}
	return l
}

func (l *limiter) take(key limitKey, limit Limit, now time.Time) time.Duration {
	return l.kinds[key.kind].take(key, limit, now, false)
}

// AdmitRequest is the error for a request of a client that asks too often, or whose tenant does. Edges ask it once for each request,
// before they read it.
func (s *Service) AdmitRequest(caller Caller) error { return s.admitRequest(caller, false) }

// AdmitCompletion is AdmitRequest for a call that completes a consent or a visit. What its user has agreed to must not be lost because
// the client, or another one of its tenant, asks for much else: it is paid for later. Codes are guarded by their few wrong attempts.
func (s *Service) AdmitCompletion(caller Caller) error { return s.admitRequest(caller, true) }

func (s *Service) admitRequest(caller Caller, debts bool) error {
	now := s.cfg.Now()
	c := caller.Client
	// The client's first: what it is refused takes nothing from its tenant's other clients.
	if wait := s.limiter.kinds[limitClient].take(limitKey{kind: limitClient, name: c.ID}, s.limiter.cfg.client(c.ID), now, debts); wait > 0 {
		return s.tooMany(caller, limitClient, "", wait, "requests of this client")
	}
	if wait := s.limiter.kinds[limitTenant].take(limitKey{kind: limitTenant, name: c.Tenant}, s.limiter.cfg.tenant(c.Tenant), now, debts); wait > 0 {
		return s.tooMany(caller, limitTenant, "", wait, "requests of this client's tenant")
	}
	return nil
}

// AdmitSubject is the error for a request about a subject that is asked about too often.
func (s *Service) AdmitSubject(caller Caller, subject string) error {
	if subject == "" {
		return nil
	}
	key := limitKey{kind: limitSubject, tenant: caller.Client.Tenant, name: subject}
	if wait := s.limiter.take(key, s.limiter.cfg.Subject, s.cfg.Now()); wait > 0 {
		return s.tooMany(caller, limitSubject, subject, wait, "requests about this subject")
	}
	return nil
}

// AdmitWrongKey counts a wrong API key; the error tells its sender to wait, where it would otherwise hear that the key is wrong. A right
// key is never held up by wrong ones: else whoever shares an address with a client, or all clients where a proxy in between is not a
// trusted one, could shut them out.
func (s *Service) AdmitWrongKey(address string) error {
	now := s.cfg.Now()
	caller := Caller{}
	if wait := s.limiter.take(limitKey{kind: limitAddress, name: Network(address)}, s.limiter.cfg.Address, now); wait > 0 {
		return s.tooMany(caller, limitAddress, "", wait, "wrong API keys from this address")
	}
	if wait := s.limiter.take(limitKey{kind: limitWrongKeys}, s.limiter.cfg.WrongKeys, now); wait > 0 {
		return s.tooMany(caller, limitWrongKeys, "", wait, "wrong API keys")
	}
	return nil
}

// admitLink is the error for a client that makes links faster than they can all be pending: each leaves a record for a while after it
// has ended, so a cap of those that are pending bounds the store only together with this.
func (s *Service) admitLink(caller Caller) error {
	most := s.limiter.cfg.client(caller.Client.ID).Consents
	limit := Limit{Rate: float64(most) / LinkLife.Seconds(), Burst: most}
	if wait := s.limiter.take(linksKey(caller), limit, s.cfg.Now()); wait > 0 {
		return s.tooMany(caller, limitLinks, "", wait, "links made by this client")
	}
	return nil
}

func linksKey(caller Caller) limitKey { return limitKey{kind: limitLinks, name: caller.Client.ID} }

// Network is what counts as one address: for IPv6 the /64 that one household or machine has.
func Network(address string) string {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return address
	}
	ip = ip.Unmap().WithZone("")
	if ip.Is4() {
		return ip.String()
	}
	p, err := ip.Prefix(64)
	if err != nil {
		return ip.String()
	}
	return p.String()
}
