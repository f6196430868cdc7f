// Package simulationtest runs the real service over the real vault, as several replicas, in one process and in virtual time,
// under a scheduler that lets go wrong whatever can: and looks whether a grant was ever lost for no reason.
//
// It exists for what no test with real processes meets often enough: an answer that comes after its lease has ended, a crash
// between the disk and the store, a write that is carried out long after its sender gave up on it, a failover between two
// halves of a refresh, and any two of those at once. A schedule takes about a millisecond, so a hundred thousand of them are
// part of the tests, and ten million a night's work.
//
// # What is real and what is a model
//
//	broker.Service, vault.Store (records, leases, alternates, rescue, spool, healing, audit chain, seals)     as they are
//	the store behind vault.Backend         Memory: the semantics of redisstore's scripts; TestMemoryIsLikeRedis compares
//	the disk of the spool                  disk: one for each replica, which outlives its processes
//	the provider                           provider: no rotation, rotation with grace, strict, reuse detection
//	the clock                              testing/synctest; each process has a wall clock that may jump, and one that does not
//	randomness                             from the seed, for each process its own
//
// # How a schedule runs
//
// Every call that leaves a process (a step or a read of the store, a request to the provider, an operation of its disk) waits
// at a gate. While everything waits, the scheduler does one thing, drawn from the seed: it lets one call be carried out, well
// or with a fault; lets an answer through; lets time pass; kills a process (another one takes over its disk), stops or resumes
// one, puts its wall clock elsewhere; takes the store away, or sets it back to before its last changes; lets a caller ask, a
// user disconnect, a consent be completed, the user end the grant at the provider, the spool be replayed, the sweeper run.
// Then all that this woke runs until it waits again. Goroutines that one event wakes pass the ports one by one, in an order
// that does not depend on which was quicker, so the same seed gives the same schedule.
//
// Each seed draws which kinds of trouble there are, and how much (Plan). In the end everything is put in order, each
// connection is asked for once more, and the invariants are looked at; most are looked at with every step too:
//
//   - no refresh token is used twice, unless the first use is in doubt, its process dead or stopped, its lease over, or the
//     record's own token dead, so that there is nothing to lose;
//   - no token is answered without its event, none of a record that is not active, none of another's, and nobody is answered
//     after the deadline;
//   - a refreshed token is on the disk before it goes to the store, and leaves the disk when the store has it;
//   - generations only grow, and a revoked connection comes back by a consent alone;
//   - no record comes to say that the user must consent while a usable refresh token lies in the record, among its alternates,
//     in the memory of the process that says so or on its disk; and in the end none does while one can be reached anywhere;
//   - each lost grant is explained: an answer that never arrived, a process that was killed before anything had kept it or
//     stopped for longer than its lease, a store that did not take it before the lease ended; a failover that took it back
//     while nobody who remembered it was there; a consent of another holder that was not stored yet;
//   - a grant that several connections hold is revoked only when none does;
//   - the audit chain verifies (in every fourth schedule; after a failover nothing but losses may be wrong with it).
//
// # What it can't see
//
// Goroutines of one process run between two gates without a break, so a crash or a stop comes only at a gate, or right behind
// an answer. Requests to the provider that were given up are carried out before that or never. The providers' client, the
// web and the API are not in it; nor are wrong clocks where connections share a grant, narrowed tokens, rotations of the keyset, the
// circuit breaker (it takes three grants), the vault's watcher (the scheduler calls Heal as it would) and clocks that stand
// still while a virtual machine is stopped. The store is one node: a cluster's are independent of each other. And it sees only
// what Memory models: what real servers, disks and networks do is for the tests with real processes.
package simulationtest
