package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
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

// TestDevPage: a page beside the demo chat may be returned to and embed consents, and what is no origin is refused.
func TestDevPage(t *testing.T) {
	errs := &bytes.Buffer{}
	if status := run(t.Context(), []string{"dev", "--page", "http://127.0.0.1:3001/"}, strings.NewReader(""), &bytes.Buffer{}, errs); status != exitUsage ||
		!strings.Contains(errs.String(), "--page must be an origin") {
		t.Errorf("status %d, stderr %q", status, errs)
	}

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	welcomed := make(chan struct{})
	out := &signalWriter{text: "Ctrl-C", seen: func() { close(welcomed) }}
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{
			"dev", "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0", "--chat-listen", "127.0.0.1:0", "--sandbox-listen", "127.0.0.1:0",
			"--page", "http://127.0.0.1:3001",
		}, strings.NewReader(""), out, &bytes.Buffer{})
	}()
	select {
	case <-welcomed:
	case <-ctx.Done():
		t.Fatal("dev does not start")
	}
	_, line, _ := strings.Cut(out.String(), "export BROKER=")
	address, rest, _ := strings.Cut(line, " KEY=")
	key, _, _ := strings.Cut(rest, "\n")
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address+"/v1/consents",
		strings.NewReader(`{"connector":"files","subject":"u-1","return_to":"http://127.0.0.1:3001/done"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = http.Header{"Authorization": {"Bearer " + key}, "Content-Type": {"application/json"}}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	var consent struct{ URL string }
	if err := json.NewDecoder(res.Body).Decode(&consent); err != nil || res.StatusCode != http.StatusCreated {
		t.Fatalf("status %d, %v", res.StatusCode, err)
	}
	if req, err = http.NewRequestWithContext(ctx, http.MethodGet, consent.URL+"/status", nil); err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Origin", "http://127.0.0.1:3001")
	if res, err = http.DefaultClient.Do(req); err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if got := res.Header.Get("Access-Control-Allow-Origin"); got != "http://127.0.0.1:3001" {
		t.Errorf("the page may not ask how it goes: %q, %d", got, res.StatusCode)
	}
	cancel()
	if status := <-ended; status != exitFine {
		t.Errorf("status %d", status)
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
