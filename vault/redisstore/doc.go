// Package redisstore is the vault's backend over Redis: one server, Sentinel or Cluster, and miniredis in dev mode. It
// carries out steps (apply.lua) and reads; it sees bytes under keys and knows neither what they mean nor any key of the
// keyset.
//
// go-redis repeats nothing by itself here: a blind repetition of a write whose answer was lost would do it twice. Steps
// are made to be recognised when they are repeated, and the vault repeats them.
package redisstore
