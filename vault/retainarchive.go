package vault

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"tokenbroker/broker"
)

// maxArchived is how many entries of a stream go into one archive; the rest go into the next.
const maxArchived = 50_000

// ErrNothingToArchive is what writing an archive ends with if there turns out to be nothing: no file shall be left.
var ErrNothingToArchive = errors.New("there is nothing to archive")

// archive writes what is due into a file, for a third of a round at most, and returns what of it may be dropped then: what is in the file,
// which is on the disk. An error: nothing is dropped.
func (r *retainer) archive(ctx context.Context, due []dueStream) (there []dueStream, err error) {
	s := r.store
	if due, err = r.mended(ctx, due); err != nil || len(due) == 0 {
		return nil, err
	}
	below := due[0].below
	var signed *signedTrail
	if s.signer != nil {
		from := below
		for _, d := range due {
			from = min(from, max(d.first, r.archived[d.name].ms))
		}
		own, upto, err := s.checkpointsOf(ctx, from, below)
		if err != nil {
			return nil, err
		}
		signed = collect([]CheckpointSource{own}, Signers{Keys: s.cfg.Signing.Keys.public})
		if upto < below {
			below, r.behind, r.again = upto, true, true
		}
	}
	until := time.Now().Add(retainTime / 3)
	ends := make(map[trailName]streamID)
	now := s.cfg.Now().UTC()
	name := "trail-" + now.Format("20060102T150405Z") + "-" + strings.ToLower(rand.Text()[:6])
	err = s.cfg.Retention.Archive(ctx, name, func(w io.Writer) error {
		a := newArchiver(w, signed, archiveHead{Created: now, Complete: true, What: "before " + fromMillis(int64(below)).Format(time.RFC3339)})
		for _, d := range due {
			if time.Now().After(until) {
				r.behind, r.again = true, true
				break
			}
			to := streamID{ms: below - 1, n: math.MaxUint64}.String()
			had := r.archived[d.name]
			last, more, fault, err := a.stream(ctx, s, d.name, to, maxArchived, func(good goodEntry) bool { return had.less(good.id) })
			waits := errors.Is(err, broker.ErrKeyNotYet) // what lies before is in the file, and the rest comes in another one
			if err != nil && !waits {
				return err
			}
			if last != "" { // also what is good before a fault is in the file, and need not be in another one
				if ends[d.name], err = parseStreamID(last); err != nil {
					return err
				}
			}
			if waits {
				r.behind = true
				continue
			}
			if fault != nil {
				r.hold(ctx, d.name, fault)
				r.behind = true
				continue
			}
			if last == "" {
				continue
			}
			if more {
				r.behind, r.again = true, true
			}
			d.to = last
			there = append(there, d)
		}
		if a.end.Entries == 0 {
			return ErrNothingToArchive
		}
		return a.finish()
	})
	if err != nil && !errors.Is(err, ErrNothingToArchive) {
		return nil, fmt.Errorf("archive what is to be dropped: %w", err)
	}
	for name, end := range ends {
		if r.archived[name].less(end) {
			r.archived[name] = end
		}
	}
	return there, nil
}

// mended leaves out the streams that are held and still are as they were: how old they are must not hold up the others.
func (r *retainer) mended(ctx context.Context, due []dueStream) ([]dueStream, error) {
	var good []dueStream
	for _, d := range due {
		if r.held[d.name] != "" {
			nothing := newArchiver(io.Discard, nil, archiveHead{})
			to := streamID{ms: d.below - 1, n: math.MaxUint64}.String()
			_, _, fault, err := nothing.stream(ctx, r.store, d.name, to, maxArchived, func(goodEntry) bool { return false })
			if errors.Is(err, broker.ErrKeyNotYet) {
				r.behind = true
				continue
			}
			if err != nil {
				return nil, err
			}
			if fault != nil {
				r.hold(ctx, d.name, fault)
				r.behind = true
				continue
			}
		}
		good = append(good, d)
	}
	return good, nil
}

const (
	// signedWithin is how much later than an entry the checkpoint that has it may lie in the store: nothing can be signed while that is away.
	signedWithin = 2 * time.Hour
	// archivedAtLeast is of how much time what is due goes into a file at least, however many checkpoints that has; maxArchiveSigned is how
	// many bytes of them are read for more.
	archivedAtLeast  = 10 * time.Minute
	maxArchiveSigned = 64 << 20
	// signedChunk is how many of them are read at once.
	signedChunk = 64
)

// checkpointsOf reads the checkpoints in the store that may have entries from one ms to before another, or to before upto, if those are many.
func (s *Store) checkpointsOf(ctx context.Context, from, below uint64) (src CheckpointSource, upto uint64, err error) {
	least := from + uint64((archivedAtLeast + signedWithin).Milliseconds())
	to := streamID{ms: below + uint64(signedWithin.Milliseconds())}.String()
	src.Name = "redis"
	size := 0
	for next := (streamID{ms: from - min(from, uint64(unsignedSlack.Milliseconds()))}).String(); ; {
		found, err := readPatiently(ctx, func(ctx context.Context) ([][]StreamEntry, error) {
			return s.cfg.Backend.Streams(ctx, []StreamQuery{{Key: checkpointsKey(), From: next, To: to, Limit: signedChunk}})
		})
		if err != nil {
			return src, 0, err
		}
		for _, e := range found[0] {
			src.Lines, next, size = append(src.Lines, []byte(e.Meta)), "("+e.ID, size+len(e.Meta)
		}
		if len(found[0]) < signedChunk {
			return src, below, nil
		}
		if last, err := parseStreamID(found[0][len(found[0])-1].ID); err == nil && size > maxArchiveSigned && last.ms > least {
			return src, min(below, last.ms-uint64(signedWithin.Milliseconds())), nil
		}
	}
}

// Retained is how far this process has got with archiving and dropping what is older than events are kept.
type Retained struct {
	// Mine: it is this process that does it. Else the rest says nothing.
	Mine bool
	// Behind is by how much the oldest entry that is still there is older than those that are kept; 0: none is.
	Behind time.Duration
	// Failure is what the last attempt failed with; nil: it did not.
	Failure error
}

// tell keeps what became of a round, in which everything older than below was due. below 0: it did not get so far.
func (r *retainer) tell(mine bool, below uint64, more bool, err error) {
	now := Retained{Mine: mine, Failure: err}
	before := r.told.Load()
	switch {
	case below > 0 && (err != nil || more || r.behind) && r.oldest < below:
		now.Behind = time.Duration(below-r.oldest) * time.Millisecond
	case below == 0 && err != nil && before != nil:
		now.Mine, now.Behind = mine || before.Mine, before.Behind
	}
	r.told.Store(&now)
}

// Retained tells of the last round; the zero value: there was none, or events are kept for good.
func (s *Store) Retained() Retained {
	if s.retainer == nil {
		return Retained{}
	}
	if told := s.retainer.told.Load(); told != nil {
		return *told
	}
	return Retained{}
}

// TrimFailure is why old events could not be dropped when that was tried last; nil: they could.
func (s *Store) TrimFailure() error {
	if failure := s.trimFailure.Load(); failure != nil {
		return *failure
	}
	return nil
}
