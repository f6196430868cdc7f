package vault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// SpoolFiles is the disk of the spool: small files under plain names, of ciphertext. Every method is safe for concurrent use.
type SpoolFiles interface {
	// Write makes a file of that name, whole or not at all, and returns when a crash of the machine can't take it away any
	// more. Where there is one already it has the same content, is left as it is, and is certain to last on return too.
	Write(ctx context.Context, name string, content []byte) error
	// Read returns the content; fs.ErrNotExist if there is no such file.
	Read(ctx context.Context, name string) ([]byte, error)
	// Remove deletes the file; no error if there is none. It need not be durable: a file that comes back is replayed in vain.
	Remove(ctx context.Context, name string) error
	// List names the files. There may be others among them than those that Write was asked for.
	List(ctx context.Context) ([]string, error)
}

// spoolDir is SpoolFiles in a directory. The operating system offers no deadline for any of it.
type spoolDir string

// openSpoolDir makes the directory if it is absent.
func openSpoolDir(path string) (spoolDir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return "", fmt.Errorf("make spool directory: %w", err)
	}
	// Found out now rather than when a token has to be kept.
	probe, err := writeTemp(path, ".probe-*", nil)
	if err != nil {
		return "", fmt.Errorf("spool directory %s can't be written to: %w", path, err)
	}
	if err := os.Remove(probe); err != nil {
		return "", fmt.Errorf("spool directory: %w", err)
	}
	return spoolDir(path), nil
}

func (d spoolDir) path(name string) string { return filepath.Join(string(d), name) }

// Write implements SpoolFiles.
func (d spoolDir) Write(_ context.Context, name string, content []byte) error {
	if _, err := os.Stat(d.path(name)); err == nil {
		return syncDir(string(d)) // kept by an attempt before, which may not have come that far
	}
	temp, err := writeTemp(string(d), ".writing-*", content)
	if err != nil {
		return err
	}
	if err := os.Rename(temp, d.path(name)); err != nil {
		_ = os.Remove(temp)
		return err
	}
	return syncDir(string(d))
}

// Read implements SpoolFiles.
func (d spoolDir) Read(_ context.Context, name string) ([]byte, error) {
	return os.ReadFile(d.path(name))
}

// Remove implements SpoolFiles.
func (d spoolDir) Remove(_ context.Context, name string) error {
	if err := os.Remove(d.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// List implements SpoolFiles.
func (d spoolDir) List(context.Context) ([]string, error) {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}
