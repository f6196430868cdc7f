package simulationtest

import (
	"context"
	"errors"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
)

// ports are the vault's ports with a gate before each call that touches a connection, so that what a process does has an
// order, and with a note of what is being stored.
type ports struct {
	*vault.Store
	proc *process
}

// at is what each call of a port passes; done is deferred: a process that is stopped does not come back from a call.
func (p ports) at(ctx context.Context, port, id string) {
	p.proc.enter(ctx, port, p.proc.world.number(id))
}

func (p ports) done() { _ = p.proc.thaw() }

// committingKey carries what is being stored to the disk.
type committingKey struct{}

// OfSubject is part of broker.Connections.
func (p ports) OfSubject(ctx context.Context, tenant, subject, connector string) ([]broker.Connection, error) {
	p.at(ctx, "of subject", "")
	defer p.done()
	return p.Store.OfSubject(ctx, tenant, subject, connector)
}

// Connection is part of broker.Connections.
func (p ports) Connection(ctx context.Context, tenant, id string) (broker.Connection, error) {
	p.at(ctx, "read", id)
	defer p.done()
	return p.Store.Connection(ctx, tenant, id)
}

// Release is part of broker.Connections.
func (p ports) Release(ctx context.Context, conn broker.Connection, key string, entry broker.Entry) (broker.Secret, error) {
	p.at(ctx, "release", conn.ID)
	defer p.done()
	return p.Store.Release(ctx, conn, key, entry)
}

// Append is part of broker.Audit.
func (p ports) Append(ctx context.Context, entries ...broker.Entry) error {
	p.at(ctx, "append", "")
	defer p.done()
	return p.Store.Append(ctx, entries...)
}

// BeginRefresh is part of broker.Refreshes.
func (p ports) BeginRefresh(ctx context.Context, conn broker.Connection, owner string, lease time.Duration) (broker.Lease, broker.Secret, error) {
	p.at(ctx, "begin", conn.ID)
	defer p.done()
	got, token, err := p.Store.BeginRefresh(ctx, conn, owner, lease)
	if err != nil {
		return got, token, err
	}
	w := p.proc.world
	w.mu.Lock()
	defer w.mu.Unlock()
	n, fence := w.number(conn.ID), got.Fence
	at := w.leased[leaseName{n, fence}]
	if w.shared != nil {
		n, fence = w.group(n), got.Shared.Fence
		at = w.leased[leaseName{sharedLease, fence}]
	}
	p.proc.leases[n] = &heldLease{fence: fence, generation: got.Generation, at: at}
	return got, token, nil
}

// CommitRefresh is part of broker.Refreshes.
func (p ports) CommitRefresh(ctx context.Context, lease broker.Lease, conn broker.Connection, key string, grant broker.Grant, entries []broker.Entry) (broker.Connection, error) {
	p.at(ctx, "commit", conn.ID)
	defer p.done()
	w := p.proc.world
	c := &committing{proc: p.proc, conn: w.number(conn.ID), token: w.provider.tokens[grant.RefreshToken.Reveal()]}
	w.mu.Lock()
	if c.token != nil && c.token.begun.IsZero() {
		c.token.begun = time.Now()
	}
	w.mu.Unlock()
	next, err := p.Store.CommitRefresh(context.WithValue(ctx, committingKey{}, c), lease, conn, key, grant, entries)
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.token != nil && (err == nil || errors.Is(err, broker.ErrConflict) || errors.Is(err, broker.ErrNotFound)) {
		c.token.settled = time.Now()
	}
	return next, err
}

// FailRefresh is part of broker.Refreshes.
func (p ports) FailRefresh(ctx context.Context, lease broker.Lease, conn broker.Connection, entries []broker.Entry) (broker.Connection, error) {
	p.at(ctx, "fail", conn.ID)
	defer p.done()
	return p.Store.FailRefresh(ctx, lease, conn, entries)
}

// Alternates is part of broker.Refreshes.
func (p ports) Alternates(ctx context.Context, lease broker.Lease, conn broker.Connection) ([]broker.Secret, error) {
	p.at(ctx, "alternates", conn.ID)
	defer p.done()
	return p.Store.Alternates(ctx, lease, conn)
}

// EndRefresh is part of broker.Refreshes.
func (p ports) EndRefresh(ctx context.Context, lease broker.Lease) error {
	p.at(ctx, "give back", lease.Connection)
	defer p.done()
	return p.Store.EndRefresh(ctx, lease)
}

// Reschedule is part of broker.Schedule.
func (p ports) Reschedule(ctx context.Context, conn broker.Connection, at time.Time) error {
	p.at(ctx, "reschedule", conn.ID)
	defer p.done()
	return p.Store.Reschedule(ctx, conn, at)
}

// BeginRevoke is part of broker.Revocations.
func (p ports) BeginRevoke(ctx context.Context, tenant, id string, entries []broker.Entry) (broker.Leftover, error) {
	p.at(ctx, "begin revoke", id)
	defer p.done()
	return p.Store.BeginRevoke(ctx, tenant, id, entries)
}

// EndRevoke is part of broker.Revocations.
func (p ports) EndRevoke(ctx context.Context, tenant, id string, outcome broker.RevokedUpstream, forget bool) error {
	p.at(ctx, "end revoke", id)
	defer p.done()
	return p.Store.EndRevoke(ctx, tenant, id, outcome, forget)
}

// CompleteConsent is part of broker.Consents.
func (p ports) CompleteConsent(ctx context.Context, consent broker.Consent, conn broker.Connection, grant broker.Grant, entries []broker.Entry) (broker.Connection, error) {
	p.at(ctx, "complete", conn.ID)
	defer p.done()
	return p.Store.CompleteConsent(ctx, consent, conn, grant, entries)
}

// CreateConsent is part of broker.Consents.
func (p ports) CreateConsent(ctx context.Context, consent broker.Consent, once string, entries []broker.Entry) (broker.Consent, error) {
	p.at(ctx, "create consent", consent.ID)
	defer p.done()
	return p.Store.CreateConsent(ctx, consent, once, entries)
}

// UpdateConsent is part of broker.Consents.
func (p ports) UpdateConsent(ctx context.Context, consent broker.Consent, entries []broker.Entry) (broker.Consent, error) {
	p.at(ctx, "update consent", consent.ID)
	defer p.done()
	return p.Store.UpdateConsent(ctx, consent, entries)
}

// Spread is part of broker.SharedGrants.
func (p ports) Spread(ctx context.Context, name, consent string, grant broker.Grant) (int64, error) {
	p.at(ctx, "spread", "")
	defer p.done()
	return p.Store.Spread(ctx, name, consent, grant)
}

// Holders is part of broker.SharedGrants.
func (p ports) Holders(ctx context.Context, name string, beside broker.Holder) (int, error) {
	p.at(ctx, "holders", beside.ID)
	defer p.done()
	return p.Store.Holders(ctx, name, beside)
}

// Leave is part of broker.SharedGrants.
func (p ports) Leave(ctx context.Context, name string, connection broker.Holder) (int, error) {
	p.at(ctx, "leave", connection.ID)
	defer p.done()
	return p.Store.Leave(ctx, name, connection)
}

// Newest is part of broker.SharedGrants.
func (p ports) Newest(ctx context.Context, name string) (int64, error) {
	p.at(ctx, "newest", "")
	defer p.done()
	return p.Store.Newest(ctx, name)
}

// Guess is part of broker.Guesses.
func (p ports) Guess(tenant, subject, connector string) (broker.Guess, bool) {
	return p.Store.Guess(tenant, subject, connector)
}

// ReleaseGuessed is part of broker.Guesses.
func (p ports) ReleaseGuessed(ctx context.Context, guess broker.Guess, entry broker.Entry) (broker.Connection, broker.Secret, error) {
	p.at(ctx, "release guessed", guess.Connection)
	defer p.done()
	return p.Store.ReleaseGuessed(ctx, guess, entry)
}
