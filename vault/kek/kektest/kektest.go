// Package kektest is a key management service for tests: it answers as the transit engine of Vault, AWS KMS and Google Cloud KMS
// do, by the shapes of their references, and really encrypts with what it is asked to bind. It can be away, and come back.
package kektest

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// Token is what Vault and Google Cloud want to see.
const Token = "kms-token-canary-4b7d1f"

// Service is one, on loopback.
type Service struct {
	t       testing.TB
	seal    cipher.AEAD
	address string
	// version is the newest of the transit key, least the oldest that still opens.
	version, least atomic.Int64
	mu             sync.Mutex
	server         *http.Server
	done           chan struct{}
	asked          atomic.Int64
	// Answer replaces the answer to everything; nil: none.
	Answer atomic.Pointer[http.HandlerFunc]
	// Hangs tells of a request that it gets no answer before its caller gives up; nil: none does.
	Hangs atomic.Pointer[func(*http.Request) bool]
}

// Start starts one; it ends with the test.
func Start(t testing.TB) *Service {
	t.Helper()
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	s := &Service{t: t, address: "127.0.0.1:0"}
	s.version.Store(1)
	if s.seal, err = cipher.NewGCM(block); err != nil {
		t.Fatal(err)
	}
	s.Resume()
	t.Cleanup(s.Stop)
	return s
}

// URL is scheme and host.
func (s *Service) URL() string { return "http://" + s.address }

// Asked is how many requests came.
func (s *Service) Asked() int64 { return s.asked.Load() }

// Rotate makes a new version of the transit key; min_decryption_version becomes least.
func (s *Service) Rotate(least int64) {
	s.version.Add(1)
	s.least.Store(least)
}

// Stop takes it away: nobody listens, and what is under way is cut off.
func (s *Service) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server == nil {
		return
	}
	_ = s.server.Close()
	<-s.done
	s.server = nil
}

// Resume brings it back at the same address, with the same key.
func (s *Service) Resume() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	socket, err := net.Listen("tcp", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.address = socket.Addr().String()
	server, done := &http.Server{Handler: s}, make(chan struct{})
	s.server, s.done = server, done
	go func() {
		defer close(done)
		_ = server.Serve(socket)
	}()
}

func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.asked.Add(1)
	if answer := s.Answer.Load(); answer != nil {
		(*answer)(w, r)
		return
	}
	var body map[string]any
	text, _ := io.ReadAll(r.Body)
	if hangs := s.Hangs.Load(); hangs != nil && (*hangs)(r) {
		<-r.Context().Done()
		return
	}
	_ = json.Unmarshal(text, &body)
	switch target := r.Header.Get("X-Amz-Target"); {
	case target != "":
		s.aws(w, r, strings.TrimPrefix(target, "TrentService."), body)
	case strings.HasPrefix(r.URL.Path, "/v1/transit/"):
		s.transit(w, r, body)
	case strings.HasPrefix(r.URL.Path, "/v1/projects/"):
		s.google(w, r, body)
	case r.URL.Path == "/computeMetadata/v1/instance/service-accounts/default/token":
		w.Header().Set("Metadata-Flavor", "Google")
		write(w, 200, map[string]any{"access_token": Token, "expires_in": 3599, "token_type": "Bearer"})
	default:
		write(w, 404, map[string]any{"errors": []string{}})
	}
}

func (s *Service) wrap(plain, ad []byte) []byte {
	nonce := make([]byte, s.seal.NonceSize())
	_, _ = rand.Read(nonce)
	return s.seal.Seal(nonce, nonce, plain, ad)
}

func (s *Service) open(wrapped, ad []byte) ([]byte, error) {
	if len(wrapped) < s.seal.NonceSize() {
		return nil, errors.New("short")
	}
	return s.seal.Open(nil, wrapped[:s.seal.NonceSize()], wrapped[s.seal.NonceSize():], ad)
}

// transit is POST /v1/transit/encrypt/NAME and /decrypt/NAME (developer.hashicorp.com/vault/api-docs/secret/transit).
func (s *Service) transit(w http.ResponseWriter, r *http.Request, body map[string]any) {
	if r.Header.Get("X-Vault-Token") != Token {
		write(w, 403, map[string]any{"errors": []string{"permission denied"}})
		return
	}
	ad := string(fromBase64(body["associated_data"]))
	of := func(version int64) []byte { return fmt.Appendf(nil, "version %d, %s", version, ad) } // each version is a key of its own
	if strings.HasPrefix(r.URL.Path, "/v1/transit/encrypt/") {
		version := s.version.Load()
		wrapped := s.wrap(fromBase64(body["plaintext"]), of(version))
		write(w, 200, map[string]any{"data": map[string]any{"ciphertext": fmt.Sprintf("vault:v%d:%s", version, toBase64(wrapped)), "key_version": version}})
		return
	}
	text, _ := body["ciphertext"].(string)
	number, rest, _ := strings.Cut(strings.TrimPrefix(text, "vault:v"), ":")
	version, _ := strconv.ParseInt(number, 10, 64)
	plain, err := s.open(fromBase64(rest), of(version))
	if err != nil || version < s.least.Load() {
		write(w, 400, map[string]any{"errors": []string{"cipher: message authentication failed"}})
		return
	}
	write(w, 200, map[string]any{"data": map[string]any{"plaintext": toBase64(plain)}})
}

// aws is TrentService.Encrypt and .Decrypt (docs.aws.amazon.com/kms/latest/APIReference).
func (s *Service) aws(w http.ResponseWriter, r *http.Request, operation string, body map[string]any) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	if !strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=") {
		write(w, 400, map[string]any{"__type": "MissingAuthenticationTokenException"})
		return
	}
	given, _ := json.Marshal(body["EncryptionContext"]) // keys sorted: one form
	if operation == "Encrypt" {
		write(w, 200, map[string]any{"CiphertextBlob": s.wrap(fromBase64(body["Plaintext"]), given), "KeyId": body["KeyId"], "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"})
		return
	}
	plain, err := s.open(fromBase64(body["CiphertextBlob"]), given)
	if err != nil {
		write(w, 400, map[string]any{"__type": "InvalidCiphertextException", "message": nil})
		return
	}
	write(w, 200, map[string]any{"Plaintext": plain, "KeyId": body["KeyId"], "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"})
}

// google is cryptoKeys.encrypt and .decrypt (cloud.google.com/kms/docs/reference/rest).
func (s *Service) google(w http.ResponseWriter, r *http.Request, body map[string]any) {
	if r.Header.Get("Authorization") != "Bearer "+Token {
		write(w, 401, map[string]any{"error": map[string]any{"code": 401, "status": "UNAUTHENTICATED"}})
		return
	}
	ad := fromBase64(body["additionalAuthenticatedData"])
	if strings.HasSuffix(r.URL.Path, ":encrypt") {
		plain := fromBase64(body["plaintext"])
		wrapped := s.wrap(plain, ad)
		write(w, 200, map[string]any{"name": strings.TrimPrefix(r.URL.Path, "/v1/") + "/cryptoKeyVersions/1", "ciphertext": wrapped, "ciphertextCrc32c": crc(wrapped),
			"verifiedPlaintextCrc32c": body["plaintextCrc32c"] == crc(plain), "verifiedAdditionalAuthenticatedDataCrc32c": body["additionalAuthenticatedDataCrc32c"] == crc(ad), "protectionLevel": "SOFTWARE"})
		return
	}
	plain, err := s.open(fromBase64(body["ciphertext"]), ad)
	if err != nil {
		write(w, 400, map[string]any{"error": map[string]any{"code": 400, "message": "Decryption failed", "status": "INVALID_ARGUMENT"}})
		return
	}
	write(w, 200, map[string]any{"plaintext": plain, "plaintextCrc32c": crc(plain), "usedPrimary": true, "protectionLevel": "SOFTWARE"})
}

func crc(b []byte) string {
	return strconv.FormatUint(uint64(crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))), 10)
}

func toBase64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

func fromBase64(v any) []byte {
	text, _ := v.(string)
	b, _ := base64.StdEncoding.DecodeString(text)
	return b
}

func write(w http.ResponseWriter, status int, body any) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// Process is what a service's package gets in tests: an environment and files that are given, and nothing of the real one.
func Process(env map[string]string, files map[string]string) (getenv func(string) string, readFile func(string) ([]byte, error)) {
	return func(name string) string { return env[name] }, func(path string) ([]byte, error) {
		text, ok := files[path]
		if !ok {
			return nil, errors.New("no such file")
		}
		return []byte(text), nil
	}
}
