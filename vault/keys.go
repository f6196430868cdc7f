package vault

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"tokenbroker/broker"
)

// shards is how many hash tags there are.
const shards = 256

// prefix is the beginning of every key: "tb:{5f}:". The tag is all that a Redis Cluster hashes, and what follows it can't
// disturb that: only the first pair of braces counts.
func prefix(shard byte) string { return "tb:{" + hex.EncodeToString([]byte{shard}) + "}:" }

func connectionPrefix(shard byte) string         { return prefix(shard) + "c:" }
func connectionKey(shard byte, id string) string { return connectionPrefix(shard) + id }

func issuedPrefix(shard byte) string         { return prefix(shard) + "i:" }
func issuedKey(shard byte, id string) string { return issuedPrefix(shard) + id }

func alternatesKey(shard byte, id string) string { return prefix(shard) + "x:" + id }
func tombstoneKey(shard byte, id string) string  { return prefix(shard) + "z:" + id }
func settleKey(shard byte) string                { return prefix(shard) + "e" }

// settleKeyOf is the one in the shard of another key.
func settleKeyOf(key string) string { return key[:len(prefix(0))] + "e" }

func subjectKey(shard byte, tag string) string   { return prefix(shard) + "s:" + tag }
func tenantKey(shard byte, tenant string) string { return prefix(shard) + "l:" + tenant }

// tenantIndexes is the pattern of every tenantKey.
const tenantIndexes = "tb:{[0-9a-f][0-9a-f]}:l:*"

func scheduleKey(shard byte) string               { return prefix(shard) + "f" }
func claimKey(shard byte) string                  { return prefix(shard) + "k" }
func revocationsKey(shard byte) string            { return prefix(shard) + "r" }
func consentPrefix(shard byte) string             { return prefix(shard) + "o:" }
func consentKey(shard byte, id string) string     { return consentPrefix(shard) + id }
func unfinishedKey(shard byte, tag string) string { return prefix(shard) + "u:" + tag }
func onceKey(shard byte, tag string) string       { return prefix(shard) + "n:" + tag }
func deadlinesKey(shard byte) string              { return prefix(shard) + "d" }
func pollsKey(shard byte) string                  { return prefix(shard) + "v" }
func streamKey(shard byte, tenant string) string  { return prefix(shard) + "a:" + tenant }
func headsKey(shard byte, tenant string) string   { return prefix(shard) + "h:" + tenant }
func trailsKey(shard byte) string                 { return prefix(shard) + "t" }
func connectorPrefix(shard byte) string           { return prefix(shard) + "b:" }
func connectorKey(shard byte, id string) string   { return connectorPrefix(shard) + id }
func connectorsKey(shard byte) string             { return prefix(shard) + "q" }
func portalKey(shard byte, id string) string      { return prefix(shard) + "j:" + id }
func connectorsMarkKey(shard byte) string         { return prefix(shard) + "m" }

// Of what belongs to no subject the name is hashed; the hash's first byte is the shard.
func grantKey(hash []byte) string      { return hashedKey(hash, "g:") }
func onceForAllKey(hash []byte) string { return hashedKey(hash, "n:") }

func hashedKey(hash []byte, kind string) string {
	return prefix(hash[0]) + kind + base64.RawURLEncoding.EncodeToString(hash)
}

// trailPattern matches the keys that streamKey and headsKey make.
const trailPattern = "tb:{??}:[ah]:*"

// parseTrailKey tells which stream a key belongs to.
func parseTrailKey(key string) (trailName, bool) {
	begin := len(streamKey(0, ""))
	if len(key) < begin {
		return trailName{}, false
	}
	raw, err := hex.DecodeString(key[len("tb:{"):][:2])
	if err != nil {
		return trailName{}, false
	}
	name := trailName{shard: raw[0], tenant: key[begin:]}
	return name, key == streamKey(name.shard, name.tenant) || key == headsKey(name.shard, name.tenant)
}

func sessionKey(token broker.Secret) (key, digest string) {
	digest = token.Digest()
	// The digest is uniform, so its first byte spreads sessions over the shards as well as any other.
	var shard byte
	if raw, err := base64.RawURLEncoding.DecodeString(digest[:min(2, len(digest))]); err == nil && len(raw) == 1 {
		shard = raw[0]
	}
	return prefix(shard) + "w:" + digest, digest
}

// joined puts parts behind their lengths, so that no two lists of parts give the same bytes (threats.md, row 33).
func joined(parts ...string) []byte {
	n := 0
	for _, p := range parts {
		n += 4 + len(p)
	}
	out := make([]byte, 0, n)
	for _, p := range parts {
		out = binary.BigEndian.AppendUint32(out, uint32(len(p)))
		out = append(out, p...)
	}
	return out
}

// Shard implements broker.Placement: a keyed hash, so that it tells nothing about the subject.
func (s *Store) Shard(tenant, subject string) byte {
	return s.seals.hash(1, "shard", tenant, subject)[0]
}

// subjectTag stands for a subject in key names.
func (s *Store) subjectTag(tenant, subject string) string {
	return base64.RawURLEncoding.EncodeToString(s.seals.hash(18, "subject", tenant, subject))
}

// subjectIndex is the key of the index of a subject's connections.
func (s *Store) subjectIndex(shard byte, conn broker.Connection) string {
	return subjectKey(shard, s.subjectTag(conn.Tenant, conn.Subject))
}

// onceTag stands for what a subject must not be asked twice at the same time.
func (s *Store) onceTag(tenant, subject, once string) string {
	return base64.RawURLEncoding.EncodeToString(s.seals.hash(18, "once", tenant, subject, once))
}

// auditTag stands for a subject in the clear part of audit entries: short, for it only has to make searching cheap.
func (s *Store) auditTag(tenant, subject string) string {
	if subject == "" {
		return ""
	}
	return string(s.seals.hash(6, "audit-subject", tenant, subject))
}

// shardOf finds the shard in the id of a connection or consent. What can't be an id can't be found.
func shardOf(id string) (byte, error) {
	shard, ok := broker.ShardOfID(id)
	if !ok {
		return 0, fmt.Errorf("find record: %w", broker.ErrNotFound)
	}
	return shard, nil
}
