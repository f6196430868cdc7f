package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// slowOutput keeps what is written, and how often.
type slowOutput struct {
	mu     sync.Mutex
	text   bytes.Buffer
	writes int
}

func (o *slowOutput) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.writes++
	return o.text.Write(p)
}

func (o *slowOutput) state() (text string, writes int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String(), o.writes
}

// TestLogBuffer: lines of the same moment are one write within the delay, and a warning waits for nothing.
func TestLogBuffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &slowOutput{}
		buffer := newLogBuffer(out, logDelay)
		log := newLogger(buffer, slog.LevelInfo)
		for i := range 10 {
			log.Info("request", "n", i)
		}
		synctest.Wait()
		if text, _ := out.state(); text != "" {
			t.Errorf("written at once: %s", text)
		}
		time.Sleep(logDelay)
		synctest.Wait()
		if text, writes := out.state(); strings.Count(text, "\n") != 10 || writes != 1 {
			t.Errorf("after the delay: %d writes of %q", writes, text)
		}
		log.Info("before")
		log.Warn("trouble")
		if text, writes := out.state(); !strings.HasSuffix(text, "\"msg\":\"trouble\"}\n") || writes != 2 || !strings.Contains(text, "before") {
			t.Errorf("after a warning: %d writes of %q", writes, text)
		}
		// One that is derived writes its warnings at once too.
		log.With("a", 1).WithGroup("g").Error("derived")
		if text, writes := out.state(); !strings.Contains(text, "derived") || writes != 3 {
			t.Errorf("after an error: %d writes of %q", writes, text)
		}
		log.Info("last")
		buffer.close()
		if text, _ := out.state(); !strings.Contains(text, "last") {
			t.Error("close loses a line")
		}
		log.Info("late")
		if text, _ := out.state(); !strings.Contains(text, "late") {
			t.Error("a line behind close is lost")
		}
	})
}

// TestLogBufferBound: what waits is bounded, lines stay whole and in the order of whoever writes them, and none is lost.
func TestLogBufferBound(t *testing.T) {
	out := &slowOutput{}
	buffer := newLogBuffer(out, time.Hour) // only the bound writes
	var all sync.WaitGroup
	const writers, each = 8, 1000
	for w := range writers {
		all.Go(func() {
			for i := range each {
				_, _ = fmt.Fprintf(buffer, "%d %d %s\n", w, i, strings.Repeat("x", 100))
			}
		})
	}
	all.Wait()
	buffer.mu.Lock()
	waiting := len(buffer.lines)
	buffer.mu.Unlock()
	if waiting >= logBytes {
		t.Errorf("%d bytes wait", waiting)
	}
	buffer.close()
	text, writes := out.state()
	if most := 2 * len(text) / logBytes * 2; writes > most {
		t.Errorf("%d writes of %d bytes", writes, len(text))
	}
	next := map[int]int{}
	for line := range strings.Lines(text) {
		var w, i int
		if _, err := fmt.Sscanf(line, "%d %d", &w, &i); err != nil || i != next[w] || len(line) < 100 {
			t.Fatalf("line %q, after %d: %v", line, next[w], err)
		}
		next[w]++
	}
	for w := range writers {
		if next[w] != each {
			t.Errorf("writer %d: %d lines", w, next[w])
		}
	}
}

// TestLogLinesAsBefore: a line is to the byte what the plain handler with every attribute looked at writes.
func TestLogLinesAsBefore(t *testing.T) {
	plain := func(_ []string, a slog.Attr) slog.Attr {
		if err, ok := a.Value.Any().(error); ok {
			return slog.String(a.Key, err.Error())
		}
		return a
	}
	var got, want bytes.Buffer
	handlers := []slog.Handler{
		newLogger(&got, slog.LevelDebug).Handler(),
		slog.NewJSONHandler(&want, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: plain}),
	}
	for _, h := range handlers {
		h = h.WithAttrs([]slog.Attr{slog.Any("with", errors.New("early")), slog.Int("n", 1)}).WithGroup("g")
		for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn + 1, slog.LevelError, 12} {
			r := slog.NewRecord(testMoment, level, "a \"line\"\nwith \xff", 0)
			r.AddAttrs(slog.String("s", "ü\x00<&>"), slog.Int64("i", -5), slog.Float64("f", 1e21), slog.Bool("b", true), slog.Duration("d", time.Second),
				slog.Time("t", testMoment), slog.Any("error", fmt.Errorf("outer: %w", leaky{"canary"})), slog.Any("nil", nil), slog.Any("level", level),
				slog.Group("in", slog.Any("error", leaky{"canary"}), slog.Group("deeper", slog.Any("error", leaky{"canary"})), slog.Any("late", lateError{}), slog.String("s", "x")), slog.Any("late", lateError{}), slog.Group("empty"), slog.Any("list", []string{"a"}), slog.Any("struct", struct{ A int }{1}))
			if err := h.Handle(context.Background(), r); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got.String() != want.String() {
		t.Errorf("got\n%s\nwant\n%s", got.String(), want.String())
	}
}

// lateError is an error only when it is looked at.
type lateError struct{}

func (lateError) LogValue() slog.Value { return slog.AnyValue(leaky{"canary"}) }

var testMoment = time.Date(2026, 11, 24, 12, 0, 0, 123456000, time.UTC)
