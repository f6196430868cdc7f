package vault

import (
	"testing"
	"time"
)

// TestUnpublishedIsBounded: what waits for a place is bounded in bytes too, and what was given up is known.
func TestUnpublishedIsBounded(t *testing.T) {
	d := newDestination(storePublisher{}, nil)
	for i := range 100 {
		d.add(waitingLine{line: make([]byte, 1<<20), at: time.Now(), seq: uint64(i + 1)})
	}
	if len(d.waiting) != 32 || d.size != 32<<20 || d.lost != 68 || d.gaveUp != 68 || d.waiting[0].seq != 69 {
		t.Errorf("%d wait, of %d bytes; %d are lost, up to %d", len(d.waiting), d.size, d.lost, d.gaveUp)
	}
	d.note(t.Context(), d.waiting[0], nil)
	if len(d.waiting) != 31 || d.size != 31<<20 {
		t.Errorf("%d wait, of %d bytes", len(d.waiting), d.size)
	}
}
