package vault

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"tokenbroker/broker"
)

// fullDisk takes no file.
type fullDisk struct{ SpoolFiles }

var errFull = errors.New("no space left on device")

func (fullDisk) Write(context.Context, string, []byte) error { return errFull }

// spooledCommit writes a commit into the directory as a process does that dies behind it.
func spooledCommit(t *testing.T, s *Store) commit {
	t.Helper()
	conn := broker.Connection{ID: testID(0), Tenant: "acme", Generation: 3, Status: broker.ConnectionActive}
	c := commit{id: "commit1", lease: broker.Lease{Tenant: "acme", Connection: conn.ID, Generation: 3, Owner: "x"}, conn: conn}
	release, err := s.spool.keep(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	release()
	return c
}

// TestUnreadableSettledHidesNothing: of a commit's two files the settled one counts, unless it is damaged.
func TestUnreadableSettledHidesNothing(t *testing.T) {
	s := scriptedStore(t, time.Now, nil)
	dir := t.TempDir()
	files, err := openSpoolDir(dir, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	s.spool = openSpool(files, s.seals)
	c := spooledCommit(t, s)
	c.settled = time.Now()
	good, err := s.spool.encode(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, content := range [][]byte{good, nil, []byte("damaged")} {
		if err := os.WriteFile(filepath.Join(dir, c.id+settledSuffix), content, 0o600); err != nil {
			t.Fatal(err)
		}
		ids, settled, err := s.spool.waiting(t.Context())
		if hidden := !slices.Contains(ids, c.id); err != nil || hidden != (len(content) == len(good)) || !slices.Equal(settled, []string{c.id}) {
			t.Errorf("beside a settled file of %d bytes: waiting %q, settled %q, %v", len(content), ids, settled, err)
		}
	}
}

// TestSpoolLeftovers: what a crashed process left half written is cleared away, not what another one may be writing.
func TestSpoolLeftovers(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	for name, age := range map[string]time.Duration{
		".writing-1": 2 * time.Hour, ".probe-1": 2 * time.Hour, ".writing-2": time.Minute, "a.spool": 2 * time.Hour, "b.settled": 2 * time.Hour, "other": 2 * time.Hour,
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, now.Add(-age), now.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	files, err := openSpoolDir(dir, now)
	if err != nil {
		t.Fatal(err)
	}
	names, err := files.List(t.Context())
	if want := []string{".writing-2", "a.spool", "b.settled", "other"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("left: %q, %v; want %q", names, err, want)
	}
}

// TestSpoolState: what waits, since when, what can't be read and what could not be written.
func TestSpoolState(t *testing.T) {
	s := scriptedStore(t, time.Now, func(Step) Result { return Result{Err: errFull} })
	if state, err := s.Spool(t.Context(), true); err != nil || state.Waiting != 0 || state.Failure != nil {
		t.Errorf("without a spool: %+v, %v", state, err)
	}
	dir := t.TempDir()
	files, err := openSpoolDir(dir, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	s.spool = openSpool(files, s.seals)
	c := spooledCommit(t, s)
	since := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(dir, c.id+spoolSuffix), since, since); err != nil {
		t.Fatal(err)
	}
	state, err := s.Spool(t.Context(), true)
	if err != nil || state.Waiting != 1 || state.Oldest.Sub(since).Abs() > time.Second || state.Failure != nil || len(state.Unreadable) != 0 {
		t.Errorf("with one that waits: %+v, %v", state, err)
	}
	if err := os.WriteFile(filepath.Join(dir, c.id+spoolSuffix), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.ReplaySpool(t.Context()); err == nil {
		t.Error("a damaged file was replayed")
	}
	if state, err := s.Spool(t.Context(), false); err != nil || !slices.Equal(state.Unreadable, []string{c.id + spoolSuffix}) || state.Waiting != 1 {
		t.Errorf("with one that is damaged: %+v, %v", state, err)
	}

	var counted []Counted
	s.cfg.Count = func(what Counted) { counted = append(counted, what) }
	s.spool.files = fullDisk{files}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, _ = s.CommitRefresh(ctx, c.lease, c.conn, "", broker.Grant{RefreshToken: broker.NewSecret("r")}, nil)
	if state, err := s.Spool(t.Context(), false); err != nil || !errors.Is(state.Failure, errFull) || !slices.Equal(counted, []Counted{CountSpoolFailed}) {
		t.Errorf("on a full disk: %+v, %v, counted %q", state, err, counted)
	}
	s.spool.files = files
	if state, err := s.Spool(t.Context(), true); err != nil || state.Failure != nil {
		t.Errorf("with room again: %+v, %v", state, err)
	}
}

// TestCheckSpoolDir: whether it can be written to, or made, is found out without making it.
func TestCheckSpoolDir(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, good := range map[string]bool{dir: true, filepath.Join(dir, "a", "b"): true, file: false, filepath.Join(file, "a"): false, "/proc/a": false} {
		if err := CheckSpoolDir(path); (err == nil) != good {
			t.Errorf("%s: %v", path, err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}
