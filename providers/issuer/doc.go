// Package issuer verifies tokens that somebody else has signed: it finds an issuer's public keys, keeps them for a while, and opens what they
// have signed (RFC 7515, 7517). What the claims must say is for those who know what the token is for: sign-ins (providers/login) and
// assertions of who asks (providers/assertion).
package issuer
