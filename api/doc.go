// Package api is the REST API for clients: what openapi.yaml beside this file describes.
//
// It turns an HTTP request into a broker.Caller and one call of a use case, and the result into JSON; it decides nothing
// else. A request goes through it in this order, and every step can only refuse:
//
//	path.go          is the request ours? (in doubt: yes, because ours means "a key is needed")
//	entrance.go      request id, headers that every answer has, deadline, panics, the access log, the span's route
//	authenticate.go  the API key; before routing, so that an unknown path tells nothing to who has no key
//	routes.go        method and path to a handler; 404 and 405 in the shape of every other error
//	query.go         the query's names and values
//	body.go          strict JSON (RFC 8259; no repeated, unknown or differently cased names)
//	fields.go        what single values may look like
//	tokens.go and its siblings: one file for each kind of thing, a handler for each call
//	follow.go        what waits for the status of a consent: long poll and server-sent events
//	errors.go        the one table from error code to status, and the one writer of errors
//
// Beside that stands notices.go: what providers send by themselves comes without an API key, is signed instead, and is not for
// clients, so openapi.yaml does not describe it.
//
// The package knows nothing of stores, providers or pages. Of echo it uses the router alone, in routes.go, Register and notices.go.
package api
