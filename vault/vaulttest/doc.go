// Package vaulttest has the conformance suite of the vault, which every store topology must pass, and what it takes to
// start one: redis-server processes, alone or as a cluster, and a proxy that loses answers. For tests only.
package vaulttest
