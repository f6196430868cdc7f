// Package webtest has stand-ins for what the pages talk to, for the tests of package web and its browser tests: a
// Service that answers as told and writes down what it was asked, and a store of sessions in memory. It knows nothing
// of how the broker decides.
package webtest
