package broker

import "time"

// A provider that says that it does not take our OAuth client may mean one grant: some answer so where a user has ended theirs,
// or an administrator has shut the application out of one workspace. So a refusal is that grant's matter first: it is left alone for
// a while, and keeps its refresh token and its status, for it may be the client after all. What two grants meet within a minute,
// with nobody served between, is taken for the client's: then its circuit opens (circuit.go).

const (
	// refusedPause is how long a refused grant, or everybody of a refused client, is left alone at first, refusedMost how long
	// the grant is at most.
	refusedPause, refusedMost = 5 * time.Second, 30 * time.Second
	refusedRemember           = 10_000 // grants
)

// refusals are the grants with which the provider refused our client. They are kept in this process alone: the connection has
// nothing to do with it, and a process that starts with another client_secret must not wait for what was before.
type refusals struct {
	grants map[string]*refusal
	served map[circuitKey]time.Time // clients: when a grant of theirs was last served
}

// refusal is one grant's. It ends when the grant brings a token.
type refusal struct {
	since, last time.Time
	failures    int
	until       time.Time
}

func newRefusals() refusals {
	return refusals{grants: map[string]*refusal{}, served: map[circuitKey]time.Time{}}
}

// of returns the grant's refusal; nil: it has none, or has brought a token since, elsewhere or by a new consent.
func (r *refusals) of(l line) *refusal {
	if one := r.grants[l.grant]; one != nil && !l.renewed.After(one.last) {
		return one
	}
	return nil
}

func (r *refusals) wait(l line, now time.Time) time.Duration {
	if one := r.of(l); one != nil {
		return max(0, one.until.Sub(now))
	}
	return 0
}

// note keeps a refusal. It tells whether it is known for the grant's own: another one of the client was served since it began.
func (r *refusals) note(l line, now time.Time, jitter func(time.Duration) time.Duration) (own bool) {
	one := r.of(l)
	if one == nil {
		if len(r.grants) >= refusedRemember {
			for another := range r.grants {
				delete(r.grants, another)
				break
			}
		}
		one = &refusal{since: now}
		r.grants[l.grant] = one
	}
	one.failures++
	one.last = now
	wait := min(refusedPause<<min(one.failures-1, 10), refusedMost)
	one.until = now.Add(wait + jitter(wait/5))
	return r.served[l.key(troubleRefused)].After(one.since)
}

// worked: the client was taken. If its circuit was open, those that were refused meanwhile need not wait for their own time.
func (r *refusals) worked(l line, now time.Time, o *circuit) {
	delete(r.grants, l.grant)
	r.served[l.key(troubleRefused)] = now
	if !o.isOpen() {
		return
	}
	for grant := range o.grants {
		if one := r.grants[grant]; one != nil {
			one.until = now
		}
	}
}

// refused tells whether the refresh of the grant is known to be refused, and how often in a row that was; 0: it is its client's
// circuit that is open.
func (c *circuits) refused(l line) (refused bool, failures int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if one := c.refusals.of(l); one != nil {
		return true, one.failures
	}
	return c.all[l.key(troubleRefused)].wait(c.now()) > 0, 0
}
