package sinks

import (
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestArchiveClears: what a process that was killed has left of a file goes with the next one; what somebody may be writing, and all else, stays.
func TestArchiveClears(t *testing.T) {
	dir := t.TempDir()
	old := time.Now().Add(-2 * abandoned)
	for name, at := range map[string]time.Time{".archive-1": old, ".archive-2": time.Now(), "trail-1.jsonl.zst": old, "notes": old} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	err := Archives{Dir: dir}.Make(t.Context(), "trail-2", func(w io.Writer) error {
		_, err := w.Write([]byte("y"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	found, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range found {
		names = append(names, f.Name())
	}
	if len(names) != 4 || names[0] != ".archive-2" || names[1] != "notes" || names[2] != "trail-1.jsonl.zst" || names[3] != "trail-2.jsonl.zst" {
		t.Errorf("there are %q", names)
	}
}
