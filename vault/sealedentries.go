package vault

import (
	"context"
	"fmt"
	"time"
)

// SealedEntries are the entries of the audit trail that a key has sealed. Their chain is made over them, so nobody can seal them anew.
type SealedEntries struct {
	Entries int
	Streams int       // in which they are
	Newest  time.Time // when the last of them was written, by the store's clock
}

// EntriesSealedBy looks through the whole trail for them, in some 20 s for a million.
func (s *Store) EntriesSealedBy(ctx context.Context, key uint32) (SealedEntries, error) {
	var out SealedEntries
	streams, err := s.trailNames(ctx)
	if err != nil {
		return out, fmt.Errorf("find the streams of the trail: %w", err)
	}
	for _, stream := range streams {
		w, before := s.walkOf(stream.name), out.Entries
		if _, err := w.each(ctx, "-", func(e StreamEntry) (*Fault, error) {
			if id, ok := entryKey(e.Body); ok && id == key {
				out.Entries++
				if at, err := parseStreamID(e.ID); err == nil {
					out.Newest = latest(out.Newest, time.UnixMilli(int64(at.ms)).UTC())
				}
			}
			return nil, nil
		}); err != nil {
			return out, fmt.Errorf("read the trail: %w", err)
		}
		if out.Entries > before {
			out.Streams++
		}
	}
	return out, nil
}

// entryKey is the key that sealed the body of an entry.
func entryKey(body string) (uint32, bool) { return keyID([]byte(sealOf(body))) }

// sealOf is what of the body is a seal.
func sealOf(body string) string {
	if len(body) > 0 && body[0] == entryBinary {
		return body[1:]
	}
	return body
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// SealedBy is the key that sealed a value, as its first bytes tell whoever has no key; false: it is none that is sealed. Some have a
// mark before the seal, and an alternate refresh token its end.
func SealedBy(value string) (uint32, bool) {
	for _, skip := range []int{0, 1, 8} {
		if len(value) < skip+leastSeal || skip == 1 && value[0] != packedMark {
			continue
		}
		if id, ok := keyID([]byte(value[skip:])); ok {
			return id, true
		}
	}
	return 0, false
}
