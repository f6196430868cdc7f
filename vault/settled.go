package vault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"tokenbroker/broker"
)

// What the store has acknowledged, a failover may take back. As long as this process lives it remembers (memory.go). For the
// next process a commit's file stays in the spool a little longer, under another name: what is settled may heal a record
// that was set back to before it, and nothing else; beside any other its refresh token is used, and must not be tried.

const (
	settledSuffix = ".settled"
	// settledLife is how long such a file stays: longer than replicas lag, as a rule.
	settledLife = time.Minute
)

// settledFile is the file of a commit that this process settled.
type settledFile struct {
	id string
	at time.Time
}

// settle marks a commit as done; what was settled of the connection before is of no use any more. If that can't be written,
// the file goes at once, as if there were no such thing.
func (p *spool) settle(ctx context.Context, c commit, now time.Time) error {
	c.settled = now
	content, err := p.encode(c)
	if err == nil {
		err = p.files.Write(ctx, c.id+settledSuffix, content)
	}
	if err != nil {
		return errors.Join(err, p.drop(ctx, c.id))
	}
	p.mu.Lock()
	before, had := p.settled[c.lease.Connection]
	p.settled[c.lease.Connection] = settledFile{id: c.id, at: now}
	p.mu.Unlock()
	err = p.drop(ctx, c.id)
	if had && before.id != c.id {
		err = errors.Join(err, p.unsettle(ctx, before.id))
	}
	return err
}

// unsettle removes the file, and what a crash in settle may have left beside it before.
func (p *spool) unsettle(ctx context.Context, id string) error {
	if err := p.drop(ctx, id); err != nil {
		return err
	}
	return p.files.Remove(ctx, id+settledSuffix)
}

// forget removes the file of the connection's last settled commit, if this process wrote one and wants says so.
func (p *spool) forget(ctx context.Context, connection string, wants func(settledFile) bool) error {
	p.mu.Lock()
	file, there := p.settled[connection]
	p.mu.Unlock()
	if !there || !wants(file) {
		return nil
	}
	if err := p.unsettle(ctx, file.id); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.settled[connection] == file {
		delete(p.settled, connection)
	}
	return nil
}

// settledHere lists the connections of which this process settled a commit, and whose each file is.
func (p *spool) settledHere() (connections []string, owners map[string]string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	owners = make(map[string]string, len(p.settled))
	for connection, file := range p.settled {
		connections, owners[file.id] = append(connections, connection), connection
	}
	slices.Sort(connections)
	return connections, owners
}

// replaySettled looks after the files of settled commits: its own go after a while; those of a process before this one go
// when the store has been looked at and they are old enough.
func (s *Store) replaySettled(ctx context.Context, ids []string) error {
	var errs []error
	failed := func(id string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("spool file %s%s: %w", id, settledSuffix, err))
		}
	}
	now := s.cfg.Now()
	connections, here := s.spool.settledHere()
	for _, connection := range connections {
		if s.unhealed.Load() {
			break // what the store may have lost is not written back yet, and should this process end the file is all there is
		}
		err := s.spool.forget(ctx, connection, func(f settledFile) bool { return now.Sub(f.at) > settledLife || now.Before(f.at) })
		failed(connection, err)
	}
	var commits []commit
	for _, id := range ids {
		// Its own this process remembers, unless somebody wrote behind it before the answer came, who may be gone by now.
		if owner, own := here[id]; own && s.memory.get(owner) != nil {
			continue
		}
		c, err := s.spool.readFile(ctx, id, settledSuffix)
		switch {
		case err == nil:
			commits = append(commits, c)
		case errors.Is(err, broker.ErrTenantErased):
			failed(id, s.spool.unsettle(ctx, id))
		case !errors.Is(err, fs.ErrNotExist):
			failed(id, err)
		}
	}
	// A crash may have left two of a connection. The older one's refresh token is used, and must not come before the newer one.
	slices.SortStableFunc(commits, func(a, b commit) int { return cmp.Compare(b.lease.Generation, a.lease.Generation) })
	for _, c := range commits {
		if ctx.Err() != nil {
			break
		}
		failed(c.id, s.healFrom(ctx, c))
	}
	return errors.Join(errs...)
}

func (s *Store) healFrom(ctx context.Context, c commit) error {
	ctx, cancel := context.WithTimeout(ctx, replayTimeout)
	defer cancel()
	over, err := s.restoreIfBehind(ctx, c)
	if err != nil {
		return err
	}
	if age := s.cfg.Now().Sub(c.settled); over || age > settledLife || age < 0 {
		return s.spool.unsettle(ctx, c.id)
	}
	return nil
}

// restoreIfBehind writes a settled commit again if the store was set back to before it, and nothing came in its place. over:
// something did, so that there is nothing to be brought back any more.
func (s *Store) restoreIfBehind(ctx context.Context, c commit) (over bool, err error) {
	for range rescueAttempts {
		now, record, err := s.load(ctx, c.lease.Tenant, c.lease.Connection)
		switch {
		case errors.Is(err, broker.ErrNotFound) && len(record) == 0:
			if s.tooOld(c) {
				return true, nil
			}
		case errors.Is(err, broker.ErrNotFound), errors.Is(err, broker.ErrIntegrity), errors.Is(err, broker.ErrNewerFormat):
			return false, nil
		case err != nil:
			return false, err
		case now.Status == broker.ConnectionRevoked, now.Account.ID != c.conn.Account.ID, consentedOf(record) > c.lease.Generation:
			return true, nil
		case now.Generation > c.lease.Generation && c.outlives(now, record):
			// It went on from before.
			if err := s.restoreShared(ctx, c); err != nil {
				return false, err
			}
			if next, done, err := s.follow(ctx, c, now, record); err != nil || done {
				return false, errors.Join(err, s.heldAfter(ctx, next, done))
			}
			continue
		case now.Generation > c.lease.Generation:
			// Of the connection nothing is missing; of what others hold too, something may be.
			return now.Generation > c.lease.Generation+1, errors.Join(s.restoreShared(ctx, c), s.heldAfter(ctx, now, true))
		case now.LastRefreshed.After(c.conn.LastRefreshed):
			return false, nil
		}
		if err := s.restoreShared(ctx, c); err != nil {
			return false, err
		}
		if next, done, err := s.restore(ctx, c, record); err != nil || done {
			return false, errors.Join(err, s.heldAfter(ctx, next, done))
		}
	}
	return false, nil
}

// heldAfter makes a connection that was brought back a holder of its shared grant, as it was.
func (s *Store) heldAfter(ctx context.Context, conn broker.Connection, back bool) error {
	if !back || conn.SharedGrant == "" {
		return nil
	}
	return s.holdAgain(ctx, conn)
}

// tooOld tells that the trace of an erasure may be gone, so that an absent record may have been erased since.
func (s *Store) tooOld(c commit) bool {
	return s.cfg.Now().Sub(c.conn.LastRefreshed) > tombstoneLife-5*time.Minute
}
