// Package hcvault asks the transit engine of HashiCorp Vault or OpenBao to wrap the keyset.
//
// The key is one that encrypts with associated data: aes256-gcm96 (the default) or chacha20-poly1305, not derived. What asks
// needs update on MOUNT/encrypt/NAME and MOUNT/decrypt/NAME. A rotated transit key goes on opening what it wrapped, unless
// its min_decryption_version was raised.
package hcvault

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"tokenbroker/broker"
	"tokenbroker/vault/kek"
)

const service = "Vault"

// Key is a key of the transit engine.
type Key struct {
	client    *kek.Client
	base      string // scheme and host
	mount     string
	name      string
	namespace string
	login     login
}

// pathForm is a mount's path or a key's name: what needs no escaping and can't climb.
var pathForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]*(/[A-Za-z0-9][A-Za-z0-9_-]*)*$`)

// New reads hcvault://HOST:PORT/MOUNT/keys/NAME; hcvault:http://127.0.0.1:8200/MOUNT/keys/NAME is for loopback. What proves
// who asks is in the environment: see login. VAULT_NAMESPACE and VAULT_CACERT are as Vault's own program has them.
func New(uri string, p kek.Process) (*Key, error) {
	text := strings.TrimPrefix(uri, "hcvault:")
	if strings.HasPrefix(text, "//") {
		text = "https:" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return nil, errors.New("the KEK must be written hcvault://HOST:PORT/transit/keys/NAME")
	}
	base, err := kek.BaseURL(u.Scheme + "://" + u.Host)
	if err != nil {
		return nil, fmt.Errorf("the address in hcvault: %w", err)
	}
	mount, name, found := strings.Cut(strings.Trim(u.Path, "/"), "/keys/")
	if !found || !pathForm.MatchString(mount) || !pathForm.MatchString(name) || strings.Contains(name, "/") || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("the KEK must be written hcvault://HOST:PORT/transit/keys/NAME")
	}
	roots, err := p.Roots(p.Getenv("VAULT_CACERT"))
	if err != nil {
		return nil, fmt.Errorf("VAULT_CACERT: %w", err)
	}
	k := &Key{client: kek.NewClient(service, p.Timeout, roots), base: base, mount: mount, name: name, namespace: p.Getenv("VAULT_NAMESPACE")}
	k.login, err = newLogin(p)
	return k, err
}

// Encrypt wraps plaintext and has the service bind associatedData to it. A Vault before 1.9 takes associated data and ignores
// it, so what was wrapped is asked back with other data, which must be refused: this happens when a keyset is written.
func (k *Key) Encrypt(plaintext, associatedData []byte) ([]byte, error) {
	ctx := context.Background()
	token, err := k.token(ctx)
	if err != nil {
		return nil, err
	}
	wrapped, err := k.transit(ctx, token, "encrypt", field{"plaintext", base64.StdEncoding.EncodeToString(plaintext)}, associatedData, "ciphertext")
	if err != nil {
		return nil, err
	}
	_, err = k.transit(ctx, token, "decrypt", field{"ciphertext", wrapped}, append([]byte("not "), associatedData...), "plaintext")
	switch {
	case err == nil:
		return nil, errors.New("this Vault does not bind associated data: use a version from 1.12 on, and a transit key of type aes256-gcm96")
	case errors.Is(err, kek.ErrUnavailable):
		return nil, err
	}
	return []byte(wrapped), nil
}

// Decrypt opens what Encrypt wrapped with the same associatedData.
func (k *Key) Decrypt(ciphertext, associatedData []byte) ([]byte, error) {
	ctx := context.Background()
	token, err := k.token(ctx)
	if err != nil {
		return nil, err
	}
	text, err := k.transit(ctx, token, "decrypt", field{"ciphertext", string(ciphertext)}, associatedData, "plaintext")
	if err != nil {
		return nil, err
	}
	plaintext, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("%s answers something that is not base64", service)
	}
	return plaintext, nil
}

// field is what is wrapped or opened, by its name.
type field struct{ name, value string }

// transit asks the engine for one thing and returns the text under want.
func (k *Key) transit(ctx context.Context, token broker.Secret, action string, in field, associatedData []byte, want string) (string, error) {
	answer, err := k.client.AskJSON(ctx, k.base+"/v1/"+k.mount+"/"+action+"/"+k.name, k.header(token),
		map[string]string{in.name: in.value, "associated_data": base64.StdEncoding.EncodeToString(associatedData)})
	if err != nil {
		return "", err
	}
	if !answer.Fine() {
		return "", k.refused(action, answer.Status)
	}
	var body struct {
		Data map[string]any `json:"data"`
	}
	if err := answer.Into(&body); err != nil {
		return "", err
	}
	text, _ := body.Data[want].(string)
	if text == "" {
		return "", fmt.Errorf("%s answers without %s", service, want)
	}
	return text, nil
}

func (k *Key) header(token broker.Secret) http.Header {
	h := http.Header{"X-Vault-Request": {"true"}} // an agent between may insist on it
	if !token.IsZero() {
		h.Set("X-Vault-Token", token.Reveal())
	}
	if k.namespace != "" {
		h.Set("X-Vault-Namespace", k.namespace)
	}
	return h
}

func (k *Key) refused(action string, status int) error {
	hint := ""
	switch status {
	case http.StatusBadRequest:
		hint = "another key wrapped it, or " + k.name + " is of a type without associated data, or derived"
	case http.StatusForbidden:
		hint = "the token is not valid, or its policy lacks update on " + k.mount + "/" + action + "/" + k.name
	case http.StatusNotFound:
		hint = "there is no transit engine at " + k.mount + ", or no key " + k.name
	case http.StatusPreconditionFailed, 472, 473: // a standby that is behind, or serves no requests
		return fmt.Errorf("%s: a standby answers with status %d: %w", service, status, kek.ErrUnavailable)
	}
	if status >= 300 && status < 400 {
		hint = "it redirects, which is not followed: name the active server, or one that forwards"
	}
	return kek.Refused(service, action, status, "", hint)
}
