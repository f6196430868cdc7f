package vault

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"

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
func usedTokenKey(shard byte, tag string) string  { return prefix(shard) + "ua:" + tag }
func consentPrefix(shard byte) string             { return prefix(shard) + "o:" }
func consentKey(shard byte, id string) string     { return consentPrefix(shard) + id }
func unfinishedKey(shard byte, tag string) string { return prefix(shard) + "u:" + tag }
func onceKey(shard byte, tag string) string       { return prefix(shard) + "n:" + tag }
func deadlinesKey(shard byte) string              { return prefix(shard) + "d" }
func pollsKey(shard byte) string                  { return prefix(shard) + "v" }
func streamKey(shard byte, tenant string) string  { return prefix(shard) + "a:" + tenant }
func headsKey(shard byte, tenant string) string   { return prefix(shard) + "h:" + tenant }

// cutKey says up to where a stream was trimmed (cut.go), trimmedKey up to where a tenant's trail is said to be, in the stream of what
// concerns no subject; retainClaimKey who trims for now, retainDayKey the first day of which the index may have something.
func cutKey(shard byte, tenant string) string     { return prefix(shard) + "ac:" + tenant }
func trimmedKey(shard byte, tenant string) string { return prefix(shard) + "as:" + tenant }
func retainDayKey() string                        { return prefix(0) + "acd" }
func retainClaimKey() string                      { return prefix(0) + "ack" }

func trailsKey(shard byte) string               { return prefix(shard) + "t" }
func connectorPrefix(shard byte) string         { return prefix(shard) + "b:" }
func connectorKey(shard byte, id string) string { return connectorPrefix(shard) + id }
func connectorsKey(shard byte) string           { return prefix(shard) + "q" }
func portalKey(shard byte, id string) string    { return prefix(shard) + "j:" + id }
func jobPrefix(shard byte) string               { return prefix(shard) + "jb:" }
func jobKey(shard byte, id string) string       { return jobPrefix(shard) + id }
func jobsKey(shard byte) string                 { return prefix(shard) + "jb" }
func jobsDueKey(shard byte) string              { return prefix(shard) + "jbd" }
func jobOnceKey(shard byte, tag string) string  { return prefix(shard) + "jbo:" + tag }
func switchesKey(shard byte) string             { return prefix(shard) + "sw" }
func switchesBodyKey(shard byte) string         { return prefix(shard) + "swb" }
func switchesHomeKey(shard byte) string         { return prefix(shard) + "swh" }
func connectorsMarkKey(shard byte) string       { return prefix(shard) + "m" }

// The connection index (index.go): what is to be looked at in a shard and who does, and by the shard of a class its members and
// what it is of.
func indexDueKey(shard byte) string          { return prefix(shard) + "ci:d" }
func indexClaimKey(shard byte) string        { return prefix(shard) + "ci:k" }
func classesKey(shard byte) string           { return prefix(shard) + "ci:c" }
func classKey(shard byte, set string) string { return prefix(shard) + "y:" + set }

// indexWalkKey says how far the slow check of the index has come.
func indexWalkKey() string { return prefix(0) + "ci:w" }

// resealKey says how far sealing anew has come.
func resealKey() string { return prefix(0) + "rs" }

// What the dashboard shows: counts by tenant, grain and beginning (in s), who wrote them last, and what replicas say.
func countKey(shard byte, tenant, grain string, start int64) string {
	return prefix(shard) + "st:" + grain + strconv.FormatInt(start, 10) + ":" + tenant
}
func countMarkKey(shard byte, tenant, writer string) string {
	return prefix(shard) + "st:w" + writer + ":" + tenant
}
func replicaKey(shard byte, id string) string { return prefix(shard) + "rp:" + id }
func replicasKey(shard byte) string           { return prefix(shard) + "rp" }

// What replicas said that ended and left something in their spools, and an index of them.
func leftKey(shard byte, id string) string { return prefix(shard) + "rl:" + id }
func leftsKey(shard byte) string           { return prefix(shard) + "rl" }

// The posting index (postings.go): how far each stream is in it, who brings a shard's streams into it, and its lists, by the
// day. The slot of a list is given by the hash of what it is a list of.
func postingsMarkKey(shard byte, tenant string) string { return prefix(shard) + "ax:m:" + tenant }
func postingsClaimKey(shard byte) string               { return prefix(shard) + "ax:k" }
func postingsKey(shard byte, day int64, rest string) string {
	return prefix(shard) + "ax:" + strconv.FormatInt(day, 36) + rest
}

// Of what belongs to no subject the name is hashed; the hash's first byte is the shard.
func grantKey(hash []byte) string      { return hashedKey(hash, "g:") }
func onceForAllKey(hash []byte) string { return hashedKey(hash, "n:") }

// Limits: places of what is counted, and uses of what has a rate, in all replicas.
func placesKey(hash []byte) string { return hashedKey(hash, "lp:") }
func usesKey(hash []byte) string   { return hashedKey(hash, "lu:") }

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

func sessionKey(token broker.Secret) (key, digest string) { return digestKey(token, "w:") }
func signInKey(state broker.Secret) (key, digest string)  { return digestKey(state, "wi:") }
func operatorEpochKey(hash []byte) string                 { return hashedKey(hash, "we:") }
func operatorSessionPrefix(shard byte) string             { return prefix(shard) + "wl:" }
func operatorSessionsKey(shard byte) string               { return prefix(shard) + "wls" }

func digestKey(secret broker.Secret, kind string) (key, digest string) {
	digest = secret.Digest()
	// The digest is uniform, so its first byte spreads sessions over the shards as well as any other.
	var shard byte
	if raw, err := base64.RawURLEncoding.DecodeString(digest[:min(2, len(digest))]); err == nil && len(raw) == 1 {
		shard = raw[0]
	}
	return prefix(shard) + kind + digest, digest
}

// joined puts parts behind their lengths, so that no two lists of parts give the same bytes (threats.md, row 33).
func joined(parts ...string) []byte {
	n := 0
	for _, p := range parts {
		n += 4 + len(p)
	}
	return appendJoined(make([]byte, 0, n), parts...)
}

func appendJoined(to []byte, parts ...string) []byte {
	for _, p := range parts {
		to = binary.BigEndian.AppendUint32(to, uint32(len(p)))
		to = append(to, p...)
	}
	return to
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

// Of a place to which events are delivered (deliver.go), by the hash of its name: how far a stream is there, who delivers for now, and
// since when there is such a place.
func sinkMarkKey(shard byte, sink, tenant string) string {
	return prefix(shard) + "sk:m:" + sink + ":" + tenant
}
func sinkClaimKey(sink string) string { return prefix(0) + "sk:k:" + sink }
func sinkSinceKey(sink string) string { return prefix(0) + "sk:s:" + sink }
