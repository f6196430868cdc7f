package gcpkms

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault/kek"
)

// tokenSource gets an access token that is valid now; it is asked anew each time, which is seldom.
type tokenSource func(ctx context.Context) (broker.Secret, error)

const (
	scope        = "https://www.googleapis.com/auth/cloudkms"
	metadataHost = "http://169.254.169.254"
	tokenURL     = "https://oauth2.googleapis.com/token"
)

// newTokenSource takes the first that is there:
//
//   - GOOGLE_APPLICATION_CREDENTIALS: the file of a service account's key. A file of another kind (federation from elsewhere,
//     a user's own credentials) is refused
//   - the service account of the machine, pod or run (the metadata server); GCE_METADATA_HOST is another address for it
func newTokenSource(p kek.Process) (tokenSource, error) {
	client := kek.NewClient("Google Cloud", p.Timeout, nil)
	if file := p.Getenv("GOOGLE_APPLICATION_CREDENTIALS"); file != "" {
		return serviceAccount(p, client, file)
	}
	base := metadataHost
	if host := p.Getenv("GCE_METADATA_HOST"); host != "" {
		base = "http://" + host
	}
	return func(ctx context.Context) (broker.Secret, error) {
		got, err := client.Ask(ctx, http.MethodGet, base+"/computeMetadata/v1/instance/service-accounts/default/token", http.Header{"Metadata-Flavor": {"Google"}}, nil)
		if err != nil {
			return broker.Secret{}, err
		}
		// Whoever answers at this address elsewhere does not say this.
		if got.Header.Get("Metadata-Flavor") != "Google" {
			return broker.Secret{}, errors.New("what answers is not Google's metadata server: set GOOGLE_APPLICATION_CREDENTIALS")
		}
		return accessToken(got, "the metadata server")
	}, nil
}

func accessToken(got kek.Answer, from string) (broker.Secret, error) {
	if !got.Fine() {
		return broker.Secret{}, fmt.Errorf("%s gives no token (status %d)", from, got.Status)
	}
	var body struct {
		Token string `json:"access_token"`
	}
	if err := got.Into(&body); err != nil {
		return broker.Secret{}, err
	}
	if body.Token == "" || strings.ContainsFunc(body.Token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return broker.Secret{}, fmt.Errorf("%s gives no token", from)
	}
	return broker.NewSecret(body.Token), nil
}

// serviceAccount signs a request for a token with the account's key (RFC 7523). The file is read again each time, so that a
// key can be exchanged.
func serviceAccount(p kek.Process, client *kek.Client, file string) (tokenSource, error) {
	if _, err := readAccount(p, file); err != nil {
		return nil, err
	}
	return func(ctx context.Context) (broker.Secret, error) {
		a, err := readAccount(p, file)
		if err != nil {
			return broker.Secret{}, err
		}
		assertion, err := a.assertion(p.Now())
		if err != nil {
			return broker.Secret{}, err
		}
		form := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {assertion.Reveal()}}
		got, err := client.Ask(ctx, http.MethodPost, a.tokenURL, http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, []byte(form.Encode()))
		if err != nil {
			return broker.Secret{}, err
		}
		return accessToken(got, "Google's token endpoint")
	}, nil
}

type account struct {
	email, keyID, tokenURL string
	key                    *rsa.PrivateKey
}

func readAccount(p kek.Process, file string) (account, error) {
	fail := func(text string) (account, error) {
		return account{}, errors.New("GOOGLE_APPLICATION_CREDENTIALS " + text)
	}
	text, err := p.ReadFile(file)
	if err != nil {
		return account{}, fmt.Errorf("GOOGLE_APPLICATION_CREDENTIALS: %w", err)
	}
	var body struct {
		Type     string `json:"type"`
		Email    string `json:"client_email"`
		KeyID    string `json:"private_key_id"`
		Key      string `json:"private_key"`
		TokenURI string `json:"token_uri"`
	}
	if json.Unmarshal(text, &body) != nil || body.Type != "service_account" || body.Email == "" {
		return fail("must be the JSON key file of a service account")
	}
	a := account{email: body.Email, keyID: body.KeyID, tokenURL: tokenURL}
	if body.TokenURI != "" && body.TokenURI != tokenURL {
		// A file that somebody was talked into must not send its assertion anywhere: another address is for emulators.
		u, err := url.Parse(body.TokenURI)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" {
			return fail("names a token_uri that is none")
		}
		if _, err := kek.BaseURL(u.Scheme + "://" + u.Host); err != nil || u.Scheme == "https" && !strings.HasSuffix(u.Hostname(), ".googleapis.com") {
			return fail("names a token_uri that is not Google's")
		}
		a.tokenURL = body.TokenURI
	}
	block, _ := pem.Decode([]byte(body.Key))
	if block == nil {
		return fail("holds no private key")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return fail("holds no private key in PKCS #8") // the parser's error is about bytes of it
	}
	key, ok := parsed.(*rsa.PrivateKey)
	if !ok || key.N.BitLen() < 2048 {
		return fail("holds no RSA key of 2048 bits or more")
	}
	a.key = key
	return a, nil
}

// assertion is a JWT with RS256 (RFC 7515, RFC 7523).
func (a account) assertion(now time.Time) (broker.Secret, error) {
	head, err := json.Marshal(map[string]string{"alg": "RS256", "typ": "JWT", "kid": a.keyID})
	if err != nil {
		return broker.Secret{}, fmt.Errorf("write assertion: %w", err)
	}
	claims, err := json.Marshal(map[string]any{"iss": a.email, "aud": a.tokenURL, "scope": scope, "iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix()})
	if err != nil {
		return broker.Secret{}, fmt.Errorf("write assertion: %w", err)
	}
	text := base64.RawURLEncoding.EncodeToString(head) + "." + base64.RawURLEncoding.EncodeToString(claims)
	sum := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(rand.Reader, a.key, crypto.SHA256, sum[:])
	if err != nil {
		return broker.Secret{}, fmt.Errorf("sign assertion: %w", err)
	}
	return broker.NewSecret(text + "." + base64.RawURLEncoding.EncodeToString(signature)), nil
}
