package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	"tokenbroker/broker"
)

// spool keeps refreshed grants on disk from the provider's answer until the store has them. Files hold ciphertext only.
type spool struct {
	files SpoolFiles
	seals *sealer

	mu     sync.Mutex
	active map[string]int // commits under way in this process: the replay leaves them alone
	// settled are commits of this process whose files stay for a while, by connection (settled.go).
	settled map[string]settledFile
	// failure is why the last write failed, nil if it did not.
	failure error
	// unreadable are the files that the last replay could not read.
	unreadable []string
}

const spoolSuffix = ".spool"

// spooled is the content of a file, before it is sealed.
type spooled struct {
	Format     int           `json:"v"`
	Tenant     string        `json:"t"`
	Connection string        `json:"id"`
	Generation int64         `json:"gen"`
	Owner      string        `json:"own"`
	Fence      int64         `json:"fen"`
	Status     string        `json:"s"`
	Header     header        `json:"h"`
	Private    private       `json:"p"`
	Shared     *sharedLease  `json:"sl,omitempty"`
	Token      string        `json:"tk,omitempty"`
	Grant      storedGrant   `json:"g"`
	Entries    []storedEntry `json:"e,omitempty"`
	// Settled, in ms: when the store had it.
	Settled int64 `json:"se,omitempty"`
}

const spoolFormat = 1

func openSpool(files SpoolFiles, seals *sealer) *spool {
	return &spool{files: files, seals: seals, active: make(map[string]int), settled: make(map[string]settledFile)}
}

func spoolPlace(id string) []byte { return place("spool", "", id, "commit", "1") }

// encode makes the content of a commit's file.
func (p *spool) encode(c commit) ([]byte, error) {
	content := spooled{
		Format: spoolFormat, Tenant: c.lease.Tenant, Connection: c.lease.Connection, Generation: c.lease.Generation, Owner: c.lease.Owner,
		Fence: c.lease.Fence, Status: string(c.conn.Status), Header: headerOf(c.conn), Token: c.token, Grant: storeGrant(c.grant),
		Private: privateOf(c.conn), Shared: storeSharedLease(c.lease.Shared), Settled: millis(c.settled),
	}
	for _, e := range c.entries {
		content.Entries = append(content.Entries, storeEntry(e))
	}
	plain, err := json.Marshal(content)
	if err != nil {
		return nil, fmt.Errorf("encode spool file: %w", err)
	}
	sealed, err := p.seals.sealFor(c.lease.Tenant, plain, spoolPlace(c.id))
	if err != nil {
		return nil, err
	}
	return []byte(sealed), nil
}

// keep writes the commit and returns when the disk has it. Until release is called the replay passes it over.
func (p *spool) keep(ctx context.Context, c commit) (release func(), err error) {
	content, err := p.encode(c)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.active[c.id]++
	p.mu.Unlock()
	end := func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.active[c.id]--; p.active[c.id] == 0 {
			delete(p.active, c.id)
		}
	}
	err = p.files.Write(ctx, c.id+spoolSuffix, content)
	p.noteWrite(err)
	if err != nil {
		end()
		return nil, fmt.Errorf("write spool file: %w", err)
	}
	return end, nil
}

// drop removes a commit that the store has decided about. A crash before it costs one idle replay.
func (p *spool) drop(ctx context.Context, id string) error {
	return p.files.Remove(ctx, id+spoolSuffix)
}

// waiting lists the commits that nobody in this process is busy with, and those that are settled.
func (p *spool) waiting(ctx context.Context) (ids, settled []string, err error) {
	names, err := p.files.List(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("read spool: %w", err)
	}
	done := make(map[string]bool)
	for _, name := range names {
		if id, ok := strings.CutSuffix(name, settledSuffix); ok {
			done[id], settled = true, append(settled, id)
		}
	}
	for _, name := range names {
		id, ok := strings.CutSuffix(name, spoolSuffix)
		if !ok || p.busy(id) {
			continue
		}
		// Of both files the one that says more counts: a crash came between them. If it can be read.
		if done[id] {
			if _, err := p.readFile(ctx, id, settledSuffix); err == nil || errors.Is(err, fs.ErrNotExist) {
				continue
			}
		}
		ids = append(ids, id)
	}
	return ids, settled, nil
}

// busy tells that a commit is under way in this process.
func (p *spool) busy(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.active[id] > 0
}

func (p *spool) read(ctx context.Context, id string) (commit, error) {
	return p.readFile(ctx, id, spoolSuffix)
}

func (p *spool) readFile(ctx context.Context, id, suffix string) (commit, error) {
	sealed, err := p.files.Read(ctx, id+suffix)
	if err != nil {
		return commit{}, err
	}
	plain, owner, err := p.seals.openAny(sealed, spoolPlace(id))
	if err != nil {
		return commit{}, err
	}
	var f spooled
	if err := json.Unmarshal(plain, &f); err != nil {
		return commit{}, fmt.Errorf("decode: %w", broker.ErrIntegrity)
	}
	if f.Format != spoolFormat {
		return commit{}, broker.ErrNewerFormat
	}
	if p.seals.keyset.Erased(f.Tenant) {
		return commit{}, broker.ErrTenantErased
	}
	if owner != "" && owner != f.Tenant {
		return commit{}, fmt.Errorf("sealed with another tenant's key: %w", broker.ErrIntegrity)
	}
	c := commit{
		id:    id,
		lease: broker.Lease{Tenant: f.Tenant, Connection: f.Connection, Generation: f.Generation, Owner: f.Owner, Fence: f.Fence, Shared: f.Shared.lease()},
		conn:  broker.Connection{ID: f.Private.ID, Tenant: f.Private.Tenant, Status: broker.ConnectionStatus(f.Status), Generation: f.Generation},
		token: f.Token,
		grant: f.Grant.grant(), settled: fromMillis(f.Settled),
	}
	f.Header.fill(&c.conn)
	f.Private.fill(&c.conn)
	for _, e := range f.Entries {
		c.entries = append(c.entries, e.entry())
	}
	return c, nil
}

// ReplaySpool gives the store what waits in the spool, and what is of no connection any more to Config.Orphan. Doing it
// twice, or in two processes at once, does no harm. What can't be read stays where it is and is named in the error; so does
// what the store does not take now, and what Orphan could not end.
func (s *Store) ReplaySpool(ctx context.Context) error {
	if s.spool == nil {
		return nil
	}
	ids, settled, err := s.spool.waiting(ctx)
	if err != nil {
		return err
	}
	var errs []error
	var orphans []commit
	var unreadable []string
	for _, id := range ids {
		orphan, err := s.replay(ctx, id)
		if errors.Is(err, errUnreadable) {
			unreadable = append(unreadable, id+spoolSuffix)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("spool file %s%s: %w", id, spoolSuffix, err))
		}
		if orphan != nil {
			orphans = append(orphans, *orphan)
		}
		if ctx.Err() != nil {
			break
		}
	}
	s.spool.noteUnreadable(unreadable)
	if err := s.replaySettled(ctx, settled); err != nil {
		errs = append(errs, err)
	}
	// Last, for a provider takes its time: the grants that are somebody's do not wait for it.
	return errors.Join(append(errs, s.endOrphans(ctx, orphans)...)...)
}

// errUnreadable: trying again does not help.
var errUnreadable = errors.New("it can't be read")

// replayTimeout bounds the replay of one file.
const replayTimeout = 2 * time.Second

// replay returns the commit if its connection does not want it any more; its file is then still there.
func (s *Store) replay(ctx context.Context, id string) (orphan *commit, err error) {
	c, err := s.spool.read(ctx, id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // settled meanwhile
	}
	if errors.Is(err, broker.ErrTenantErased) {
		return nil, s.spool.drop(ctx, id)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	ctx, cancel := context.WithTimeout(ctx, replayTimeout)
	defer cancel()
	unwanted, err := s.replayCommit(ctx, c)
	if unwanted {
		return &c, nil
	}
	return nil, err
}

// replayCommit gives the store the commit of a file, which goes with that. unwanted: its connection does not want it any more; the
// file is still there.
func (s *Store) replayCommit(ctx context.Context, c commit) (unwanted bool, err error) {
	_, err = s.commit(ctx, c)
	switch {
	case !settled(err):
		return false, err
	case errors.Is(err, broker.ErrNotFound), errors.Is(err, broker.ErrTenantErased):
		return true, nil
	case errors.Is(err, broker.ErrConflict):
		s.cfg.Log.InfoContext(ctx, "spooled token came too late and does not become the connection's", "connection", c.conn.ID)
	default:
		s.cfg.Log.InfoContext(ctx, "spooled token stored", "connection", c.conn.ID)
	}
	return false, s.spool.drop(ctx, c.id)
}

// orphansAtOnce bounds how many calls of Orphan run at the same time, so that a provider that hangs holds up few others.
const orphansAtOnce = 8

// endOrphans hands over grants that nobody needs: they may still live upstream. The file of each goes when Orphan has
// done its work; a crash before that costs another call of it.
func (s *Store) endOrphans(ctx context.Context, orphans []commit) []error {
	errs := make([]error, len(orphans))
	places := make(chan struct{}, orphansAtOnce)
	var group sync.WaitGroup
	for i, c := range orphans {
		places <- struct{}{}
		group.Go(func() {
			defer func() { <-places }()
			if err := s.endOrphan(ctx, c); err != nil {
				errs[i] = fmt.Errorf("spool file %s%s: end a grant that nobody needs: %w", c.id, spoolSuffix, err)
			}
		})
	}
	group.Wait()
	return errs
}

func (s *Store) endOrphan(ctx context.Context, c commit) error {
	s.cfg.Log.WarnContext(ctx, "spooled token is of no connection any more", "connection", c.conn.ID, "handed_over", s.cfg.Orphan != nil)
	if s.cfg.Orphan != nil {
		orphanCtx, cancel := context.WithTimeout(ctx, s.cfg.OrphanTimeout)
		defer cancel()
		if err := s.cfg.Orphan(orphanCtx, c.conn, c.grant); err != nil {
			return err
		}
	}
	return s.spool.drop(ctx, c.id)
}
