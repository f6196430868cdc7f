// Package brokertest has what tests of the use cases need: a store in memory that keeps the contract of the ports, a
// provider with rotation and reuse detection that can be told to fail, and a service wired to both. Used by tests alone.
package brokertest
