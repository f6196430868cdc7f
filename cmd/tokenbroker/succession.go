package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
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
	entered bool
	done    bool
}

// maxPredecessors bounds those that were killed one behind the other before they settled.
const maxPredecessors = 64

// enter adds this process to those that spool_dir had, once: should it be killed before it settles, whoever has it next knows of both.
func (s *succession) enter() error {
	if s.entered || s.dir == "" {
		return nil
	}
	ids, err := s.had()
	if err != nil {
		return err
	}
	if !slices.Contains(ids, s.id) {
		ids = append(ids, s.id)
	}
	if err := s.write(ids[max(0, len(ids)-maxPredecessors):]); err != nil {
		return err
	}
	s.entered = true
	return nil
}

// settle ends those that had it before, once; an error is tried again with the next beat. A crash between the two steps repeats the
// first, which then finds nothing.
func (s *succession) settle(ctx context.Context) error {
	if s.done || s.dir == "" {
		return nil
	}
	ids, err := s.had()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if id == s.id {
			continue
		}
		if err := s.end(ctx, id); err != nil {
			return fmt.Errorf("take back the heartbeat of who had spool_dir before: %w", err)
		}
	}
	if err := s.write([]string{s.id}); err != nil {
		return err
	}
	s.done = true
	return nil
}

// had are the ids of those that had spool_dir, one a line, the oldest first.
func (s *succession) had() (ids []string, err error) {
	text, err := os.ReadFile(filepath.Join(s.dir, replicaFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read who had spool_dir before: %w", err)
	}
	for _, id := range strings.Fields(string(text)) {
		if len(id) <= maxReplicaID {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func (s *succession) write(ids []string) error {
	if err := os.WriteFile(filepath.Join(s.dir, replicaFile), []byte(strings.Join(ids, "\n")+"\n"), 0o600); err != nil {
		return fmt.Errorf("say who has spool_dir: %w", err)
	}
	return nil
}
