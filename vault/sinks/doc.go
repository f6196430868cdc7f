// Package sinks takes what the audit trail says to places outside of the store: files, webhooks, collectors of logs, syslog.
//
// It knows neither the store nor the keys; what it is given may be read by whoever reads the place it is taken to.
//
//	file.go     lines appended to a file, and synced
//	webhook.go  lines posted to a URL
//	archive.go  files in a directory, compressed
package sinks
