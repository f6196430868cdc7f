package main

import (
	"context"
	"errors"
	"slices"
	"testing"
)

// Who starts on the spool_dir of a replica that was killed takes its heartbeat back, once, and only then says that it has the directory.
func TestSuccession(t *testing.T) {
	t.Parallel()
	dir, down := t.TempDir(), errors.New("redis is down")
	var ended []string
	var trouble error
	end := func(_ context.Context, id string) error {
		if trouble == nil {
			ended = append(ended, id)
		}
		return trouble
	}
	settle := func(s *succession, want error) {
		t.Helper()
		if err := s.settle(t.Context()); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", s.id, err, want)
		}
	}
	settle(&succession{dir: dir, id: "first", end: end}, nil)
	trouble = down
	second := &succession{dir: dir, id: "second", end: end}
	settle(second, down)
	trouble = nil
	settle(&succession{dir: dir, id: "third", end: end}, nil) // the second was killed meanwhile, before it said anything
	settle(second, nil)
	settle(second, nil)
	settle(&succession{id: "without spool", end: end}, nil)
	if want := []string{"first", "third"}; !slices.Equal(ended, want) {
		t.Errorf("ended %q, want %q", ended, want)
	}
}

// One that was killed before it settled is known to whoever comes next, with the one before it; and nobody loses the first for the second.
func TestSuccessionOfTheUnsettled(t *testing.T) {
	dir := t.TempDir()
	var ended []string
	end := func(_ context.Context, id string) error { ended = append(ended, id); return nil }
	for _, id := range []string{"first", "second"} {
		if err := (&succession{dir: dir, id: id, end: end}).enter(); err != nil {
			t.Fatal(err)
		}
	}
	third := &succession{dir: dir, id: "third", end: end}
	if err := errors.Join(third.enter(), third.settle(t.Context()), third.settle(t.Context())); err != nil {
		t.Fatal(err)
	}
	if want := []string{"first", "second"}; !slices.Equal(ended, want) {
		t.Errorf("ended %q, want %q", ended, want)
	}
	ended = nil
	fourth := &succession{dir: dir, id: "fourth", end: end}
	if err := errors.Join(fourth.enter(), fourth.settle(t.Context())); err != nil || !slices.Equal(ended, []string{"third"}) {
		t.Errorf("afterwards: ended %q, %v", ended, err)
	}
}
