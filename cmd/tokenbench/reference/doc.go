// Package reference is the bare server that the broker is measured against: what somebody would write who knew the libraries
// and wanted nothing but a token out of Redis with an audit event before it. An echo handler checks the API key by its
// SHA-256, one pipeline of go-redis with its default options gets the record and appends the event, Tink's AES-GCM opens the
// record, encoding/json reads it and writes the answer.
//
// It is kept honest: no trick that somebody would not think of at first, and no handicap either. Its request, record, event
// and answer have the size of the broker's.
package reference
