package redisstore

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/redis/go-redis/v9"
)

// LogTo makes go-redis report about its connections there, at level debug, instead of on stderr. go-redis has one logger for the
// whole process, so it is for the program to call this, once, at its start.
func LogTo(log *slog.Logger) { redis.SetLogger(connectionLog{log}) }

type connectionLog struct{ log *slog.Logger }

func (l connectionLog) Printf(ctx context.Context, format string, args ...any) {
	if l.log.Enabled(ctx, slog.LevelDebug) {
		l.log.DebugContext(ctx, "redis connection", "detail", fmt.Sprintf(format, args...))
	}
}
