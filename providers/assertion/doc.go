// Package assertion verifies tokens in which an identity provider says who a client's user is (the subject token of RFC 8693), who acts for them
// (its actor token), or who the client itself is (RFC 7523 section 3: a key of its own, or a workload's platform). It implements
// broker.Assertions.
package assertion
