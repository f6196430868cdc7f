package hcvault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"tokenbroker/broker"
	"tokenbroker/vault/kek"
)

// login is how the process proves who it is. One of them holds, the first that is set:
//
//   - VAULT_TOKEN, a token
//   - VAULT_TOKEN_FILE, a file that holds one and that Vault's agent keeps fresh
//   - VAULT_ROLE_ID and VAULT_SECRET_ID: AppRole; VAULT_APPROLE_MOUNT is where, "approle" if unset
//   - VAULT_K8S_ROLE: the pod's service account; VAULT_K8S_MOUNT is where, "kubernetes" if unset
//
// The last two log in anew each time, so nothing is renewed in between.
type login struct {
	token    broker.Secret
	file     string
	readFile func(string) ([]byte, error)
	mount    string
	// fields are what the login sends; the value of one may be the text of a file instead.
	fields map[string]broker.Secret
	jwt    string // the file of the field "jwt"
}

const serviceAccountToken = "/var/run/secrets/kubernetes.io/serviceaccount/token"

func newLogin(p kek.Process) (login, error) {
	l := login{readFile: p.ReadFile}
	orElse := func(name, standard string) (string, error) {
		text := p.Getenv(name)
		if text == "" {
			return standard, nil
		}
		if !pathForm.MatchString(text) {
			return "", fmt.Errorf("the variable %s must be a mount's path, such as %s", name, standard)
		}
		return text, nil
	}
	var err error
	switch {
	case p.Getenv("VAULT_TOKEN") != "":
		l.token = broker.NewSecret(strings.TrimSpace(p.Getenv("VAULT_TOKEN")))
	case p.Getenv("VAULT_TOKEN_FILE") != "":
		l.file = p.Getenv("VAULT_TOKEN_FILE")
	case p.Getenv("VAULT_ROLE_ID") != "":
		l.mount, err = orElse("VAULT_APPROLE_MOUNT", "approle")
		l.fields = map[string]broker.Secret{"role_id": broker.NewSecret(p.Getenv("VAULT_ROLE_ID"))}
		if secret := p.Getenv("VAULT_SECRET_ID"); secret != "" {
			l.fields["secret_id"] = broker.NewSecret(secret)
		}
	case p.Getenv("VAULT_K8S_ROLE") != "":
		l.mount, err = orElse("VAULT_K8S_MOUNT", "kubernetes")
		l.fields, l.jwt = map[string]broker.Secret{"role": broker.NewSecret(p.Getenv("VAULT_K8S_ROLE"))}, serviceAccountToken
	default:
		err = errors.New("nothing says how to log in to Vault: set VAULT_TOKEN, VAULT_TOKEN_FILE, VAULT_ROLE_ID with VAULT_SECRET_ID, or VAULT_K8S_ROLE")
	}
	return l, err
}

// token is one to ask with.
func (k *Key) token(ctx context.Context) (broker.Secret, error) {
	l := k.login
	if !l.token.IsZero() {
		return headerToken(l.token.Reveal())
	}
	if l.file != "" {
		text, err := l.readFile(l.file)
		if err != nil {
			// An agent that has not written it yet, most likely.
			return broker.Secret{}, fmt.Errorf("the token for Vault: %w: %w", err, kek.ErrUnavailable)
		}
		return headerToken(string(text))
	}
	fields := make(map[string]string, len(l.fields)+1)
	for name, value := range l.fields {
		fields[name] = value.Reveal()
	}
	if l.jwt != "" {
		text, err := l.readFile(l.jwt)
		if err != nil {
			return broker.Secret{}, fmt.Errorf("the service account's token: %w", err)
		}
		fields["jwt"] = strings.TrimSpace(string(text))
	}
	answer, err := k.client.AskJSON(ctx, k.base+"/v1/auth/"+l.mount+"/login", k.header(broker.Secret{}), fields)
	if err != nil {
		return broker.Secret{}, err
	}
	if answer.Status != http.StatusOK {
		return broker.Secret{}, fmt.Errorf("%s refuses the login at auth/%s (status %d)", service, l.mount, answer.Status)
	}
	var body struct {
		Auth struct {
			Token string `json:"client_token"`
		} `json:"auth"`
	}
	if err := answer.Into(&body); err != nil {
		return broker.Secret{}, err
	}
	return headerToken(body.Auth.Token)
}

// headerToken refuses what can't stand in a header; the HTTP library's own error would quote it.
func headerToken(text string) (broker.Secret, error) {
	text = strings.TrimSpace(text)
	if text == "" || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return broker.Secret{}, errors.New("the token for Vault is empty, or not one word")
	}
	return broker.NewSecret(text), nil
}
