package sinks

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// probe is how a file is named that is made to see whether one can be, probeSize more than it takes to see a disk that is full.
const (
	probe     = ".probe-*"
	probeSize = 4096
)

// TryFile tells whether lines could be appended to the file, as NewFile's does it. It leaves nothing behind, and neither makes the file nor
// opens what is no file, such as a pipe.
func TryFile(ctx context.Context, path string) error {
	return bounded(ctx, func() error {
		info, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return tryDir(filepath.Dir(path))
		case err != nil:
			return bare(err)
		case info.IsDir():
			return errors.New("it is a directory")
		case !info.Mode().IsRegular():
			return nil
		}
		f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND, 0)
		if err != nil {
			return bare(err)
		}
		return f.Close()
	})
}

// TryArchives tells whether files could be made in the directory; made: there is none yet, and it is made with the first file.
func TryArchives(ctx context.Context, dir string) (made bool, err error) {
	err = bounded(ctx, func() error {
		for at := dir; ; at = filepath.Dir(at) {
			if _, err := os.Stat(at); errors.Is(err, fs.ErrNotExist) && filepath.Dir(at) != at {
				continue
			}
			made = at != dir
			return tryDir(at)
		}
	})
	return made && err == nil, err
}

func tryDir(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("the directory does not exist")
	case err != nil:
		return bare(err)
	case !info.IsDir():
		return errors.New("what it should lie in is no directory")
	}
	f, err := os.CreateTemp(dir, probe)
	if err != nil {
		return bare(err)
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.Write(make([]byte, probeSize))
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return bare(err)
}

// bounded carries out what a disk that hangs must not make anybody wait for: then it ends with its system call.
func bounded(ctx context.Context, do func() error) error {
	done := make(chan error, 1)
	go func() { done <- do() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("the disk does not answer: %w", ctx.Err())
	}
}
