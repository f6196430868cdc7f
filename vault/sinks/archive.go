package sinks

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
)

// archiveEnd is what names of archives end in: JSON Lines, compressed with Zstandard (RFC 8878), which its own frames check for damage.
const archiveEnd = ".jsonl.zst"

// Archives makes files in a directory.
type Archives struct{ Dir string }

// Make makes a file of what write writes. It returns when the disk has it, whole and under its name; after an error there is none.
func (a Archives) Make(_ context.Context, name string, write func(io.Writer) error) error {
	if err := os.MkdirAll(a.Dir, 0o700); err != nil {
		return fmt.Errorf("the archive's directory can't be made: %w", bare(err))
	}
	return WriteArchive(filepath.Join(a.Dir, name+archiveEnd), write)
}

// WriteArchive makes a compressed file, for its owner alone, that must not be there. It is not seen under its name before it is whole.
func WriteArchive(path string, write func(io.Writer) error) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".archive-*")
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
