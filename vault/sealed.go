package vault

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"tokenbroker/broker"
)

// What is sealed where: for each kind of record the fields that hold seals, and the place that each names. Whoever seals values
// anew (reseal.go) goes by this, so a record of a new kind belongs in here.

// sealedValue is one sealed value of a record.
type sealedValue struct {
	field string
	skip  int // bytes before the seal
	// tenant is whose it is; where inside is set, the sealed text says it.
	tenant string
	inside bool
	// place; nil: what the seal names is not known, as of what nobody opens any more.
	place []byte
}

// keyParts takes a key apart: its shard and what is behind the shard's prefix.
func keyParts(key string) (shard byte, rest string, ok bool) {
	n := len(prefix(0))
	if len(key) <= n {
		return 0, "", false
	}
	s, err := strconv.ParseUint(key[len("tb:{"):len("tb:{")+2], 16, 8)
	if err != nil || key[:n] != prefix(byte(s)) {
		return 0, "", false
	}
	return byte(s), key[n:], true
}

// sealedKeys matches the keys of records that no index leads to, and others: hasSeals tells which.
const sealedKeys = "tb:{??}:[gobjwrx]*"

// hasSeals tells whether the key is that of a hash with seals.
func hasSeals(key string) bool {
	_, rest, ok := keyParts(key)
	if !ok {
		return false
	}
	kind, _, named := strings.Cut(rest, ":")
	switch kind {
	case "c", "x", "g", "o", "b", "j", "jb", "w", "wi", "we", "wl", "rp", "rl", "ac":
		return named
	case "swb", "swh":
		return !named
	}
	return false
}

// beside is what the seals of a record name and the record does not say.
type beside struct {
	account string // of alternates: whose they are
	tenant  string // and of which tenant
	name    string // of a shared grant
}

// sealsIn lists the sealed values of the record at the key.
func (s *Store) sealsIn(key string, record map[string][]byte, by beside) []sealedValue {
	shard, rest, _ := keyParts(key)
	kind, id, _ := strings.Cut(rest, ":")
	body := func(tenant string, inside bool, place []byte) []sealedValue {
		return []sealedValue{{field: fieldBody, tenant: tenant, inside: inside, place: place}}
	}
	version := versionOf(record, fieldVersion)
	switch kind {
	case "c":
		return s.connectionSeals(id, record)
	case "x":
		return alternateSeals(id, record, by)
	case "g":
		if len(record[fieldGrant]) == 0 {
			return nil
		}
		v := sealedValue{field: fieldGrant}
		if by.name != "" {
			v.place = sharedPlace(by.name, versionOf(record, fieldGeneration))
		}
		return []sealedValue{v}
	case "o":
		return body("", true, consentPlace(id, version))
	case "j":
		return body("", true, portalPlace(id, version))
	case "jb":
		return body("", true, jobPlace(id, version))
	case "b":
		return body(string(record[fieldTenant]), false, connectorPlace(string(record[fieldTenant]), id, version))
	case "w", "wi", "we", "wl":
		domain := map[string]string{"w": "session", "wi": "operator-sign-in", "we": "operator-epoch", "wl": "operator-session"}[kind]
		return body("", false, timed{domain: domain, digest: id}.place(string(record[fieldEnd])))
	case "rp":
		return body("", false, replicaPlace(id))
	case "rl":
		return body("", false, leftPlace(id))
	case "ac":
		return body("", false, cutPlace(trailName{shard: shard, tenant: id}, version))
	case "swb", "swh":
		return body("", false, switchesPlace(string(record[fieldWrite])))
	}
	return nil
}

// connectionSeals are those of a connection. Of a form that a newer program wrote nothing is known but the fields.
func (s *Store) connectionSeals(id string, record map[string][]byte) []sealedValue {
	tenant, format := string(record[fieldTenant]), string(record[fieldFormat])
	conn, h, err := s.clearRecord(tenant, id, record, nil)
	var all []sealedValue
	for field, value := range record {
		v := sealedValue{field: field, tenant: tenant}
		form := tokenFormPlain
		if _, packed := packedSeal(value); packed {
			form, v.skip = tokenFormPacked, 1
		}
		key, access := strings.CutPrefix(field, fieldAccess)
		switch {
		case field == fieldPrivate:
			if v.skip = 0; err == nil {
				v.place = privatePlace(format, tenant, id, record[fieldHeader])
			}
		case field == fieldRefresh:
			if err == nil {
				v.place = refreshPlace(form, tenant, id, h.RefreshEpoch)
			}
		case access:
			if info, ok := conn.Token(key); ok && err == nil {
				v.place = accessPlace(form, tenant, id, info)
			}
		default:
			continue
		}
		all = append(all, v)
	}
	return all
}

// alternateSeals are those of the late refresh tokens beside a connection.
func alternateSeals(id string, record map[string][]byte, by beside) []sealedValue {
	var all []sealedValue
	for field, value := range record {
		if field == fieldKept || field == fieldSuccessor || len(value) <= 8 {
			continue
		}
		v := sealedValue{field: field, skip: 8, tenant: by.tenant}
		if by.tenant != "" {
			v.place = alternatePlace(by.tenant, id, by.account, string(value[:8]))
		}
		all = append(all, v)
	}
	return all
}

// keyOf is the key that sealed the value; false: it is no seal.
func (v sealedValue) keyOf(value []byte) (uint32, bool) {
	if len(value) < v.skip {
		return 0, false
	}
	return keyID(value[v.skip:])
}

// settledBy tells that the key is the one that would seal the value now, without looking inside.
func (v sealedValue) settledBy(keys *primitives, id uint32) bool {
	own := keys.openers[id]
	if own == nil || own.primary != id {
		return false
	}
	if v.inside {
		return own.tenant != "" || len(keys.tenants) == 0
	}
	now, err := keys.of(v.tenant)
	return err == nil && now == own
}

// again seals the value anew; the same value comes back where its key is the right one already.
func (s *sealer) again(v sealedValue, value []byte) (string, error) {
	if v.place == nil || len(value) < v.skip {
		return "", fmt.Errorf("seal anew: what the seal names is not known: %w", broker.ErrIntegrity)
	}
	plain, owner, err := s.openAny(value[v.skip:], v.place)
	if err != nil {
		return "", err
	}
	tenant := v.tenant
	if v.inside {
		var whose struct {
			Tenant string `json:"t"`
		}
		if err := json.Unmarshal(plain, &whose); err != nil {
			return "", fmt.Errorf("seal anew: %w", broker.ErrIntegrity)
		}
		tenant = whose.Tenant
	}
	if owner != "" && owner != tenant {
		return "", fmt.Errorf("seal anew: sealed with another tenant's key: %w", broker.ErrIntegrity)
	}
	keys, err := s.keyset.current.Load().of(tenant)
	if err != nil {
		return "", err
	}
	if id, ok := v.keyOf(value); ok && id == keys.primary {
		return string(value), nil
	}
	sealed, err := encrypt(keys.seals, plain, v.place)
	return string(value[:v.skip]) + sealed, err
}
