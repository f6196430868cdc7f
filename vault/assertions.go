package vault

import (
	"context"
	"encoding/base64"
	"fmt"
	"strconv"
	"time"

	"tokenbroker/broker"
)

var _ broker.UsedAssertions = (*Store)(nil)

// fieldUsedBy, of a token that was used (usedTokenKey), is a text of whoever did: a step whose answer was lost is known by it.
const fieldUsedBy = "by"

// usedToken is where it is noted. Nothing of it is stored but a keyed hash.
func (s *Store) usedToken(t broker.UsedToken) string {
	tag := s.seals.hash(18, "used-token", t.Tenant, t.Issuer, t.ID)
	return usedTokenKey(tag[0], base64.RawURLEncoding.EncodeToString(tag))
}

// Use implements broker.UsedAssertions. A failover may lose it, as the store's replicas are behind: a token is then usable again for what
// is left of its life.
func (s *Store) Use(ctx context.Context, token broker.UsedToken, until time.Time) (receipt string, err error) {
	by, err := s.randomID()
	if err != nil {
		return "", err
	}
	key := s.usedToken(token)
	life := max(time.Second, until.Sub(s.cfg.Now()))
	r, err := s.trails.direct(ctx, Step{
		Checks: []Check{{Key: key, Field: fieldUsedBy, Kind: CheckApplied, Value: by}, {Key: key, Field: fieldUsedBy, Kind: CheckAbsent}},
		Writes: []Write{
			{Kind: WriteHashSet, Key: key, Args: []string{fieldUsedBy, by}},
			{Kind: WriteExpireIn, Key: key, Args: []string{strconv.FormatInt(life.Milliseconds(), 10)}},
		},
	})
	if err != nil {
		return by, fmt.Errorf("note that a token was used: %w", err)
	}
	if r.Verdict == VerdictRefused {
		return by, fmt.Errorf("token used before: %w", broker.ErrConflict)
	}
	return by, nil
}

// Unuse implements broker.UsedAssertions. Another's use, which may have come between two attempts of this, stays.
func (s *Store) Unuse(ctx context.Context, token broker.UsedToken, receipt string) error {
	key := s.usedToken(token)
	if _, err := s.trails.direct(ctx, Step{
		Checks: []Check{{Key: key, Field: fieldUsedBy, Kind: CheckEqual, Value: receipt}}, Writes: []Write{{Kind: WriteDelete, Key: key}},
	}); err != nil {
		return fmt.Errorf("note that a token was not used: %w", err)
	}
	return nil
}

// TokenSeed makes the key of the broker's own access tokens in a period: it follows from the index key, which all replicas have and no
// rotation changes.
func (k *Keyset) TokenSeed(period int64) (seed [32]byte) {
	k.current.Load().index.sum(seed[:0], len(seed), "access-token-key", strconv.FormatInt(period, 10))
	return seed
}
