package simulationtest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"tokenbroker/broker"
)

// rotation is what the provider does with a refresh token that was used.
type rotation string

// The rotations.
const (
	rotationNone   rotation = "none"   // there is one refresh token, for ever
	rotationGrace  rotation = "grace"  // a used one gives another successor for a while
	rotationStrict rotation = "strict" // a used one is refused
)

// provider is the authorization server: it knows of every token that it gave, when it was used, by whom, and whether
// the answer arrived.
type provider struct {
	world    *world
	rotation rotation
	family   bool // a used token that comes too late ends the whole grant (RFC 9700 section 4.14.2)
	newest   bool // a used one that is used again within its grace ends the successors that it has given
	grace    time.Duration

	grants []*grant
	all    []*token          // refresh tokens, in the order in which they were given
	tokens map[string]*token // and by what is sent
	access map[string]*grant // access tokens
}

// grant is what one consent gave.
type grant struct {
	n      int
	conn   int
	tokens []*token
	ended  time.Time // zero: it lives
	why    string
}

// token is a refresh token.
type token struct {
	value string // its name in traces
	sent  string // itself: of a length that no other one has, so that a seal shows which one is in it
	grant *grant
	born  time.Time
	made  *sending // which gave it; nil: the consent
	used  time.Time
	dead  bool
	sends []*sending

	// What became of it on our side; zero: nothing yet.
	spooled    time.Time // a disk has it
	unkept     bool      // a disk would not take it
	landed     time.Time // the store's record has had it, and this was not taken back before a process was told
	told       time.Time // a process was told so
	holder     *process  // which wrote it there
	generation int64     // which it made there
	takenBack  time.Time // a failover took it away again
	excused    bool      // and nobody who remembered it was there to bring it back at once
	given      bool      // a live process had it in its memory
	begun      time.Time // a process began to store it
	recorded   bool      // a connection's own record had it, of a shared grant
	settled    time.Time // a process was told by the store that there is nothing more to do
}

// sending is one use of a refresh token, from its arrival at the provider.
type sending struct {
	token   *token
	proc    *process
	lease   *heldLease
	asked   time.Time // by the process's clock
	at      time.Time
	fault   fault
	dead    bool   // refused: invalid_grant
	gave    *token // the successor
	answer  time.Time
	dropped bool // the answer never arrived
}

// lifetime is how long an access token lives.
const lifetime = 100 * time.Second

func newProvider(w *world, p Plan) *provider {
	return &provider{
		world: w, rotation: p.Rotation, family: p.Family, newest: p.Newest, grace: p.Grace,
		tokens: make(map[string]*token), access: make(map[string]*grant),
	}
}

// newGrant is what a user's consent gives.
// Of a grant that several hold a living one goes on, and the refresh tokens that it had are used with that.
func (p *provider) newGrant(conn int) (*grant, broker.Grant) {
	var g *grant
	if p.world != nil && p.world.shared != nil && len(p.grants) > 0 && p.grants[len(p.grants)-1].ended.IsZero() {
		g = p.grants[len(p.grants)-1]
		for _, t := range g.tokens {
			if t.used.IsZero() {
				t.used = time.Now()
			}
		}
	} else {
		g = &grant{n: len(p.grants) + 1, conn: conn}
		p.grants = append(p.grants, g)
	}
	t := p.newToken(g)
	t.given = true
	answer := p.answer(g, time.Now())
	answer.ObtainedAt = time.Now()
	answer.RefreshToken = broker.NewSecret(t.sent)
	return g, answer
}

func (p *provider) newToken(g *grant) *token {
	t := &token{value: "rt-" + strconv.Itoa(g.n) + "-" + strconv.Itoa(len(g.tokens)+1), grant: g, born: time.Now()}
	t.sent = t.value + strings.Repeat(".", shortestToken+len(p.all)-len(t.value))
	g.tokens, p.all = append(g.tokens, t), append(p.all, t)
	p.tokens[t.sent] = t
	return t
}

const (
	shortestToken = 16
	// sealAround is what a seal adds to what it holds: Tink's prefix, the nonce and the tag of AES-GCM.
	sealAround = 5 + 12 + 16
	// packedAround is what the second form of a token adds: the mark before the seal, and how it is packed; with all those dots it is
	// left as it is.
	packedMark, packedAround = 2, 2
)

// sealedIn tells which refresh token the seal holds, by its length; nil: none.
func (p *provider) sealedIn(seal string) *token {
	n := len(seal) - sealAround - shortestToken
	if len(seal) > 0 && seal[0] == packedMark {
		n -= packedAround
	}
	if n < 0 || n >= len(p.all) {
		return nil
	}
	return p.all[n]
}

// numbered tells which refresh token has that length.
func (p *provider) numbered(length int) *token {
	return p.sealedIn(strings.Repeat(".", max(0, length+sealAround)))
}

// answer holds an access token. now is the clock of whoever reads it: the answer says only how long the token lives.
func (p *provider) answer(g *grant, now time.Time) broker.Grant {
	// All of the same length, so that of a whole grant the refresh token alone makes the length.
	value := fmt.Sprintf("at-%03d-%04d", g.n, len(p.access)+1)
	p.access[value] = g
	return broker.Grant{
		AccessToken: broker.NewSecret(value), ExpiresAt: now.Add(lifetime).Round(0), Lifetime: lifetime, Account: account(g.conn),
	}
}

// usable tells whether the provider would take the refresh token now.
func (p *provider) usable(t *token) bool {
	if t == nil || t.dead || !t.grant.ended.IsZero() {
		return false
	}
	switch {
	case t.used.IsZero() || p.rotation == rotationNone:
		return true
	case p.rotation == rotationGrace:
		return time.Since(t.used) <= p.grace
	}
	return false
}

func (p *provider) end(g *grant, why string) {
	if g.ended.IsZero() {
		g.ended, g.why = time.Now(), why
	}
}

var errGrantDead = &broker.UpstreamError{Class: broker.ClassGrantDead, Status: 400, Code: "invalid_grant", What: "the refresh token is not good"}

// use is the request's arrival.
func (p *provider) use(s *sending) (broker.Grant, error) {
	t := s.token
	if !p.usable(t) {
		s.dead = true
		if p.family && !t.used.IsZero() {
			p.end(t.grant, "a refresh token was used twice")
		}
		return broker.Grant{}, errGrantDead
	}
	answer := p.answer(t.grant, s.asked)
	if p.rotation == rotationNone {
		p.world.result.Tally.Refreshes++
		return answer, nil
	}
	if t.used.IsZero() {
		t.used = time.Now()
	} else if p.newest {
		for _, other := range t.sends {
			if other.gave != nil {
				other.gave.dead = true
			}
		}
	}
	next := p.newToken(t.grant)
	next.made, s.gave = s, next
	p.world.result.Tally.Refreshes++
	answer.RefreshToken = broker.NewSecret(next.sent)
	return answer, nil
}

// upstream is the way of one process to the provider.
type upstream struct{ proc *process }

var errNotModelled = errors.New("not part of the simulation")

func (upstream) AuthorizationURL(context.Context, string, broker.AuthorizationRequest) (broker.Authorization, error) {
	return broker.Authorization{}, errNotModelled
}

func (upstream) VerifyCallback(string, map[string]broker.Secret) error { return nil }

func (upstream) ReadNotice(context.Context, string, broker.NoticeRequest) (broker.Notice, error) {
	return broker.Notice{}, broker.ErrNoNotices
}

func (upstream) Exchange(context.Context, string, broker.ExchangeRequest) (broker.Grant, error) {
	return broker.Grant{}, errNotModelled
}

func (upstream) Obtain(context.Context, string, broker.ObtainRequest) (broker.Grant, error) {
	return broker.Grant{}, errNotModelled
}

func (upstream) BeginDevice(context.Context, string, broker.ScopeSet) (broker.DeviceAuthorization, error) {
	return broker.DeviceAuthorization{}, errNotModelled
}

func (upstream) PollDevice(context.Context, string, broker.DevicePoll) (broker.Grant, error) {
	return broker.Grant{}, errNotModelled
}

func (upstream) Identify(_ context.Context, _ string, g broker.Grant) (broker.Grant, error) {
	return g, nil
}

// Refresh is part of broker.Upstream.
func (u upstream) Refresh(ctx context.Context, _ string, req broker.RefreshRequest) (broker.Grant, error) {
	p := u.proc
	w := p.world
	t := w.provider.tokens[req.RefreshToken.Reveal()]
	if t == nil {
		w.violate("a refresh token that nobody ever gave was sent")
		return broker.Grant{}, errGrantDead
	}
	s := &sending{token: t, proc: p, lease: p.leases[t.grant.conn], asked: p.now()}
	var answer broker.Grant
	var failure error
	g := &gate{call: callRefresh, who: whoOf(ctx), conn: t.grant.conn}
	g.what = func() string { return "use " + t.value }
	g.run = func(o outcome) {
		s.at, s.fault = time.Now(), o.fault
		switch o.fault {
		case faultUnsent:
			failure = &broker.UpstreamError{Class: broker.ClassUnsent, What: "the provider could not be reached"}
			return
		case faultBusy:
			failure = &broker.UpstreamError{Class: broker.ClassThrottled, Status: 429, What: "too many requests", RetryAfter: time.Duration(1+o.part) * time.Second}
			return
		case faultRefused:
			failure = &broker.UpstreamError{Class: broker.ClassClientRefused, Status: 401, Code: "invalid_client", What: "the client is refused"}
			return
		case faultBefore:
			failure = &broker.UpstreamError{Class: broker.ClassInDoubt, Status: 500, What: "the provider failed"}
			return
		}
		w.arrives(s)
		t.sends = append(t.sends, s)
		answer, failure = w.provider.use(s)
		if o.fault == faultAfter {
			s.dropped = true
			answer, failure = broker.Grant{}, &broker.UpstreamError{Class: broker.ClassInDoubt, What: "the connection was reset"}
		}
	}
	if err := p.ask(ctx, g); err != nil {
		s.dropped = true
		return broker.Grant{}, &broker.UpstreamError{Class: broker.ClassInDoubt, What: "no answer", Cause: err}
	}
	s.answer = time.Now()
	if s.gave != nil && !s.dropped {
		s.gave.given = true
	}
	return answer, failure
}

// Revoke is part of broker.Upstream.
func (u upstream) Revoke(ctx context.Context, _ string, req broker.RevokeRequest) error {
	p := u.proc
	w := p.world
	t := w.provider.tokens[req.RefreshToken.Reveal()]
	if t == nil {
		return nil
	}
	var failure error
	g := &gate{call: callRevoke, who: whoOf(ctx), conn: t.grant.conn}
	g.what = func() string { return "revoke " + t.value }
	g.run = func(o outcome) {
		if o.fault == faultNone || o.fault == faultAfter {
			w.ends(t.grant)
			w.provider.end(t.grant, "revoked")
		}
		if o.fault != faultNone {
			failure = &broker.UpstreamError{Class: broker.ClassInDoubt, Status: 500, What: "the provider failed"}
		}
	}
	if err := p.ask(ctx, g); err != nil {
		return &broker.UpstreamError{Class: broker.ClassInDoubt, What: "no answer", Cause: err}
	}
	return failure
}
