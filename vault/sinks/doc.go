// Package sinks takes what the audit trail says to places outside of the store: files, webhooks, collectors of logs, syslog.
//
// It knows neither the store nor the keys; what it is given may be read by whoever reads the place it is taken to.
//
//	file.go     lines appended to a file, and synced
//	webhook.go  lines posted to a URL
//	syslog.go   lines sent as messages of RFC 5424
//	otlp.go     lines posted as log records of OpenTelemetry
//	group.go    many who wait for a place share its writes
//	archive.go  files in a directory, compressed
//	try.go      whether there is a place for files
package sinks
