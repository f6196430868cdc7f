package main

import (
	"context"
	"io"
	"log/slog"

	"go.opentelemetry.io/otel/trace"

	"tokenbroker/vault/redisstore"
)

// newLogger writes JSON lines with the ids of the trace that a line belongs to. Secrets are kept out by their type
// (broker.Secret), not here: a filter by name would only hide the places that forgot it.
func newLogger(w io.Writer, level slog.Leveler) *slog.Logger {
	return slog.New(traceHandler{slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: errorsAsText})})
}

// errorsAsText makes every error one string. The JSON handler would marshal an error that has a MarshalJSON method or
// exported fields of its own choosing, and so print more than its text says.
func errorsAsText(_ []string, a slog.Attr) slog.Attr {
	if err, ok := a.Value.Any().(error); ok {
		return slog.String(a.Key, err.Error())
	}
	return a
}

// traceHandler adds trace_id and span_id from the context, where the line has them not.
type traceHandler struct{ slog.Handler }

func (h traceHandler) Handle(ctx context.Context, r slog.Record) error {
	named := false
	r.Attrs(func(a slog.Attr) bool { named = a.Key == "trace_id"; return !named })
	if span := trace.SpanContextFromContext(ctx); span.IsValid() && !named {
		r.AddAttrs(slog.String("trace_id", span.TraceID().String()), slog.String("span_id", span.SpanID().String()))
	}
	return h.Handler.Handle(ctx, r)
}

func (h traceHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return traceHandler{h.Handler.WithAttrs(attrs)}
}

func (h traceHandler) WithGroup(name string) slog.Handler {
	return traceHandler{h.Handler.WithGroup(name)}
}

// adoptLibraryLogs takes over what libraries print by themselves. Such loggers are one for the whole process, so they
// are the program's to set, like the providers of OpenTelemetry.
func adoptLibraryLogs(log *slog.Logger) {
	redisstore.LogTo(log)
	slog.SetDefault(log) // the sandbox's library
}
