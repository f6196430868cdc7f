package providers

import (
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"tokenbroker/broker"
)

// defaultNoticeAge is how old a notice with a timestamp may be, and how far ahead of our clock.
const defaultNoticeAge = 5 * time.Minute

// ReadNotice verifies a notice of the connector's provider and reads whose grants it is about. It sends nothing but, for a
// Security Event Token, a request for the provider's keys. Errors: broker.ErrNoNotices, broker.ErrNoticeRefused, and an
// *broker.UpstreamError where the keys can't be had.
func (r *Registry) ReadNotice(ctx context.Context, connector string, req broker.NoticeRequest) (broker.Notice, error) {
	s, err := r.server(connector)
	if err != nil {
		return broker.Notice{}, broker.ErrNoNotices
	}
	if !s.takesNotices() {
		return broker.Notice{}, broker.ErrNoNotices
	}
	notice, err := r.readNotice(ctx, s, req)
	if p := r.predecessor(s); p != nil && errors.Is(err, broker.ErrNoticeRefused) && s.def.Notices.Signature.Kind != "set" {
		return r.readNotice(ctx, p, req)
	}
	return notice, err
}

// readNotice is ReadNotice with s's secrets.
func (r *Registry) readNotice(ctx context.Context, s *server, req broker.NoticeRequest) (_ broker.Notice, err error) {
	n := s.def.Notices
	said := []tree{noticeTree(req.Body)}
	switch n.Signature.Kind {
	case "set":
		said, err = r.verifySET(ctx, s, req.Body)
	case "basic":
		err = s.verifyBasic(req)
	case "token":
		if !broker.NewSecret(req.Header(n.Signature.Header)).Equal(s.noticeSecret()) {
			err = broker.ErrNoticeRefused
		}
	default:
		err = s.verifySignature(req, r.now())
	}
	if err != nil {
		return broker.Notice{}, err
	}
	out := broker.Notice{Status: http.StatusOK}
	if n.Signature.Kind == "set" {
		out.Status = http.StatusAccepted // RFC 8935 section 2.2
	}
	for _, t := range said {
		for _, c := range n.Challenges {
			if !noticeMatches(c.When, t, req) {
				continue
			}
			out.Status = max(c.Status, http.StatusOK)
			if len(c.Answer) > 0 {
				if out.Answer, err = s.noticeAnswer(c, t); err != nil {
					return broker.Notice{}, err
				}
			}
			return out, nil
		}
		for _, e := range n.Events {
			if !noticeMatches(e.When, t, req) {
				continue
			}
			for _, path := range e.Accounts {
				out.Accounts = append(out.Accounts, noticeIDs(t, req, path, e.Prefix)...)
			}
			for _, path := range e.Groups {
				out.Groups = append(out.Groups, noticeIDs(t, req, path, e.Prefix)...)
			}
		}
	}
	return out, nil
}

func noticeTree(body []byte) tree {
	if len(strings.TrimSpace(string(body))) == 0 {
		return tree{root: map[string]any{}}
	}
	return jsonTree(body)
}

// takesNotices tells whether the provider sends notices, and whether they can be verified.
func (s *server) takesNotices() bool {
	n := s.def.Notices
	return n != nil && (n.Signature.Kind == "set" || !s.noticeSecret().IsZero())
}

// noticeSecret is what notices are signed with.
func (s *server) noticeSecret() broker.Secret {
	sig := s.def.Notices.Signature
	if sig.Kind == "basic" || sig.Secret == "client_secret" {
		return s.config.ClientSecret
	}
	return s.config.NoticeSecret
}

func (s *server) verifyBasic(req broker.NoticeRequest) error {
	h := http.Header{}
	h.Set("Authorization", req.Header("Authorization"))
	id, secret, ok := (&http.Request{Header: h}).BasicAuth()
	if !ok || id != s.config.ClientID || !broker.NewSecret(secret).Equal(s.config.ClientSecret) {
		return broker.ErrNoticeRefused
	}
	return nil
}

// verifySignature checks an HMAC or Ed25519 signature over the notice, and its age.
func (s *server) verifySignature(req broker.NoticeRequest, now time.Time) error {
	sig := s.def.Notices.Signature
	stamp := ""
	if sig.Timestamp != "" {
		stamp = req.Header(sig.Timestamp)
		n, err := strconv.ParseInt(stamp, 10, 64)
		if err != nil {
			return fmt.Errorf("%w: it has no time", broker.ErrNoticeRefused)
		}
		sent := time.Unix(n, 0)
		if n > 1e11 { // milliseconds, until the year 5138
			sent = time.UnixMilli(n)
		}
		limit := defaultNoticeAge
		if sig.MaxAge > 0 {
			limit = time.Duration(sig.MaxAge) * time.Second
		}
		if age := now.Sub(sent); age > limit || age < -limit {
			return fmt.Errorf("%w: it is too old, or of a clock that is wrong", broker.ErrNoticeRefused)
		}
	}
	signed := sig.Signed
	if signed == "" {
		signed = "{body}"
	}
	// The body goes in last: what looks like a placeholder in it is its own.
	before, behind, _ := strings.Cut(signed, "{body}")
	fill := strings.NewReplacer("{timestamp}", stamp, "{method}", req.Method, "{url}", req.URL)
	message := slices.Concat([]byte(fill.Replace(before)), req.Body, []byte(fill.Replace(behind)))
	text, ok := strings.CutPrefix(req.Header(sig.Header), sig.Prefix)
	got, err := hex.DecodeString(text)
	if sig.Encoding == "base64" {
		got, err = base64.StdEncoding.DecodeString(text)
	}
	if !ok || err != nil || len(got) == 0 {
		return broker.ErrNoticeRefused
	}
	if sig.Kind == "ed25519" {
		key, err := hex.DecodeString(s.noticeSecret().Reveal())
		if err != nil || len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, message, got) {
			return broker.ErrNoticeRefused
		}
		return nil
	}
	if !hmac.Equal(got, s.noticeMAC(message)) {
		return broker.ErrNoticeRefused
	}
	return nil
}

func (s *server) noticeMAC(message []byte) []byte {
	mac := hmac.New(sha256.New, []byte(s.noticeSecret().Reveal()))
	mac.Write(message)
	return mac.Sum(nil)
}

// noticeAnswer answers a challenge.
func (s *server) noticeAnswer(c NoticeChallenge, t tree) ([]byte, error) {
	answer := map[string]string{}
	for name, path := range c.Answer {
		if signed, ok := strings.CutPrefix(path, "hmac:"); ok {
			answer[name] = hex.EncodeToString(s.noticeMAC([]byte(t.text(signed))))
			continue
		}
		answer[name] = t.text(path)
	}
	body, err := json.Marshal(answer)
	if err != nil {
		return nil, fmt.Errorf("answer a challenge: %w", err)
	}
	return body, nil
}

// noticeMatches tells whether everything that is demanded is there.
func noticeMatches(when map[string]string, t tree, req broker.NoticeRequest) bool {
	for path, want := range when {
		got := noticeText(t, req, path)
		if got == "" || want != "*" && got != want {
			return false
		}
	}
	return true
}

func noticeText(t tree, req broker.NoticeRequest, path string) string {
	if name, ok := strings.CutPrefix(path, "header."); ok {
		return req.Header(name)
	}
	return t.text(path)
}

// maxNoticeIDs bounds how many accounts one notice can be about.
const maxNoticeIDs = 1000

// noticeIDs are the ids at the path: parts joined by "+" as in account ids, every combination where a part is a list.
func noticeIDs(t tree, req broker.NoticeRequest, path, prefix string) []string {
	ids := []string{""}
	for i, part := range strings.Split(path, "+") {
		var values []string
		switch value := t.at(part).(type) {
		case []any:
			for _, item := range value {
				if text, ok := scalar(item); ok && text != "" {
					values = append(values, text)
				}
			}
		default:
			text := noticeText(t, req, part)
			if strings.Contains(part, "*") {
				values = strings.Split(text, ",")
			} else if text != "" {
				values = []string{text}
			}
		}
		var next []string
		for _, id := range ids {
			for _, value := range values {
				switch {
				case value == "":
				case i == 0:
					value = prefix + value
				default:
					value = id + ":" + value
				}
				if value != "" && len(next) < maxNoticeIDs {
					next = append(next, value)
				}
			}
		}
		ids = next
	}
	return ids
}
