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

// usedToken is where a token of that issuer lies. Neither is stored: a keyed hash of both is.
func (s *Store) usedToken(issuer, id string) string {
	tag := s.seals.hash(18, "used-token", issuer, id)
	return usedTokenKey(tag[0], base64.RawURLEncoding.EncodeToString(tag))
}

// Use implements broker.UsedAssertions. A failover may lose it, as the store's replicas are behind: a token is then usable again for what
// is left of its life.
func (s *Store) Use(ctx context.Context, issuer, id string, until time.Time) error {
	by, err := s.randomID()
	if err != nil {
		return err
	}
	key := s.usedToken(issuer, id)
	life := max(time.Second, until.Sub(s.cfg.Now()))
	r, err := s.trails.direct(ctx, Step{
		Checks: []Check{{Key: key, Field: fieldUsedBy, Kind: CheckApplied, Value: by}, {Key: key, Field: fieldUsedBy, Kind: CheckAbsent}},
		Writes: []Write{
			{Kind: WriteHashSet, Key: key, Args: []string{fieldUsedBy, by}},
			{Kind: WriteExpireIn, Key: key, Args: []string{strconv.FormatInt(life.Milliseconds(), 10)}},
		},
	})
	if err != nil {
		return fmt.Errorf("note that a token was used: %w", err)
	}
	if r.Verdict == VerdictRefused {
		return fmt.Errorf("token used before: %w", broker.ErrConflict)
	}
	return nil
}

// Unuse implements broker.UsedAssertions.
func (s *Store) Unuse(ctx context.Context, issuer, id string) error {
	if _, err := s.trails.direct(ctx, Step{Writes: []Write{{Kind: WriteDelete, Key: s.usedToken(issuer, id)}}}); err != nil {
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
