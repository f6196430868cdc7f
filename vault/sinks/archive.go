package sinks

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/zstd"
)

// archiveEnd is what names of archives end in: JSON Lines, compressed with Zstandard (RFC 8878), which its own frames check for damage.
const archiveEnd = ".jsonl.zst"

// unfinished is how a file is named while it is written.
const unfinished = ".archive-*"

// Archives makes files in a directory.
type Archives struct{ Dir string }

// Make makes a file of what write writes. It returns when the disk has it, whole and under its name; after an error there is none.
func (a Archives) Make(_ context.Context, name string, write func(io.Writer) error) error {
	if err := os.MkdirAll(a.Dir, 0o700); err != nil {
		return fmt.Errorf("the archive's directory can't be made: %w", bare(err))
	}
	a.clear(time.Now().Add(-abandoned))
	return WriteArchive(filepath.Join(a.Dir, name+archiveEnd), write)
}

// abandoned is how long a file that is not whole is left alone: nobody writes to one for so long.
const abandoned = time.Hour

// clear removes what processes that were killed have left of files, in clear. What can't be removed stays.
func (a Archives) clear(before time.Time) {
	left, _ := filepath.Glob(filepath.Join(a.Dir, unfinished))
	for _, path := range left {
		if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() && info.ModTime().Before(before) {
			_ = os.Remove(path)
		}
	}
}

// WriteArchive makes a compressed file, for its owner alone, that must not be there. It is not seen under its name before it is whole.
func WriteArchive(path string, write func(io.Writer) error) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, unfinished)
	if err != nil {
		return fmt.Errorf("the archive can't be written: %w", bare(err))
	}
	defer func() { _ = os.Remove(f.Name()) }()
	packed, err := zstd.NewWriter(f, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(true))
	if err == nil {
		if err = write(packed); err == nil {
			err = packed.Close()
		}
	}
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Link(f.Name(), path) // which fails where there is one
	}
	if err != nil {
		return fmt.Errorf("the archive can't be written: %w", bare(err))
	}
	d, err := os.Open(dir)
	if err == nil {
		err = d.Sync()
		_ = d.Close()
	}
	if err != nil {
		return fmt.Errorf("the archive can't be written: %w", bare(err))
	}
	return nil
}

// maxWindow bounds the memory that unpacking takes, whatever a file says.
const maxWindow = 64 << 20

// ReadArchive unpacks.
func ReadArchive(from io.Reader) (io.ReadCloser, error) {
	d, err := zstd.NewReader(from, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, fmt.Errorf("unpack: %w", err)
	}
	return d.IOReadCloser(), nil
}
