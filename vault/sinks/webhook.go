package sinks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// Webhook posts lines to a URL.
type Webhook struct {
	url    string
	host   string
	client *http.Client
}

// NewWebhook makes one; the client decides which addresses may be dialled, and must follow no redirect.
func NewWebhook(address string, client *http.Client) (*Webhook, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || client == nil {
		return nil, errors.New("sinks: a webhook needs a URL and a client")
	}
	return &Webhook{url: address, host: u.Host, client: client}, nil
}

// Name is for operators; the path may be a secret.
func (w *Webhook) Name() string { return "webhook " + w.host }

// Publish posts one line as JSON.
func (w *Webhook) Publish(ctx context.Context, line []byte) error {
	return w.post(ctx, "application/json", append(bytes.Clone(line), '\n'))
}

// Append posts lines as JSON Lines.
func (w *Webhook) Append(ctx context.Context, lines [][]byte) error {
	return w.post(ctx, "application/jsonl", append(bytes.Join(lines, []byte{'\n'}), '\n'))
}

// maxAnswer is how much of an answer is read.
const maxAnswer = 64 << 10

// post posts; nothing in the answer counts but its status.
func (w *Webhook) post(ctx context.Context, kind string, body []byte) error {
	_, _, err := w.exchange(ctx, kind, body)
	return err
}

// exchange posts, and returns what was answered; whole: that is all of it.
func (w *Webhook) exchange(ctx context.Context, kind string, body []byte) (said []byte, whole bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url, bytes.NewReader(body))
	if err != nil {
		return nil, false, fmt.Errorf("post to %s: the URL is not usable", w.Name())
	}
	req.Header.Set("Content-Type", kind)
	resp, err := w.client.Do(req)
	if err != nil {
		return nil, false, fmt.Errorf("post to %s: %w", w.Name(), sayable(err))
	}
	defer func() { _ = resp.Body.Close() }()
	said, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return nil, false, fmt.Errorf("post to %s: it answered %d", w.Name(), resp.StatusCode)
	}
	if err != nil && ctx.Err() != nil {
		return nil, false, fmt.Errorf("post to %s: its answer has no end: %w", w.Name(), ctx.Err())
	}
	return said, err == nil && len(said) <= maxAnswer, nil
}

// sayable is what may be said of an error of the client: no path, and no answer, of which net/http quotes any amount.
func sayable(err error) error {
	var with *url.Error
	if errors.As(err, &with) {
		err = with.Err // which names no path
	}
	var network *net.OpError
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || errors.As(err, &network) {
		return err
	}
	text, _, _ := strings.Cut(err.Error(), `"`)
	return errors.New(strings.TrimRight(text[:min(len(text), 200)], ": "))
}

// Close ends idle connections.
func (w *Webhook) Close() error {
	w.client.CloseIdleConnections()
	return nil
}
