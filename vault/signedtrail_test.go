package vault

import (
	"strings"
	"testing"
	"time"
)

// Threat 71: where a stream begins, and what of it is lost, is said by a cut, which whoever has the keyset can write. It excuses nothing that was
// signed after the time up to which entries may be dropped, as a checkpoint said.
func TestThreat71CutsExcuseWhatWasAnnounced(t *testing.T) {
	signed := time.Date(2026, 11, 30, 8, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		at   writerWalk
		trim time.Time
		want string
	}{
		"begins behind it":                       {writerWalk{base: 10}, time.Time{}, "dropped: "},
		"begins behind it, others were dropped":  {writerWalk{base: 10}, signed.Add(-time.Hour), "dropped: "},
		"begins behind it, as was announced":     {writerWalk{base: 10}, signed.Add(time.Hour), ""},
		"begins within it, as was announced":     {writerWalk{base: 3}, signed.Add(-time.Minute), ""},
		"was lost, as the cut says":              {writerWalk{lost: 10}, time.Time{}, "dropped: "},
		"was lost, and dropped as was announced": {writerWalk{lost: 10}, signed.Add(time.Hour), ""},
		"was lost, which this walk has told":     {writerWalk{lost: 10, told: 10}, time.Time{}, ""},
	} {
		s := &signedStream{trail: &signedTrail{trim: c.trim}}
		span := &spanWalk{signedSpan: signedSpan{first: 1, count: 10}, of: &Checkpoint{Log: "l", Seq: 1, Time: signed}}
		got := s.compare(&c.at, span)
		if c.want == "" && got != nil || c.want != "" && (got == nil || !strings.HasPrefix(got.What, c.want)) {
			t.Errorf("a span whose chain %s: %+v", name, got)
		}
	}
}
