package vault

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"tokenbroker/broker"
)

// The stored form of a connector that a tenant made: one hash, without a TTL.
//
//	v format version   ver version of the record   wid id of the last write   t tenant   b the rest, sealed
//
// It lies in the shard of what concerns the tenant as a whole, where its events do. Beside it two keys of the shard: the ids
// of all connectors in it, and a hash with the id of the last write of any of them, which tells replicas that there is
// something to read.
const (
	connectorFormat = "1"

	// maxConnectorID bounds what becomes a part of a key name.
	maxConnectorID = 128
)

type storedConnector struct {
	ID            string            `json:"id"`
	Tenant        string            `json:"t"`
	Client        string            `json:"cl,omitempty"`
	Provider      string            `json:"pr"`
	Name          string            `json:"n,omitempty"`
	ClientID      string            `json:"ci"`
	ClientSecret  string            `json:"cs,omitempty"`
	Generation    int64             `json:"gn,omitempty"` // of the client secret
	Previous      string            `json:"ps,omitempty"`
	PreviousUntil int64             `json:"pu,omitempty"`
	Scopes        []string          `json:"sc,omitempty"`
	DefaultScopes []string          `json:"ds,omitempty"`
	Vars          map[string]string `json:"var,omitempty"`
	PKCE          string            `json:"pk,omitempty"`
	CreatedAt     int64             `json:"ca,omitempty"`
	UpdatedAt     int64             `json:"ua,omitempty"`
}

func storeConnector(c broker.TenantConnector) storedConnector {
	return storedConnector{
		ID: c.ID, Tenant: c.Tenant, Client: c.Client, Provider: c.Provider, Name: c.Name, ClientID: c.ClientID, ClientSecret: c.ClientSecret.Reveal(),
		Generation: c.ClientGeneration, Previous: c.Previous.Reveal(), PreviousUntil: millis(c.PreviousUntil), Scopes: c.Scopes,
		DefaultScopes: c.DefaultScopes, Vars: c.Vars, PKCE: c.PKCE, CreatedAt: millis(c.CreatedAt), UpdatedAt: millis(c.UpdatedAt),
	}
}

func (c storedConnector) connector(version int64) broker.TenantConnector {
	return broker.TenantConnector{
		ID: c.ID, Tenant: c.Tenant, Client: c.Client, Provider: c.Provider, Name: c.Name, ClientID: c.ClientID, ClientSecret: broker.NewSecret(c.ClientSecret),
		ClientGeneration: c.Generation, Previous: broker.NewSecret(c.Previous), PreviousUntil: fromMillis(c.PreviousUntil), Scopes: c.Scopes,
		DefaultScopes: c.DefaultScopes, Vars: c.Vars, PKCE: c.PKCE, CreatedAt: fromMillis(c.CreatedAt), UpdatedAt: fromMillis(c.UpdatedAt),
		Version: version,
	}
}

// connectorPlace names the version: an older body, with an earlier client secret, under the present version does not open.
func connectorPlace(tenant, id string, version int64) []byte {
	return place("connector", tenant, id, fieldBody, connectorFormat, strconv.FormatInt(version, 10))
}

// connectorShard is where the connectors of a tenant lie, and the events about them.
func (s *Store) connectorShard(tenant string) byte { return s.Shard(tenant, "") }

// usableConnectorID tells whether the id can be that of a connector. It becomes part of a key name.
func usableConnectorID(id string) bool {
	return id != "" && len(id) <= maxConnectorID && strings.Trim(id, "abcdefghijklmnopqrstuvwxyz0123456789_-") == ""
}

// openConnector reads a record, whoever's it is. ErrNotFound, ErrNewerFormat, ErrIntegrity.
func (s *Store) openConnector(id string, record map[string][]byte) (broker.TenantConnector, error) {
	if len(record) == 0 {
		return broker.TenantConnector{}, broker.ErrNotFound
	}
	if err := checkFormat(string(record[fieldFormat]), connectorFormat); err != nil {
		return broker.TenantConnector{}, fmt.Errorf("connector: %w", err)
	}
	version, err := strconv.ParseInt(string(record[fieldVersion]), 10, 64)
	if err != nil {
		return broker.TenantConnector{}, fmt.Errorf("connector: version: %w", broker.ErrIntegrity)
	}
	tenant := string(record[fieldTenant])
	if s.seals.keyset.Erased(tenant) {
		return broker.TenantConnector{}, broker.ErrNotFound
	}
	plain, err := s.seals.openFor(tenant, record[fieldBody], connectorPlace(tenant, id, version))
	if err != nil {
		return broker.TenantConnector{}, fmt.Errorf("connector: %w", err)
	}
	var body storedConnector
	if err := json.Unmarshal(plain, &body); err != nil || body.ID != id || body.Tenant != tenant {
		return broker.TenantConnector{}, fmt.Errorf("connector: sealed part: %w", broker.ErrIntegrity)
	}
	return body.connector(version), nil
}

// TenantConnector implements broker.TenantConnectors.
func (s *Store) TenantConnector(ctx context.Context, tenant, id string) (broker.TenantConnector, error) {
	if !usableConnectorID(id) {
		return broker.TenantConnector{}, broker.ErrNotFound
	}
	key := connectorKey(s.connectorShard(tenant), id)
	found, err := s.hashes(ctx, key)
	if err != nil {
		return broker.TenantConnector{}, err
	}
	if healed, err := s.healConnector(ctx, tenant, id, found[0]); err != nil {
		return broker.TenantConnector{}, err
	} else if healed {
		if found, err = s.hashes(ctx, key); err != nil {
			return broker.TenantConnector{}, err
		}
	}
	if string(found[0][fieldTenant]) != tenant {
		return broker.TenantConnector{}, broker.ErrNotFound // two tenants may share a shard
	}
	return s.openConnector(id, found[0])
}

// TenantConnectorsOf implements broker.TenantConnectors.
func (s *Store) TenantConnectorsOf(ctx context.Context, tenant string) ([]broker.TenantConnector, error) {
	return s.connectorsIn(ctx, []byte{s.connectorShard(tenant)}, func(record map[string][]byte) bool { return string(record[fieldTenant]) == tenant })
}

// connectorsIn reads the connectors in those shards whose records the filter lets pass.
func (s *Store) connectorsIn(ctx context.Context, in []byte, filter func(record map[string][]byte) bool) ([]broker.TenantConnector, error) {
	var all []broker.TenantConnector
	var bad error
	var unreadable []string
	for batch := range slices.Chunk(in, shardsPerTrip) {
		queries := make([]IndexQuery, len(batch))
		for i, shard := range batch {
			queries[i] = IndexQuery{Index: connectorsKey(shard), Records: connectorPrefix(shard)}
		}
		found, err := readPatiently(ctx, func(ctx context.Context) ([][]Indexed, error) { return s.cfg.Backend.Indexed(ctx, queries) })
		if err != nil {
			return nil, err
		}
		for _, item := range slices.Concat(found...) {
			if !filter(item.Record) {
				continue
			}
			c, err := s.openConnector(item.Member, item.Record)
			switch {
			case errors.Is(err, broker.ErrNotFound): // deleted between two reads
			case err != nil:
				bad, unreadable = errors.Join(bad, err), append(unreadable, item.Member)
			default:
				all = append(all, c)
			}
		}
	}
	slices.SortFunc(all, func(a, b broker.TenantConnector) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	if bad != nil {
		return all, &broker.UnreadableError{IDs: unreadable, Cause: bad}
	}
	return all, nil
}

// AllTenantConnectors implements broker.TenantConnectors. Where nothing changed that is one round trip. The mark is read before
// the records, so what is written meanwhile is read again the next time.
func (s *Store) AllTenantConnectors(ctx context.Context, mark string) ([]broker.TenantConnector, string, bool, error) {
	if err := s.healConnectors(ctx); err != nil {
		return nil, mark, false, err
	}
	keys := make([]string, shards)
	for i := range keys {
		keys[i] = connectorsMarkKey(byte(i))
	}
	found, err := s.hashes(ctx, keys...)
	if err != nil {
		return nil, mark, false, err
	}
	var in []byte
	var last []string
	for i, record := range found {
		if write := string(record[fieldWrite]); write != "" {
			in, last = append(in, byte(i)), append(last, strconv.Itoa(i), write)
		}
	}
	sum := sha256.Sum256(joined(last...))
	now := base64.RawURLEncoding.EncodeToString(sum[:])
	if now == mark {
		return nil, mark, false, nil
	}
	all, err := s.connectorsIn(ctx, in, func(map[string][]byte) bool { return true })
	var unreadable *broker.UnreadableError
	if err != nil && !errors.As(err, &unreadable) {
		return nil, mark, false, err
	}
	return all, now, true, err
}

// SaveTenantConnector implements broker.TenantConnectors.
func (s *Store) SaveTenantConnector(ctx context.Context, c broker.TenantConnector, entries []broker.Entry) (broker.TenantConnector, error) {
	if !usableConnectorID(c.ID) {
		return broker.TenantConnector{}, errors.New("save connector: its id can't be stored")
	}
	shard, next := s.connectorShard(c.Tenant), c.Version+1
	plain, err := json.Marshal(storeConnector(c))
	if err != nil {
		return broker.TenantConnector{}, fmt.Errorf("encode connector: %w", err)
	}
	body, err := s.seals.sealFor(c.Tenant, plain, connectorPlace(c.Tenant, c.ID, next))
	if err != nil {
		return broker.TenantConnector{}, err
	}
	// Two callers may write the same change from the same version: each is a write of its own.
	id, err := s.randomID()
	if err != nil {
		return broker.TenantConnector{}, err
	}
	key := connectorKey(shard, c.ID)
	checks := []Check{{Key: key, Field: fieldWrite, Kind: CheckApplied, Value: id}}
	if c.Version == 0 {
		checks = append(checks, Check{Key: key, Field: fieldVersion, Kind: CheckAbsent})
	} else {
		checks = append(checks, connectorChecks(key, c)...)
	}
	step := Step{
		Checks: checks,
		Writes: []Write{
			{Kind: WriteHashSet, Key: key, Args: []string{
				fieldFormat, connectorFormat, fieldVersion, strconv.FormatInt(next, 10), fieldWrite, id, fieldTenant, c.Tenant, fieldBody, body}},
			{Kind: WriteSortedAdd, Key: connectorsKey(shard), Args: []string{"0", c.ID}},
			{Kind: WriteHashSet, Key: connectorsMarkKey(shard), Args: []string{fieldWrite, id}},
		},
	}
	if err := s.changeConnector(ctx, "save connector", connectorWrite{tenant: c.Tenant, id: c.ID, version: next, write: id}, step, entries); err != nil {
		return broker.TenantConnector{}, err
	}
	return storeConnector(c).connector(next), nil
}

// DeleteTenantConnector implements broker.TenantConnectors. A repetition of one that took effect finds nothing: ErrConflict, as
// where another caller was faster.
func (s *Store) DeleteTenantConnector(ctx context.Context, c broker.TenantConnector, entries []broker.Entry) error {
	if !usableConnectorID(c.ID) {
		return fmt.Errorf("delete connector: %w", broker.ErrConflict)
	}
	id, err := s.randomID()
	if err != nil {
		return err
	}
	shard := s.connectorShard(c.Tenant)
	key := connectorKey(shard, c.ID)
	return s.changeConnector(ctx, "delete connector", connectorWrite{tenant: c.Tenant, id: c.ID, version: c.Version + 1, deleted: true, write: id}, Step{
		Checks: append([]Check{{Key: connectorsMarkKey(shard), Field: fieldWrite, Kind: CheckApplied, Value: id}}, connectorChecks(key, c)...),
		Writes: []Write{
			{Kind: WriteHashSet, Key: connectorsMarkKey(shard), Args: []string{fieldWrite, id}},
			{Kind: WriteHashSet, Key: tombstoneKey(shard, c.ID), Args: []string{fieldErased, id}},
			{Kind: WriteExpireIn, Key: tombstoneKey(shard, c.ID), Args: []string{strconv.FormatInt(tombstoneLife.Milliseconds(), 10)}},
			{Kind: WriteDelete, Key: key},
			{Kind: WriteSortedRemove, Key: connectorsKey(shard), Args: []string{c.ID}},
		},
	}, entries)
}

// connectorChecks demand that the record is as it was read.
func connectorChecks(key string, c broker.TenantConnector) []Check {
	return []Check{
		{Key: key, Field: fieldTenant, Kind: CheckEqual, Value: c.Tenant},
		{Key: key, Field: fieldFormat, Kind: CheckEqual, Value: connectorFormat},
		{Key: key, Field: fieldVersion, Kind: CheckEqual, Value: strconv.FormatInt(c.Version, 10)},
	}
}

// changeConnector carries out the step with its events, and remembers it.
func (s *Store) changeConnector(ctx context.Context, what string, w connectorWrite, step Step, entries []broker.Entry) error {
	drafts, err := s.drafts(w.tenant, entries)
	if err != nil {
		return err
	}
	step.Confirm = s.cfg.Confirm
	r, err := s.trails.do(ctx, trailName{shard: s.connectorShard(w.tenant), tenant: w.tenant}, w.write, step, drafts)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if r.Verdict == VerdictRefused {
		return fmt.Errorf("%s: %w", what, broker.ErrConflict)
	}
	w.writes = step.Writes
	s.connectors.put(w, entries, s.cfg.Now())
	return nil
}
