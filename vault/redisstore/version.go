package redisstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// CheckVersion names what servers of these versions can't do that was asked for or that others can, each with what is lost by it. An error that
// is ErrRefused: one of them is so old that nothing works. A server that does not tell its version (INFO is forbidden) has no trouble here.
func (s *Store) CheckVersion(ctx context.Context) (lost []string, err error) {
	var mu sync.Mutex
	var refused []error
	err = s.eachMaster(ctx, func(ctx context.Context, node redis.UniversalClient) error {
		info, err := sections(ctx, node, "server")
		if err != nil {
			return err
		}
		some, err := lostBy(info["redis_version"], s.wait.disk)
		mu.Lock()
		defer mu.Unlock()
		lost = append(lost, some...)
		if err != nil {
			refused = append(refused, err)
		}
		return nil
	})
	switch {
	case len(refused) > 0:
		return nil, refused[0]
	case err != nil:
		return nil, fmt.Errorf("redis does not tell its version: %w", s.advised(err))
	}
	slices.Sort(lost)
	return slices.Compact(lost), nil
}

// lostBy is what a server of that version does not do. disk: redis_wait.disk is asked for.
func lostBy(version string, disk bool) (lost []string, err error) {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 {
		return nil, nil
	}
	major, err1 := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(parts[1])
	if errors.Join(err1, err2) != nil {
		return nil, nil
	}
	before := func(a, b int) bool { return major < a || major == a && minor < b }
	if before(5, 0) {
		// Scripts that ask for the time may not write there.
		return nil, fmt.Errorf("%w: its version is %s, and nothing works before 5.0; take 7.2 or newer", ErrRefused, version)
	}
	if before(7, 0) {
		lost = append(lost, "its version "+version+" does not tell what its user may do (before 7.0), so a right that is missing shows in the middle of a step and not before it; take 7.2 or newer")
	}
	if before(7, 2) && disk {
		lost = append(lost, "its version "+version+" does not tell what is on disks (WAITAOF, from 7.2 on), so redis_wait waits for the memory of replicas alone, and disk: true has no effect; take 7.2 or newer")
	}
	return lost, nil
}
