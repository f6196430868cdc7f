package sinks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// File appends lines to a file and waits until the disk has them. It is safe for concurrent use.
type File struct {
	path string

	// turn holds a value while somebody writes: a disk that hangs must not hold up more than the deadline of who asks.
	turn chan struct{}

	mu   sync.Mutex
	open *os.File
	torn bool // its last line lacks its end
}

// NewFile makes one. The file is made, for its owner alone, with the first line.
func NewFile(path string) *File { return &File{path: path, turn: make(chan struct{}, 1)} }

// Name is for operators.
func (f *File) Name() string { return "file " + filepath.Base(f.path) }

// Publish appends one line.
func (f *File) Publish(ctx context.Context, line []byte) error { return f.Append(ctx, [][]byte{line}) }

// Append appends lines, which have no line feed, with one write and one sync. After an error they may be there, whole or in part; a torn line
// gets its end before the next one.
func (f *File) Append(ctx context.Context, lines [][]byte) error {
	if len(lines) == 0 {
		return nil
	}
	select {
	case f.turn <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("write to %s: a write before it hangs: %w", f.Name(), ctx.Err())
	}
	done := make(chan error, 1)
	go func() { // ends with the system call; the next write waits for it, up to its own deadline
		err := f.write(lines)
		<-f.turn
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("write to %s: %w", f.Name(), ctx.Err())
	}
}

func (f *File) write(lines [][]byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.reopen(); err != nil {
		return fmt.Errorf("write to %s: %w", f.Name(), bare(err))
	}
	var b []byte
	if f.torn {
		b = append(b, '\n')
	}
	for _, line := range lines {
		b = append(append(b, line...), '\n')
	}
	_, err := f.open.Write(b)
	if err == nil {
		err = f.open.Sync()
	}
	f.torn = false
	if err != nil { // what is there of it shows when it is opened again
		_ = f.open.Close()
		f.open = nil
		return fmt.Errorf("write to %s: %w", f.Name(), bare(err))
	}
	return nil
}

// reopen opens the file anew where it was moved away, as log rotation does.
func (f *File) reopen() error {
	if f.open != nil {
		have, err1 := f.open.Stat()
		there, err2 := os.Stat(f.path)
		if err1 == nil && err2 == nil && os.SameFile(have, there) {
			return nil
		}
		_ = f.open.Close()
		f.open = nil
	}
	file, err := os.OpenFile(f.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(f.path))
	if err == nil {
		err = dir.Sync() // its name is to stay too
		_ = dir.Close()
	}
	if err != nil {
		_ = file.Close()
		return err
	}
	if f.torn, err = endsTorn(f.path); err != nil {
		_ = file.Close()
		return err
	}
	f.open = file
	return nil
}

// endsTorn tells whether the file's last line lacks its end, as a crash leaves it.
func endsTorn(path string) (bool, error) {
	r, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer func() { _ = r.Close() }()
	info, err := r.Stat()
	if err != nil || info.Size() == 0 {
		return false, err
	}
	last := make([]byte, 1)
	if _, err := r.ReadAt(last, info.Size()-1); err != nil {
		return false, err
	}
	return last[0] != '\n', nil
}

// closePatience is how long closing waits for a write that is under way.
const closePatience = time.Second

// Close closes the file, unless a write hangs.
func (f *File) Close() error {
	late := time.NewTimer(closePatience)
	defer late.Stop()
	select {
	case f.turn <- struct{}{}:
		defer func() { <-f.turn }()
	case <-late.C:
		return fmt.Errorf("close %s: a write hangs", f.Name())
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open == nil {
		return nil
	}
	err := f.open.Close()
	f.open = nil
	return err
}

// bare is the error without the path, which is the machine's own business.
func bare(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}
