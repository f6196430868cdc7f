package redisstore

import (
	"context"
	"fmt"
	"strconv"
	"sync"

	"github.com/redis/go-redis/v9"
)

// Fullness tells how much of its memory limit the fullest master uses: 0 to 1 and a little more; 0 where there is no limit,
// or the server does not tell.
func (s *Store) Fullness(ctx context.Context) (float64, error) {
	var mu sync.Mutex
	var fullest float64
	err := s.eachMaster(ctx, func(ctx context.Context, node redis.UniversalClient) error {
		memory, err := sections(ctx, node, "memory")
		if err != nil {
			return err
		}
		used, err1 := strconv.ParseFloat(memory["used_memory"], 64)
		most, err2 := strconv.ParseFloat(memory["maxmemory"], 64)
		if err1 != nil || err2 != nil || most <= 0 {
			return nil
		}
		// What Redis leaves out when it decides whether its memory is full: buffers of replicas and of the append-only file.
		if aside, err := strconv.ParseFloat(memory["mem_not_counted_for_evict"], 64); err == nil {
			used -= aside
		}
		mu.Lock()
		defer mu.Unlock()
		fullest = max(fullest, used/most)
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("ask redis for its memory: %w", clean(err))
	}
	return fullest, nil
}
