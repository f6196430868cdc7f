package redisstore

import (
	"context"

	"github.com/redis/go-redis/v9"

	"tokenbroker/vault"
)

var (
	_ vault.Lists   = (*Store)(nil)
	_ vault.Trimmer = (*Store)(nil)
)

// AppendLists implements vault.Lists.
func (s *Store) AppendLists(ctx context.Context, pieces []vault.ListPiece) error {
	_, err := pipelined(ctx, s, pieces,
		func(pipe redis.Pipeliner, p vault.ListPiece) *redis.IntCmd { return pipe.Append(ctx, p.Key, p.Bytes) },
		func(cmd *redis.IntCmd) (int64, error) { return cmd.Val(), cmd.Err() })
	return err
}

// ListLengths implements vault.Lists.
func (s *Store) ListLengths(ctx context.Context, keys []string) ([]int64, error) {
	return pipelined(ctx, s, keys,
		func(pipe redis.Pipeliner, key string) *redis.IntCmd { return pipe.StrLen(ctx, key) },
		func(cmd *redis.IntCmd) (int64, error) { return cmd.Val(), cmd.Err() })
}

// ListHeads implements vault.Lists.
func (s *Store) ListHeads(ctx context.Context, heads []vault.ListHead) ([]string, error) {
	return pipelined(ctx, s, heads,
		func(pipe redis.Pipeliner, h vault.ListHead) *redis.StringCmd {
			return pipe.GetRange(ctx, h.Key, 0, h.Length-1)
		},
		func(cmd *redis.StringCmd) (string, error) { return cmd.Val(), cmd.Err() })
}

// StreamLengths implements vault.Trimmer.
func (s *Store) StreamLengths(ctx context.Context, keys []string) ([]int64, error) {
	return pipelined(ctx, s, keys,
		func(pipe redis.Pipeliner, key string) *redis.IntCmd { return pipe.XLen(ctx, key) },
		func(cmd *redis.IntCmd) (int64, error) { return cmd.Val(), cmd.Err() })
}

// DeleteLists implements vault.Trimmer.
func (s *Store) DeleteLists(ctx context.Context, keys []string) error {
	_, err := pipelined(ctx, s, keys,
		func(pipe redis.Pipeliner, key string) *redis.IntCmd { return pipe.Del(ctx, key) },
		func(cmd *redis.IntCmd) (int64, error) { return cmd.Val(), cmd.Err() })
	return err
}
