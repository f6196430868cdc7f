package main

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"strings"
	"testing"
)

// signalWriter calls seen once the text went by.
type signalWriter struct {
	bytes.Buffer
	text string
	seen func()
}

func (w *signalWriter) Write(p []byte) (int, error) {
	n, err := w.Buffer.Write(p)
	if strings.Contains(w.String(), w.text) {
		w.seen()
	}
	return n, err
}

// TestDevIsQuiet: the welcome is the first and, while all goes well, the only thing that dev says.
func TestDevIsQuiet(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, errs := &signalWriter{text: "Ctrl-C", seen: cancel}, &bytes.Buffer{}
	status := run(ctx, []string{"dev", "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0", "--chat-listen", "127.0.0.1:0", "--sandbox-listen", "127.0.0.1:0"}, strings.NewReader(""), out, errs)
	if status != exitFine || errs.Len() > 0 {
		t.Errorf("status %d, stderr:\n%s", status, errs)
	}
	if text := out.String(); !strings.HasPrefix(text, "\ntokenbroker dev:") || strings.Contains(text, "taken") || strings.Contains(text, "{MOVED}") {
		t.Errorf("the welcome is\n%s", text)
	}
}

// TestDevAddress: only the usual address is exchanged for another, and the welcome tells.
func TestDevAddress(t *testing.T) {
	held, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = held.Close() }()
	taken := held.Addr().String()
	got, moved, err := devAddress(t.Context(), taken, taken)
	if err != nil || !moved || got == taken {
		t.Errorf("the usual address: %s, %t, %v", got, moved, err)
	}
	if got, moved, err := devAddress(t.Context(), taken, "127.0.0.1:1"); err == nil {
		t.Errorf("an address that was asked for: %s, %t", got, moved)
	}
	if got, moved, err := devAddress(t.Context(), "127.0.0.1:0", "127.0.0.1:1"); err != nil || moved {
		t.Errorf("a free address: %s, %t, %v", got, moved, err)
	}

	out := &bytes.Buffer{}
	d := &dev{con: &console{out: out}, moved: []string{movedNote("the broker", taken, "127.0.0.1:40000")}}
	for _, l := range []**listener{&d.chat, &d.sandbox} {
		if *l, err = listen(t.Context(), "test", "127.0.0.1:0", nil, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = (*l).socket.Close() }()
	}
	d.welcome("127.0.0.1:40000", "127.0.0.1:40001")
	if want := "Note: " + taken + " is taken, perhaps by another tokenbroker dev, so the broker is at 127.0.0.1:40000"; !strings.Contains(out.String(), want) {
		t.Errorf("the welcome does not say %q:\n%s", want, out)
	}

	errs := &bytes.Buffer{}
	if status := run(t.Context(), []string{"dev", "--listen", taken}, strings.NewReader(""), &bytes.Buffer{}, errs); status != exitFound ||
		errs.String() != "tokenbroker: cannot listen on "+taken+": address already in use; end what runs there, or give --listen another address\n" {
		t.Errorf("status %d, stderr %q", status, errs)
	}
}
