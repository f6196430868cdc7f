// Package vault keeps connections, consents, sessions and the audit trail, sealed. It implements the store ports of
// package broker over any Backend; package redisstore is the one for Redis.
//
// It owns the stored forms (record.go, consentrecord.go, entry.go), the seals and what they name (seal.go), the keyset
// (keyset.go), every key name (keys.go) and the chain of the audit trail (chain.go, link.go). It does not know Redis, providers, HTTP
// or the environment, and it decides nothing about who may what: that is broker's.
//
// # Where things lie
//
// The records of one subject share a shard, one of 256, which a keyed hash of tenant and subject chooses. The shard is
// the hash tag of every key, so whatever one operation touches lies in one slot of a Redis Cluster:
//
//	tb:{5f}:c:ID       connection: one hash, no TTL           tb:{5f}:o:ID       consent, TTL
//	tb:{5f}:i:ID       when a token last left (volatile)      tb:{5f}:u:SUBJECT  its unfinished consents, TTL
//	tb:{5f}:x:ID       alternates: late refresh tokens, TTL   tb:{5f}:d          unfinished consents by deadline
//	tb:{5f}:n:ONCE     what must not be done twice at once,   tb:{5f}:a:TENANT   audit stream
//	                   TTL; or again at all (Enlist)
//	tb:{5f}:s:SUBJECT  the subject's connections
//	tb:{5f}:l:TENANT   the tenant's connections               tb:{5f}:h:TENANT   heads of its chains
//	tb:{5f}:r          unfinished revocations                 tb:{5f}:t          tenants that have a stream here
//	tb:{5f}:z:ID       trace of an erased connection, TTL     tb:{5f}:w:DIGEST   dashboard session, TTL
//	tb:{5f}:e          which history the shard belongs to     tb:{5f}:f          connections by their early refresh
//	tb:{5f}:g:NAME     who holds one grant, and its tokens    tb:{5f}:k          who looks after f for now, TTL
//	tb:{5f}:p          what a look at the store's health wrote, TTL
//	tb:{5f}:v          consents on other devices by their next poll
//	tb:{5f}:b:ID       a connector that a tenant made         tb:{5f}:q          the ids of all of those
//	tb:{5f}:m          the last write of any of those      tb:{5f}:j:ID       visit to "My connections", TTL
//
// SUBJECT, ONCE and NAME are keyed hashes. No subject, account, token, link, state or session token is in clear in a key or a value.
//
// # How a write works
//
// A write is a Step: conditions, audit entries and changes that the backend carries out together or not at all, in one
// script on one slot. A step has an id that its record remembers, and entries have a place in a chain, so a repeated
// step is recognised and takes effect once: a lost reply is answered by sending the step again.
//
// # When the store loses what it acknowledged
//
// A failover can do that. Each process remembers what it wrote (memory.go), notices that the store's history is another one
// (watch.go), and writes back what is missing, on the condition that nothing that counts came in its place (heal.go, rescue.go,
// and settled.go for what a process before it wrote). Until it had the time for that no refresh token is handed out
// (Settle in backend.go). broker/decisions/0007-healing.md says why it is so, and what that can't do.
package vault
