package vault

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// ReadKeysetFile reads a keyset file. It refuses one that others than its owner can read.
func ReadKeysetFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read keyset file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read keyset file: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("keyset file %s can be read by others than its owner (mode %04o): run chmod 600 %s", path, info.Mode().Perm(), path)
	}
	const limit = 64 << 20 // of a tenant it takes some 2 KiB
	content, err := io.ReadAll(io.LimitReader(f, limit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read keyset file: %w", err)
	case len(content) == 0:
		return nil, fmt.Errorf("keyset file %s is empty: make one with `tokenbroker keyset create`", path)
	case len(content) > limit:
		return nil, fmt.Errorf("keyset file %s is no keyset: it is larger than 64 MiB", path)
	}
	return content, nil
}

// CreateKeysetFile writes a new keyset file, for its owner alone. It never overwrites one: with the keys would go
// everything that they sealed.
func CreateKeysetFile(path string, content []byte) error {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s exists already: choose another name, or add a key to it (`tokenbroker keyset rotate`; for keys that sign, `tokenbroker audit key --rotate`)", path)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write keyset file: %w", err)
	}
	return writeKeysetFile(path, content, os.Link)
}

// ReplaceKeysetFile exchanges a keyset file for its new content, made from was, at once: readers see the old or the new one, whole. It
// refuses if the file is not was any more, or somebody else is just about to replace it: of two changes at once none is lost.
func ReplaceKeysetFile(path string, was, content []byte) error {
	lock := path + ".lock"
	f, err := os.OpenFile(lock, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	switch {
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("another command is changing %s, which is why there is %s: try again; if none runs, one was killed: remove %s", path, lock, lock)
	case err != nil:
		return fmt.Errorf("write keyset file: %w", err)
	}
	defer os.Remove(lock)
	_ = f.Close()
	now, err := ReadKeysetFile(path)
	if err != nil {
		return err
	}
	if !bytes.Equal(now, was) {
		return fmt.Errorf("%s was changed by somebody else meanwhile, and stays as it is now: try again", path)
	}
	return writeKeysetFile(path, content, os.Rename)
}

// writeKeysetFile writes beside the file and puts the result in place: link fails where there is a file already.
func writeKeysetFile(path string, content []byte, place func(from, to string) error) error {
	temp, err := writeTemp(filepath.Dir(path), ".keyset-*", content)
	if err != nil {
		return fmt.Errorf("write keyset file: %w", err)
	}
	defer os.Remove(temp)
	if err := place(temp, path); err != nil {
		return fmt.Errorf("write keyset file: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

// writeTemp writes a new file with mode 0600 and waits until the disk has it.
func writeTemp(dir, pattern string, content []byte) (path string, err error) {
	f, err := os.CreateTemp(dir, pattern)
	if err != nil {
		return "", err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}

// syncDir makes a rename in the directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	err = d.Sync()
	if closeErr := d.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return nil
}
