package vault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
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

// The beginnings of names that files have for a moment only.
const (
	writingPrefix = ".writing-"
	probePrefix   = ".probe-"
	// leftAfter is from when on such a file is one that a crash left: no write takes so long, also not of another process
	// with the same directory.
	leftAfter = time.Hour
)

// openSpoolDir makes the directory if it is absent, and clears away what crashes left in it.
func openSpoolDir(path string, now time.Time) (spoolDir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return "", fmt.Errorf("make spool directory: %w", err)
	}
	// Found out now rather than when a token has to be kept.
	d := spoolDir(path)
	if err := d.Probe(context.Background()); err != nil {
		return "", fmt.Errorf("spool directory %s can't be written to: %w", path, err)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return "", fmt.Errorf("read spool directory: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), writingPrefix) && !strings.HasPrefix(e.Name(), probePrefix) {
			continue
		}
		if info, err := e.Info(); err == nil && now.Sub(info.ModTime()) > leftAfter {
			_ = os.Remove(d.path(e.Name())) // it only takes room
		}
	}
	return d, nil
}

// CheckSpoolDir tells whether the directory can be written to, or made. It leaves nothing behind.
func CheckSpoolDir(path string) error {
	made := path
	for {
		info, err := os.Stat(made)
		switch {
		case err == nil && !info.IsDir():
			return fmt.Errorf("%s is not a directory", made)
		case err == nil && made == path:
			return spoolDir(path).Probe(context.Background())
		case err == nil:
			probe, err := os.MkdirTemp(made, probePrefix+"*")
			if err != nil {
				return err
			}
			return os.Remove(probe)
		case !errors.Is(err, fs.ErrNotExist) || filepath.Dir(made) == made:
			return err
		}
		made = filepath.Dir(made)
	}
}

// probeSize is more than a token's file takes: an empty file fits on a full disk.
const probeSize = 16 << 10

// Probe writes a file and removes it.
func (d spoolDir) Probe(context.Context) error {
	path, err := writeTemp(string(d), probePrefix+"*", make([]byte, probeSize))
	if err != nil {
		return err
	}
	return os.Remove(path)
}

// Written tells when the file was written; fs.ErrNotExist if there is no such file.
func (d spoolDir) Written(_ context.Context, name string) (time.Time, error) {
	info, err := os.Stat(d.path(name))
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

func (d spoolDir) path(name string) string { return filepath.Join(string(d), name) }

// Write implements SpoolFiles.
func (d spoolDir) Write(_ context.Context, name string, content []byte) error {
	if _, err := os.Stat(d.path(name)); err == nil {
		return syncDir(string(d)) // kept by an attempt before, which may not have come that far
	}
	temp, err := writeTemp(string(d), writingPrefix+"*", content)
	if err != nil {
		return err
	}
	if err := os.Rename(temp, d.path(name)); err != nil {
		_ = os.Remove(temp)
		return err
	}
	return syncDir(string(d))
}

// Replace writes the file in the place of the one that is there, as Write would. One that was removed meanwhile comes back.
func (d spoolDir) Replace(_ context.Context, name string, content []byte) error {
	temp, err := writeTemp(string(d), writingPrefix+"*", content)
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
