package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// replicaFile is the file in spool_dir that names the replica which has it.
const replicaFile = ".replica"

// maxReplicaID bounds what is read of it; ours are shorter.
const maxReplicaID = 128

// succession takes back the heartbeat of the process that had this spool_dir before us and was killed: what it left is ours now, so
// nobody need start it again. Without that it would be called silent for an hour after it is back.
type succession struct {
	dir, id string
	end     func(ctx context.Context, id string) error
	done    bool
}

// settle does it once; an error is tried again with the next beat. A crash between the two steps repeats the first, which then
// finds nothing.
func (s *succession) settle(ctx context.Context) error {
	if s.done || s.dir == "" {
		return nil
	}
	path := filepath.Join(s.dir, replicaFile)
	before, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read who had spool_dir before: %w", err)
	}
	if id := strings.TrimSpace(string(before)); id != "" && id != s.id && len(id) <= maxReplicaID {
		if err := s.end(ctx, id); err != nil {
			return fmt.Errorf("take back the heartbeat of who had spool_dir before: %w", err)
		}
	}
	if err := os.WriteFile(path, []byte(s.id+"\n"), 0o600); err != nil {
		return fmt.Errorf("say who has spool_dir: %w", err)
	}
	s.done = true
	return nil
}
