// Package simulation predicts the load of refreshes that a number of connections makes: how many a second, what waits for what, and
// which limit is met first. It is a discrete-event simulation in virtual time, and the same seed gives the same figures.
//
// Each provider has a sample of its active connections, and each of the sample stands for Weight real ones, which share its
// fate: so queues are exact in their flow, and coarse below Weight. What is modelled is what package broker does: tokens are issued
// while they live longer than min_ttl, grants in use are refreshed one to two soft bands before their token's end, spread at
// random, those in the last band behind the caller's back, the others while the caller waits, at most ten seconds; early refreshes
// have places of their own and come after callers; a provider that is away is left alone. What is not: failures of single grants, a
// provider's own latency under load, and grants that several connections share.
package simulation
