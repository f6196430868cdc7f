package sinks

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// within is a context of a test that must not wait.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func lines(texts ...string) [][]byte {
	var out [][]byte
	for _, text := range texts {
		out = append(out, []byte(text))
	}
	return out
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestFile: lines are there on return, also behind a torn one and in a new file where the old one was rotated away.
func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.jsonl")
	if err := os.WriteFile(path, []byte(`{"torn`), 0o600); err != nil {
		t.Fatal(err)
	}
	f := NewFile(path)
	if err := f.Append(within(t, time.Minute), lines("a", "b")); err != nil {
		t.Fatal(err)
	}
	if err := f.Publish(within(t, time.Minute), []byte("c")); err != nil {
		t.Fatal(err)
	}
	if got := content(t, path); got != "{\"torn\na\nb\nc\n" {
		t.Errorf("%q", got)
	}
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := f.Append(within(t, time.Minute), lines("d")); err != nil {
		t.Fatal(err)
	}
	if got := content(t, path); got != "d\n" {
		t.Errorf("%q", got)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("it is not its owner's alone: %v %v", info.Mode(), err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

// TestFileFull: a disk that is full is an error which says so and does not name the path.
func TestFileFull(t *testing.T) {
	f := NewFile("/dev/full")
	err := f.Append(within(t, time.Minute), lines("a"))
	if !errors.Is(err, syscall.ENOSPC) || strings.Contains(err.Error(), "/dev") {
		t.Errorf("%v", err)
	}
}

// TestFileGone: a directory that is gone is an error, and no more when it is there again.
func TestFileGone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	path := filepath.Join(dir, "events.jsonl")
	f := NewFile(path)
	if err := f.Append(within(t, time.Minute), lines("a")); err == nil {
		t.Fatal("no error")
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := f.Append(within(t, time.Minute), lines("b")); err != nil || content(t, path) != "b\n" {
		t.Errorf("%v", err)
	}
}

// hang puts a FIFO that nobody reads in the place of the file: a disk that does not answer. mend ends that.
func hang(t *testing.T, path string) (mend func()) {
	t.Helper()
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return func() {
		for _, flag := range []int{os.O_RDONLY, os.O_RDWR} { // whoever opens it to write, or to read, goes on
			if r, err := os.OpenFile(path, flag|syscall.O_NONBLOCK, 0); err == nil {
				t.Cleanup(func() { _ = r.Close() })
			}
		}
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
}

// TestFileHangs: whoever writes to a disk that hangs waits no longer than his deadline, nor does closing; and once it does not, it works.
func TestFileHangs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.jsonl")
	mend := hang(t, path)
	f := NewFile(path)
	began := time.Now()
	for range 3 {
		if err := f.Append(within(t, 20*time.Millisecond), lines("a")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
	}
	if err := f.Close(); err == nil {
		t.Error("closed beside a write that hangs")
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
	mend()
	for end := time.Now().Add(10 * time.Second); ; {
		err := f.Append(within(t, time.Second), lines("b"))
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	if !strings.HasSuffix(content(t, path), "b\n") {
		t.Error("it is not there")
	}
}
