package broker

import (
	"testing"
	"time"
)

// A clock that was an hour ahead when a refresh failed keeps nobody from the next refresh for an hour.
func TestRetryOfWrongClock(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		name           string
		failing, retry time.Duration // from now; 0: not set
		want           time.Duration
	}{
		{"none", 0, 0, 0},
		{"over", -time.Minute, -time.Second, 0},
		{"soon", -time.Minute, 20 * time.Second, 20 * time.Second},
		{"as long as a provider may ask", -time.Minute, 10 * time.Minute, 10 * time.Minute},
		{"further away than any pause", -time.Minute, time.Hour, 0},
		{"of a failure still to come", 40 * time.Minute, 40*time.Minute + time.Second, 0},
		{"soon, of a failure still to come", time.Minute, 2 * time.Minute, 0},
	} {
		var conn Connection
		if test.failing != 0 {
			conn.FailingSince, conn.RetryAt = now.Add(test.failing), now.Add(test.retry)
		}
		if got := conn.retryIn(now); got != test.want {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}
