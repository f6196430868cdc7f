package main

import (
	"context"
	"regexp"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// exportedKeys are the attributes that leave the process, besides those that begin with "tokenbroker.": the first row is
// package broker's, the rest are the semantic conventions'. Their values come from the configuration or from short lists.
// Everything else is dropped, url.path (consent links, subjects), client.address and exception.message among it (threats.md, 25 and 27).
var exportedKeys = map[attribute.Key]bool{
	"change": true, "check": true, "connector": true, "event": true, "key": true, "limit": true, "outcome": true, "place": true, "required": true, "sink": true, "state": true, "status": true, "trouble": true,
	"http.request.method": true, "http.route": true, "http.response.status_code": true, "url.scheme": true,
	"http.request.body.size": true, "http.response.body.size": true, "network.protocol.version": true,
	"error.type": true, "exception.type": true,
}

// exported is the allow-list as a filter.
func exported(kv attribute.KeyValue) bool {
	return exportedKeys[kv.Key] || strings.HasPrefix(string(kv.Key), "tokenbroker.")
}

// scrubbingExporter drops from spans whatever is not on the allow-list, whoever recorded it.
type scrubbingExporter struct{ sdktrace.SpanExporter }

func (e scrubbingExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	clean := make([]sdktrace.ReadOnlySpan, len(spans))
	for i, span := range spans {
		clean[i] = scrubbedSpan{span}
	}
	return e.SpanExporter.ExportSpans(ctx, clean)
}

type scrubbedSpan struct{ sdktrace.ReadOnlySpan }

func (s scrubbedSpan) Attributes() []attribute.KeyValue { return keep(s.ReadOnlySpan.Attributes()) }

func (s scrubbedSpan) Events() []sdktrace.Event {
	events := make([]sdktrace.Event, 0, len(s.ReadOnlySpan.Events()))
	for _, e := range s.ReadOnlySpan.Events() {
		e.Attributes = keep(e.Attributes)
		events = append(events, e)
	}
	return events
}

func (s scrubbedSpan) Links() []sdktrace.Link {
	links := make([]sdktrace.Link, 0, len(s.ReadOnlySpan.Links()))
	for _, l := range s.ReadOnlySpan.Links() {
		l.Attributes = keep(l.Attributes)
		links = append(links, l)
	}
	return links
}

// codeOnly matches the status descriptions that are codes of ours; anything else may be an error's text.
var codeOnly = regexp.MustCompile(`^[a-z_.]{1,64}$`)

func (s scrubbedSpan) Status() sdktrace.Status {
	status := s.ReadOnlySpan.Status()
	if !codeOnly.MatchString(status.Description) {
		status.Description = ""
	}
	return status
}

func keep(attributes []attribute.KeyValue) []attribute.KeyValue {
	kept := make([]attribute.KeyValue, 0, len(attributes))
	for _, kv := range attributes {
		if exported(kv) {
			kept = append(kept, kv)
		}
	}
	return kept
}
