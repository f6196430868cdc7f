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
//	tb:{5f}:i:ID       when a token last left (volatile), and tb:{5f}:u:SUBJECT  its unfinished consents, TTL
//	                   where the index has the connection
//	tb:{5f}:x:ID       alternates: late refresh tokens, TTL   tb:{5f}:d          unfinished consents by deadline
//	tb:{5f}:n:ONCE     what must not be done twice at once,   tb:{5f}:a:TENANT   audit stream
//	                   TTL; or again at all (Enlist)
//	tb:{5f}:s:SUBJECT  the subject's connections
//	tb:{5f}:l:TENANT   the tenant's connections               tb:{5f}:h:TENANT   heads of its chains
//	tb:{5f}:r          unfinished revocations                 tb:{5f}:t          tenants that have a stream here
//	tb:{5f}:z:ID       trace of an erased connection, TTL     tb:{5f}:w:DIGEST   dashboard session, TTL
//	tb:{5f}:wi:DIGEST  an operator's sign-in, TTL             tb:{5f}:we:NAME    which of an operator's sessions are over, TTL
//	tb:{5f}:wl:ID      who has a session, for operators, TTL  tb:{5f}:wls        the ids of all of those, in one shard
//	tb:{5f}:e          which history the shard belongs to     tb:{5f}:f          connections by their early refresh
//	tb:{5f}:g:NAME     who holds one grant, and its tokens    tb:{5f}:k          who looks after f for now, TTL
//	tb:{5f}:p          what a look at the store's health wrote, TTL
//	tb:{5f}:v          consents on other devices by their next poll
//	tb:{5f}:b:ID       a connector that a tenant made         tb:{5f}:q          the ids of all of those
//	tb:{5f}:m          the last write of any of those      tb:{5f}:j:ID       visit to "My connections", TTL
//
// For operators, in slots of their own where they concern no subject:
//
//	tb:{5f}:sw         which kill switches hold here          tb:{5f}:swb        a copy of what is disabled; swh: the home of it, once
//	tb:{5f}:jb         the ids of all jobs; jbd: those due    tb:{5f}:jb:ID      a job, TTL once it ended
//	tb:{5f}:jbo:ONCE   the job that a form began, TTL
//	tb:{5f}:ci:d       connections that are to be moved in    tb:{5f}:ci:k       who does that for now, TTL
//	                   the index
//	tb:{5f}:ci:c       what the sets of the index are of      tb:{5f}:y:NAME     connections of one class, by age or by end
//	tb:{5f}:ci:w       how far the slow check of it has come  tb:{5f}:ax:m:TENANT  how far a stream is in the trail's index
//	tb:{5f}:ax:DAY...  postings of a day: grow as the trail   tb:{5f}:ax:k       who brings streams into it for now, TTL
//	tb:{5f}:ac:TENANT  where an audit stream was cut          tb:{5f}:as:TENANT  up to when a tenant's trail was dropped
//	tb:{00}:acd        the first day of postings, once        tb:{00}:ack        who drops old events for now, TTL
//	tb:{5f}:st:...     counts for charts, TTL                 tb:{5f}:rp:ID      heartbeat of a replica, TTL; rp: their ids
//
// SUBJECT, ONCE and NAME are keyed hashes. No subject, account, token, link, state or session token is in clear in a key or a value.
//
// # How a write works
//
// A write is a Step: conditions, audit entries and changes that the backend carries out together or not at all, in one
// script on one slot. A step has an id that its record remembers, and entries have a place in a chain, so a repeated
// step is recognised and takes effect once: a lost reply is answered by sending the step again.
//
// # What operators look through
//
// Two indexes follow what is written, each in the background and without being believed: that of connections (index.go, indexfollow.go,
// indexmove.go, indexread.go, indexcheck.go), and that of the audit trail (postings.go, indexer.go; search.go, searchplan.go and
// searchmerge.go read it). What is older than events are kept is dropped by retain.go and retainstep.go, and cut.go says where. Beside them are the kill switches (switches.go, switchspread.go), jobs (jobs.go), and for the overview
// counters.go, replicas.go and backlog.go.
//
// # When the store loses what it acknowledged
//
// A failover can do that. Each process remembers what it wrote (memory.go), notices that the store's history is another one
// (watch.go), and writes back what is missing, on the condition that nothing that counts came in its place (heal.go, rescue.go,
// and settled.go for what a process before it wrote). Until it had the time for that no refresh token is handed out
// (Settle in backend.go). broker/decisions/0007-healing.md says why it is so, and what that can't do.
package vault
