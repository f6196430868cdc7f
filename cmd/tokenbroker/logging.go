package main

import (
	"context"
	"io"
	"log/slog"
	"slices"

	"go.opentelemetry.io/otel/trace"

	"tokenbroker/vault/redisstore"
)

// newLogger writes JSON lines with the ids of the trace that a line belongs to. Secrets are kept out by their type
// (broker.Secret), not here: a filter by name would only hide the places that forgot it.
func newLogger(w io.Writer, level slog.Leveler) *slog.Logger {
	h := traceHandler{Handler: slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level})}
	if buffer, ok := w.(*logBuffer); ok {
		h.flush = buffer.flush
	}
	return slog.New(h)
}

// errorAsText makes every error one string. The JSON handler would marshal an error that has a MarshalJSON method, and so print
// more than its text says. It is not the handler's ReplaceAttr, which would cost every attribute of every line a call and more.
func errorAsText(a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindLogValuer {
		a.Value = a.Value.Resolve()
	}
	switch a.Value.Kind() {
	case slog.KindAny:
		if err, ok := a.Value.Any().(error); ok {
			return slog.String(a.Key, err.Error())
		}
	case slog.KindGroup:
		in := slices.Clone(a.Value.Group())
		for i := range in {
			in[i] = errorAsText(in[i])
		}
		a.Value = slog.GroupValue(in...)
	}
	return a
}

// mayHoldError tells that errorAsText must look at it.
func mayHoldError(v slog.Value) bool {
	return v.Kind() == slog.KindAny || v.Kind() == slog.KindLogValuer || v.Kind() == slog.KindGroup
}

// traceHandler adds trace_id and span_id from the context, where the line has them not. Where lines wait for others, a warning or
// an error does not.
type traceHandler struct {
	slog.Handler
	flush func() // nil: no line waits
}

func (h traceHandler) Handle(ctx context.Context, r slog.Record) error {
	named, errors := false, false
	r.Attrs(func(a slog.Attr) bool {
		named = named || a.Key == "trace_id"
		errors = errors || mayHoldError(a.Value)
		return true
	})
	if errors {
		plain := slog.NewRecord(r.Time, r.Level, r.Message, r.PC)
		r.Attrs(func(a slog.Attr) bool { plain.AddAttrs(errorAsText(a)); return true })
		r = plain
	}
	if span := trace.SpanContextFromContext(ctx); span.IsValid() && !named {
		r.AddAttrs(slog.String("trace_id", span.TraceID().String()), slog.String("span_id", span.SpanID().String()))
	}
	err := h.Handler.Handle(ctx, r)
	if h.flush != nil && r.Level >= slog.LevelWarn {
		h.flush()
	}
	return err
}

func (h traceHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	plain := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		plain[i] = errorAsText(a)
	}
	return traceHandler{h.Handler.WithAttrs(plain), h.flush}
}

func (h traceHandler) WithGroup(name string) slog.Handler {
	return traceHandler{h.Handler.WithGroup(name), h.flush}
}

// adoptLibraryLogs takes over what libraries print by themselves. Such loggers are one for the whole process, so they
// are the program's to set, like the providers of OpenTelemetry.
func adoptLibraryLogs(log *slog.Logger) {
	redisstore.LogTo(log)
	slog.SetDefault(log) // the sandbox's library
}
