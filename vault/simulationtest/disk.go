package simulationtest

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"time"
)

// disk is what a replica's processes have under their spool directory, one after the other.
type disk struct {
	names []string // in the order in which they were written
	files map[string][]byte
	// removed since the last start: after a crash of the machine they may be there again.
	removed []removedFile
}

type removedFile struct {
	name    string
	content []byte
}

func newDisk() *disk { return &disk{files: make(map[string][]byte)} }

// reappear brings back what was removed and is on the medium still.
func (d *disk) reappear() int {
	n := len(d.removed)
	for _, f := range d.removed {
		d.put(f.name, f.content)
	}
	d.removed = nil
	return n
}

func (d *disk) put(name string, content []byte) {
	if _, there := d.files[name]; !there {
		d.names = append(d.names, name)
	}
	d.files[name] = content
}

// spoolFiles is the way of one process to its disk. Calls to a disk have no deadline.
type spoolFiles struct{ proc *process }

var errDisk = errors.New("simulated: no space left on the disk")

func (s spoolFiles) ask(ctx context.Context, c call, what string, run func() error) error {
	var failure error
	conn := -1
	storing, _ := ctx.Value(committingKey{}).(*committing)
	if storing != nil {
		conn = storing.conn
	}
	g := &gate{call: c, who: whoOf(ctx), conn: conn}
	g.what = func() string { return what }
	g.run = func(o outcome) {
		if o.fault != faultNone {
			failure = errDisk
			if storing != nil && storing.token != nil {
				storing.token.unkept = true
			}
			return
		}
		failure = run()
	}
	if err := s.proc.ask(context.Background(), g); err != nil {
		return err
	}
	return failure
}

// Write implements vault.SpoolFiles.
func (s spoolFiles) Write(ctx context.Context, name string, content []byte) error {
	d, w := s.proc.disk, s.proc.world
	c, _ := ctx.Value(committingKey{}).(*committing)
	return s.ask(ctx, callKeep, "keep a commit", func() error {
		if _, there := d.files[name]; !there {
			d.put(name, slices.Clone(content))
		}
		if c != nil && strings.HasSuffix(name, ".spool") {
			w.spooledFiles[strings.TrimSuffix(name, ".spool")] = c
			if c.token != nil && c.token.spooled.IsZero() {
				c.token.spooled = time.Now()
			}
		}
		return nil
	})
}

// Read implements vault.SpoolFiles.
func (s spoolFiles) Read(ctx context.Context, name string) (content []byte, err error) {
	err = s.ask(ctx, callLoad, "load a commit", func() error {
		file, there := s.proc.disk.files[name]
		if !there {
			return fs.ErrNotExist
		}
		content = file
		return nil
	})
	return content, err
}

// Remove implements vault.SpoolFiles.
func (s spoolFiles) Remove(ctx context.Context, name string) error {
	d, w := s.proc.disk, s.proc.world
	return s.ask(ctx, callRemove, "drop a commit", func() error {
		w.removed(name)
		if content, there := d.files[name]; there {
			d.removed = append(d.removed, removedFile{name, content})
			delete(d.files, name)
			d.names = slices.DeleteFunc(d.names, func(n string) bool { return n == name })
		}
		return nil
	})
}

// List implements vault.SpoolFiles: in the order of writing, so that it does not depend on names, which are hashes.
func (s spoolFiles) List(ctx context.Context) (names []string, err error) {
	err = s.ask(ctx, callLoad, "list commits", func() error {
		names = slices.Clone(s.proc.disk.names)
		return nil
	})
	return names, err
}
