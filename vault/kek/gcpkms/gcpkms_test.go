package gcpkms_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"tokenbroker/vault/kek"
	"tokenbroker/vault/kek/gcpkms"
	"tokenbroker/vault/kek/kektest"
)

const name = "projects/acme/locations/europe-west3/keyRings/tb/cryptoKeys/keyset"

func process(env, files map[string]string) kek.Process {
	p := kek.Process{Now: time.Now, Timeout: time.Second}
	p.Getenv, p.ReadFile = kektest.Process(env, files)
	return p
}

func TestWraps(t *testing.T) {
	s := kektest.Start(t)
	metadata := kektest.Start(t) // so that only the service is away in what follows
	key, err := gcpkms.New("gcp-kms://"+name, process(map[string]string{"CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDKMS": s.URL() + "/", "GCE_METADATA_HOST": strings.TrimPrefix(metadata.URL(), "http://")}, nil))
	if err != nil {
		t.Fatal(err)
	}
	kektest.Wraps(t, key)
	kektest.Fails(t, s, key)
}

// TestChecksums: what was changed on the way is not used, and is worth another try.
func TestChecksums(t *testing.T) {
	s, metadata := kektest.Start(t), kektest.Start(t)
	key, err := gcpkms.New("gcp-kms:"+name, process(map[string]string{"CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDKMS": s.URL(), "GCE_METADATA_HOST": strings.TrimPrefix(metadata.URL(), "http://")}, nil))
	if err != nil {
		t.Fatal(err)
	}
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, `{"plaintext":"a2V5","plaintextCrc32c":"1","ciphertext":"a2V5","ciphertextCrc32c":"1","verifiedPlaintextCrc32c":true,"verifiedAdditionalAuthenticatedDataCrc32c":true}`)
	})
	s.Answer.Store(&answer)
	if _, err := key.Decrypt([]byte("x"), nil); err == nil || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("decrypt: %v", err)
	}
	if _, err := key.Encrypt([]byte("x"), nil); err == nil || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("encrypt: %v", err)
	}
}

// TestServiceAccount signs for a token and is checked as Google would (RFC 7523).
func TestServiceAccount(t *testing.T) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	var claims struct {
		Iss, Aud, Scope string
		Iat, Exp        int64
	}
	tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		parts := strings.Split(r.FormValue("assertion"), ".")
		if r.FormValue("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" || len(parts) != 3 {
			w.WriteHeader(400)
			return
		}
		signature, _ := base64.RawURLEncoding.DecodeString(parts[2])
		sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
		body, _ := base64.RawURLEncoding.DecodeString(parts[1])
		if rsa.VerifyPKCS1v15(&private.PublicKey, crypto.SHA256, sum[:], signature) != nil || json.Unmarshal(body, &claims) != nil {
			w.WriteHeader(401)
			return
		}
		_, _ = io.WriteString(w, `{"access_token":"`+kektest.Token+`","expires_in":3599}`)
	}))
	defer tokens.Close()
	file := func(change map[string]any) string {
		fields := map[string]any{"type": "service_account", "client_email": "tb@acme.iam.gserviceaccount.com", "private_key_id": "k1", "token_uri": tokens.URL + "/token",
			"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))}
		for k, v := range change {
			fields[k] = v
		}
		text, _ := json.Marshal(fields)
		return string(text)
	}
	s := kektest.Start(t)
	env := map[string]string{"CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDKMS": s.URL(), "GOOGLE_APPLICATION_CREDENTIALS": "/sa.json"}
	key, err := gcpkms.New("gcp-kms://"+name, process(env, map[string]string{"/sa.json": file(nil)}))
	if err != nil {
		t.Fatal(err)
	}
	kektest.Wraps(t, key)
	if claims.Iss != "tb@acme.iam.gserviceaccount.com" || claims.Aud != tokens.URL+"/token" || !strings.Contains(claims.Scope, "cloudkms") || claims.Exp-claims.Iat != 300 {
		t.Errorf("asserted %+v", claims)
	}
	for name, change := range map[string]map[string]any{
		"of a user": {"type": "authorized_user"}, "federated": {"type": "external_account"}, "without a key": {"private_key": "canary"},
		"token_uri elsewhere": {"token_uri": "https://evil.example.com/token"}, "token_uri in clear": {"token_uri": "http://oauth2.googleapis.com/token"}, "token_uri of another kind": {"token_uri": "file:///etc/passwd"},
	} {
		if _, err := gcpkms.New("gcp-kms://projects/a/locations/b/keyRings/c/cryptoKeys/d", process(env, map[string]string{"/sa.json": file(change)})); err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestURIs(t *testing.T) {
	for _, uri := range []string{"gcp-kms:", "gcp-kms://", "gcp-kms://" + name + "/cryptoKeyVersions/1", "gcp-kms://projects/a/../b/locations/c/keyRings/d/cryptoKeys/e", "gcp-kms://" + name + "?x", "gcp-kms://" + name + ":decrypt"} {
		if _, err := gcpkms.New(uri, process(nil, nil)); err == nil {
			t.Errorf("%s is taken", uri)
		}
	}
	// What answers at the metadata address of another cloud is not believed.
	s := kektest.Start(t)
	other := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"access_token":"x"}`) })
	s.Answer.Store(&other)
	key, err := gcpkms.New("gcp-kms://"+name, process(map[string]string{"GCE_METADATA_HOST": strings.TrimPrefix(s.URL(), "http://")}, nil))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := key.Decrypt([]byte("x"), nil); err == nil || !strings.Contains(err.Error(), "not Google's") {
		t.Errorf("got %v", err)
	}
}
