package kektest

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"tokenbroker/vault/kek"
)

// KEK is what the packages of the services make.
type KEK interface {
	Encrypt(plaintext, associatedData []byte) ([]byte, error)
	Decrypt(ciphertext, associatedData []byte) ([]byte, error)
}

const canary = "keyset-canary-0d9c2e51"

// Wraps holds what the keyset relies on, whatever the service: it is what a run against a real one asks too.
func Wraps(t *testing.T, key KEK) {
	t.Helper()
	seals, index := []byte("tokenbroker/keyset/seals/v1"), []byte("tokenbroker/keyset/index/v1")
	for _, plain := range []string{canary, strings.Repeat("k", 3000), "\x00\xff"} {
		wrapped, err := key.Encrypt([]byte(plain), seals)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(wrapped, []byte(plain)) {
			t.Error("what was wrapped shows")
		}
		if got, err := key.Decrypt(wrapped, seals); err != nil || string(got) != plain {
			t.Errorf("opened to %d bytes, %v", len(got), err)
		}
		for _, other := range [][]byte{index, nil, append([]byte("x"), seals...)} {
			if got, err := key.Decrypt(wrapped, other); err == nil {
				t.Errorf("opens with associated data %q, to %d bytes", other, len(got))
			} else if errors.Is(err, kek.ErrUnavailable) {
				t.Errorf("associated data that is wrong counts as an outage: %v", err)
			}
		}
		spoilt := bytes.Clone(wrapped)
		spoilt[len(spoilt)-6] ^= 1
		if _, err := key.Decrypt(spoilt, seals); err == nil {
			t.Error("opens after it was changed")
		}
	}
}

// Fails shows what becomes of everything that can go wrong between a process and its service.
func Fails(t *testing.T, s *Service, key KEK) {
	t.Helper()
	for _, test := range []struct {
		name      string
		answer    http.HandlerFunc
		transient bool
	}{
		{"500", status(500), true}, {"503", status(503), true}, {"429", status(429), true}, {"502 with HTML", status(502), true},
		{"400", status(400), false}, {"403", status(403), false}, {"404", status(404), false}, {"200 and nothing", status(200), false},
		{"200 and HTML", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>"+canary) }, false},
		{"200 and an empty object", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") }, false},
		{"what was asked, as an error", func(w http.ResponseWriter, r *http.Request) {
			text, _ := io.ReadAll(r.Body)
			w.WriteHeader(400)
			_, _ = w.Write(text)
		}, false},
		{"a mebibyte", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 1<<20)) }, false},
		{"cut off", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, true},
		{"silence", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, true},
		{"a drip", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = w.Write([]byte(" "))
				_ = http.NewResponseController(w).Flush()
				select {
				case <-r.Context().Done():
				case <-time.After(20 * time.Millisecond):
				}
			}
		}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			s.Answer.Store(&test.answer)
			defer s.Answer.Store(nil)
			began := time.Now()
			for _, do := range []func([]byte, []byte) ([]byte, error){key.Encrypt, key.Decrypt} {
				out, err := do([]byte(canary), []byte("ad"))
				switch {
				case err == nil:
					t.Errorf("gave %q", out)
				case errors.Is(err, kek.ErrUnavailable) != test.transient:
					t.Errorf("transient: %t, of %v", !test.transient, err)
				case strings.Contains(err.Error(), canary) || strings.Contains(err.Error(), toBase64([]byte(canary))) || strings.Contains(err.Error(), Token):
					t.Errorf("the error says too much: %v", err)
				}
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
	for _, code := range []int{301, 302, 303, 307, 308} {
		hits := Start(t)
		answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, hits.URL()+r.URL.Path, code) })
		s.Answer.Store(&answer)
		if _, err := key.Decrypt([]byte(canary), nil); err == nil || errors.Is(err, kek.ErrUnavailable) {
			t.Errorf("a redirect with %d: %v", code, err)
		}
		if n := hits.Asked(); n != 0 {
			t.Errorf("a redirect with %d was followed", code)
		}
	}
	s.Answer.Store(nil)
	s.Stop()
	if _, err := key.Encrypt([]byte(canary), nil); !errors.Is(err, kek.ErrUnavailable) {
		t.Errorf("nobody listens: %v", err)
	}
	s.Resume()
	if _, err := key.Encrypt([]byte(canary), []byte("ad")); err != nil {
		t.Errorf("it is back: %v", err)
	}
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}
