package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"tokenbroker/vault/redisstore"
)

// The checks of single values. Each returns the value in its one form, or a complaint that follows the key's name:
// "must be ...", or several joined ones. No complaint repeats the value, which may be a secret in the wrong place.

// listenAddress is host:port; port 0 takes a free one.
func listenAddress(text string) (string, error) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return "", errors.New("must be host:port, such as 127.0.0.1:8080")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		return "", errors.New("must end with a port from 0 to 65535")
	}
	if strings.ContainsFunc(host, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) || r == '/' }) {
		return "", errors.New("must begin with a host name or address")
	}
	return text, nil
}

// isLoopback tells whether a URL's host is this machine: the only place to which http may go.
func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	address, err := netip.ParseAddr(host)
	return err == nil && address.IsLoopback()
}

// absoluteURL parses an https URL; http is accepted on loopback. Nothing in it may hide where it leads. The URL is
// returned beside complaints wherever it could be parsed.
func absoluteURL(text string) (*url.URL, error) {
	if strings.ContainsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) || r == '\\' }) {
		return nil, errors.New("must be a URL without spaces, control characters and backslashes")
	}
	u, err := url.Parse(text)
	if err != nil || u.Opaque != "" || u.Hostname() == "" {
		return nil, errors.New("must be an absolute URL, such as https://chat.example.com")
	}
	var wrong []error
	complain := func(text string) { wrong = append(wrong, errors.New(text)) }
	switch {
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		complain("must begin with https:// (http is for loopback only)")
	case u.Scheme != "https" && u.Scheme != "http":
		complain("must begin with https://")
	}
	if u.User != nil {
		complain("must not hold a user name or password")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			complain("must have a port from 1 to 65535")
		}
	} else if strings.HasSuffix(u.Host, ":") {
		complain("must have a port after the colon, or no colon")
	}
	if strings.Contains(text, "#") {
		complain("must not hold a fragment (#)")
	}
	return u, errors.Join(wrong...)
}

// serialOrigin is the origin as browsers write it (HTML standard, "serialization of an origin"): lower case, no default
// port.
func serialOrigin(u *url.URL) string {
	host := strings.ToLower(u.Host)
	if (u.Scheme == "https" && u.Port() == "443") || (u.Scheme == "http" && u.Port() == "80") {
		host = host[:strings.LastIndexByte(host, ':')]
	}
	return u.Scheme + "://" + host
}

// publicURL is scheme and host alone: paths are fixed by the contract, and cookies with the __Host- prefix need the root.
func publicURL(text string) (string, error) {
	u, err := absoluteURL(text)
	if u == nil {
		return "", err
	}
	if (u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.ForceQuery {
		err = errors.Join(err, errors.New("must be scheme and host alone, without a path; give tokenbroker a host name of its own"))
	}
	if err != nil {
		return "", err
	}
	return serialOrigin(u), nil
}

// returnURL is compared exactly later, so it stays as it is written.
func returnURL(text string) (string, error) {
	if _, err := absoluteURL(text); err != nil {
		return "", err
	}
	return text, nil
}

// webOrigin must be written as browsers write it, for it is compared with what they send.
func webOrigin(text string) (string, error) {
	u, err := absoluteURL(text)
	if err != nil {
		return "", err
	}
	if want := serialOrigin(u); text != want {
		return "", fmt.Errorf("must be an origin: scheme, host and port without a default port, path or trailing slash, in lower case; write %s", want)
	}
	return text, nil
}

// redisURL checks the form first in words of its own: the store's complaints may quote a part of the URL, and an odd
// password is a part of it.
func redisURL(text string) error {
	scheme, rest, found := strings.Cut(text, "://")
	want := map[string]string{
		"redis": "redis://HOST:PORT/DB", "rediss": "rediss://HOST:PORT/DB",
		"redis-sentinel": "redis-sentinel://HOST:PORT,HOST:PORT/MASTER", "redis-cluster": "redis-cluster://HOST:PORT,HOST:PORT",
	}
	form, known := want[scheme]
	if !found || !known {
		return errors.New("must begin with redis://, rediss://, redis-sentinel:// or redis-cluster://")
	}
	address, path, _ := strings.Cut(rest, "/")
	if address == "" {
		return errors.New("names no server; write " + form)
	}
	if scheme == "redis-sentinel" && path == "" {
		return errors.New("names no master; write " + form)
	}
	if scheme == "redis-sentinel" && strings.Contains(strings.TrimSuffix(strings.SplitN(path, "?", 2)[0], "/"), "/") {
		return errors.New("has something behind the master's name; write " + form + ", with ?db=N for a database")
	}
	if redisstore.CheckURL(text) != nil {
		return errors.New("cannot be read; write " + form + ", and special characters of a password as %XX")
	}
	return nil
}

var environmentKEK = regexp.MustCompile(`^env:[A-Za-z_][A-Za-z0-9_]*$`)

// kekReference checks that the key-encryption key is named, not given: the file must not hold it.
func kekReference(text string) (string, error) {
	if strings.HasPrefix(text, "env:") && !environmentKEK.MatchString(text) {
		return "", errors.New("must name an environment variable, such as env:TOKENBROKER_KEK")
	}
	if !strings.Contains(text, ":") {
		return "", errors.New("must be env:NAME or a KMS key URI (hcvault://, aws-kms://, gcp-kms://); the key itself does not belong into the file")
	}
	return text, nil
}

func anyPath(text string) (string, error) {
	if strings.ContainsRune(text, 0) {
		return "", errors.New("must be a path")
	}
	return text, nil
}

// sha256Hex reads 64 hex digits. The hash of nothing is refused: it would let an empty key in.
func sha256Hex(text string) ([32]byte, error) {
	var digest [32]byte
	raw, err := hex.DecodeString(strings.TrimSuffix(text, "  -")) // sha256sum's name for what it was given by a pipe
	if err != nil || len(raw) != len(digest) {
		return digest, errors.New("must be a SHA-256 in hex, 64 digits: printf %s KEY | sha256sum")
	}
	copy(digest[:], raw)
	if digest == sha256.Sum256(nil) || digest == sha256.Sum256([]byte("\n")) {
		return digest, errors.New("is the SHA-256 of an empty text; hash the key itself: printf %s KEY | sha256sum")
	}
	return digest, nil
}

var (
	clientIDForm    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	connectorIDForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)
	// RFC 6749 section 3.3: scope-token.
	scopeForm = regexp.MustCompile(`^[\x21\x23-\x5B\x5D-\x7E]{1,512}$`)
)

func clientID(text string) (string, error) {
	if !clientIDForm.MatchString(text) {
		return "", errors.New("must be 1 to 64 letters, digits, dots, dashes and underscores, the first a letter or digit")
	}
	return text, nil
}

// connectorID stands in the redirect URI, which providers compare exactly, so it is lower case.
func connectorID(text string) (string, error) {
	if !connectorIDForm.MatchString(text) {
		return "", errors.New("must be 1 to 63 lower-case letters, digits and hyphens, the first a letter or digit")
	}
	return text, nil
}

func scopeToken(text string) (string, error) {
	if !scopeForm.MatchString(text) {
		return "", errors.New("must be one scope, without spaces, quotes and backslashes (RFC 6749 section 3.3); list several as [a, b]")
	}
	return text, nil
}

// label is text that people read on one line.
func label(text string) (string, error) {
	if len(text) > 128 || strings.ContainsFunc(text, unicode.IsControl) || strings.TrimSpace(text) != text {
		return "", errors.New("must be one line of at most 128 bytes without spaces around it")
	}
	return text, nil
}

// oneLine is any value that goes into a request.
func oneLine(text string) (string, error) {
	if len(text) > 4096 || strings.ContainsFunc(text, unicode.IsControl) {
		return "", errors.New("must be one line of at most 4096 bytes")
	}
	return text, nil
}

// loopbackListen checks a listen address that nobody else may reach.
func loopbackListen(text string) error {
	if _, err := listenAddress(text); err != nil {
		return err
	}
	if host, _, _ := net.SplitHostPort(text); !isLoopback(host) {
		return errors.New("must be on loopback, such as 127.0.0.1:8080: dev has no protection against other machines")
	}
	return nil
}
