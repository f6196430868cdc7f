package broker

import "time"

// This file holds what min_ttl asks for, and what a provider's tokens can give.

// slack is what a token that was just made may fall short of its lifetime by: the provider counts from when it made it, we count
// from when we asked, and callers who ask for the whole lifetime mean a new token. A tenth of its life, ten seconds at most.
func slack(lifetime time.Duration) time.Duration { return min(lifetime/10, 10*time.Second) }

// meets tells whether a token that was just made, and has so much left, lives as long as the caller asked.
func meets(left, lifetime, minTTL time.Duration) bool {
	return left > 0 && (left >= minTTL || lifetime >= minTTL && left >= minTTL-slack(lifetime))
}

// reach is what the newest of the connection's tokens had left when it came: its lifetime, less the time that the provider took.
func (c Connection) reach() time.Duration {
	var left time.Duration
	for _, t := range c.Tokens {
		left = max(left, t.ExpiresAt.Sub(c.LastRefreshed))
	}
	return min(left, c.Lifetime)
}

// most is the longest min_ttl that the connection's tokens meet, as far as the last refresh showed.
func (c Connection) most() time.Duration {
	if meets(c.reach(), c.Lifetime, c.Lifetime) {
		return c.Lifetime
	}
	return c.reach()
}

// hope counts refreshes that are tried although the one before gave a token that lives too short.
type hope struct {
	since time.Time
	n     int
}

const (
	hopesAMinute = 4
	maxHopes     = 10_000 // connections remembered
)

// mayHope lets a few such refreshes through: a provider may have changed its mind, and what it gave for want of a readable
// lifetime says little. A caller that keeps asking for too much must not turn into a stream of refreshes.
func (r *refresher) mayHope(connection string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.s.cfg.Now()
	h := r.hopes[connection]
	if now.Sub(h.since) > time.Minute {
		h = hope{since: now}
	}
	if h.n++; h.n > hopesAMinute {
		return false
	}
	if len(r.hopes) >= maxHopes {
		clear(r.hopes)
	}
	r.hopes[connection] = h
	return true
}
