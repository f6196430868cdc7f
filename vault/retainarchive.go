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
)

// maxArchived is how many entries of a stream go into one archive; the rest go into the next.
const maxArchived = 50_000

// ErrNothingToArchive is what writing an archive ends with if there turns out to be nothing: no file shall be left.
var ErrNothingToArchive = errors.New("there is nothing to archive")

// archive writes what is due into a file, for a third of a round at most, and returns what of it may be dropped then: what is in the file,
// which is on the disk. An error: nothing is dropped.
func (r *retainer) archive(ctx context.Context, due []dueStream) (there []dueStream, err error) {
	s := r.store
	var signed *signedTrail
	if s.signer != nil {
		own, err := s.storedCheckpoints(ctx)
		if err != nil {
			return nil, err
		}
		signed = collect([]CheckpointSource{own}, s.cfg.Signing.Keys.public)
	}
	until := time.Now().Add(retainTime / 3)
	ends := make(map[trailName]streamID)
	now := s.cfg.Now().UTC()
	name := "trail-" + now.Format("20060102T150405Z") + "-" + strings.ToLower(rand.Text()[:6])
	err = s.cfg.Retention.Archive(ctx, name, func(w io.Writer) error {
		a := newArchiver(w, signed, archiveHead{Created: now, Complete: true, What: "before " + fromMillis(int64(due[0].below)).Format(time.DateOnly)})
		for _, d := range due {
			if time.Now().After(until) {
				r.behind, r.again = true, true
				break
			}
			to := d.to
			if strings.HasPrefix(to, "(") {
				to = streamID{ms: d.below - 1, n: math.MaxUint64}.String()
			}
			had := r.archived[d.name]
			last, more, fault, err := a.stream(ctx, s, d.name, to, maxArchived, func(good goodEntry) bool { return had.less(good.id) })
			if err != nil {
				return err
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
			if ends[d.name], err = parseStreamID(last); err != nil {
				return err
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
		r.archived[name] = end
	}
	return there, nil
}

// TrimFailure is why old events could not be dropped when that was tried last; nil: they could.
func (s *Store) TrimFailure() error {
	if failure := s.trimFailure.Load(); failure != nil {
		return *failure
	}
	return nil
}
