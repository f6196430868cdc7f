package sinks

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode"
)

// FuzzSinkAnswer (threats 26, 55 and 70): a webhook and a collector answer anything, from the first byte on. Events count as taken only if a plain
// reader finds that they were; an error tells little of what was said and nothing of the path.
func FuzzSinkAnswer(f *testing.F) {
	for _, seed := range []string{
		"HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "HTTP/1.1 302 Found\r\nLocation: http://elsewhere.example/\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 500 canary\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 52\r\n\r\n" + `{"partialSuccess":{"rejectedLogRecords":"1"},"x":"y"}`, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + `{"partialSuccess":{"rejectedLogRecords":1e0}}`,
		"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + `{"partialSuccess":{"rejectedLogRecords":99999999999999999999}}`, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + `{"partialSuccess":{"rejectedLogRecords":"many"}}`,
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", "SSH-2.0-OpenSSH\r\n", "",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		client := &http.Client{
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
				ours, theirs := net.Pipe()
				go func() {
					defer func() { _ = theirs.Close() }()
					if _, err := http.ReadRequest(bufio.NewReader(theirs)); err == nil {
						_, _ = theirs.Write(answer)
					}
				}()
				return ours, nil
			}},
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		hook, err1 := NewWebhook("http://sink.example/canary-path", client)
		otlp, err2 := NewOTLP("http://sink.example/canary-path", client)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		status, said := plainAnswer(answer)
		for name, err := range map[string]error{"webhook": hook.Append(ctx, lines(event)), "OTLP": otlp.Append(ctx, lines(event))} {
			if err != nil {
				if text := err.Error(); len(text) > 400 || strings.Contains(text, "canary-path") || strings.IndexFunc(text, unicode.IsControl) >= 0 {
					t.Fatalf("%s: the error is %q", name, text)
				}
				continue
			}
			if status < 200 || status > 299 {
				t.Fatalf("%s: taken with %d", name, status)
			}
			if n := rejected(said); name == "OTLP" && n != "" && n != "0" {
				t.Fatalf("taken, and %s were rejected", n)
			}
		}
	})
}

// plainAnswer is what another reader makes of an answer.
func plainAnswer(answer []byte) (status int, body []byte) {
	from := bufio.NewReader(bytes.NewReader(answer))
	for {
		r, err := http.ReadResponse(from, nil)
		if err != nil {
			return 0, nil
		}
		if r.StatusCode >= 200 || r.StatusCode == http.StatusSwitchingProtocols {
			body, _ := io.ReadAll(r.Body)
			return r.StatusCode, body
		}
	}
}

// rejected is how many records a collector says that it did not take, as it says that; "": it says nothing of the kind.
func rejected(body []byte) string {
	var all map[string]json.RawMessage
	if json.Unmarshal(body, &all) != nil || json.Unmarshal(all["partialSuccess"], &all) != nil {
		return ""
	}
	n, there := all["rejectedLogRecords"]
	if !there || bytes.Equal(n, []byte("null")) {
		return ""
	}
	return strings.Trim(string(n), `"`)
}
