package hcvault_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"tokenbroker/vault/kek"
	"tokenbroker/vault/kek/hcvault"
	"tokenbroker/vault/kek/kektest"
)

func process(env, files map[string]string) kek.Process {
	p := kek.Process{Now: time.Now, Timeout: time.Second}
	p.Getenv, p.ReadFile = kektest.Process(env, files)
	return p
}

func TestWraps(t *testing.T) {
	s := kektest.Start(t)
	key, err := hcvault.New("hcvault:"+s.URL()+"/transit/keys/tokenbroker", process(map[string]string{"VAULT_TOKEN": kektest.Token}, nil))
	if err != nil {
		t.Fatal(err)
	}
	kektest.Wraps(t, key)
	kektest.Fails(t, s, key)
}

// A Vault that ignores associated data would let the two parts of a keyset file stand in for one another.
func TestEncryptProvesTheBinding(t *testing.T) {
	s := kektest.Start(t)
	key, err := hcvault.New("hcvault:"+s.URL()+"/transit/keys/old", process(map[string]string{"VAULT_TOKEN": kektest.Token}, nil))
	if err != nil {
		t.Fatal(err)
	}
	old := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/encrypt/") {
			_, _ = io.WriteString(w, `{"data":{"ciphertext":"vault:v1:abcd"}}`)
			return
		}
		_, _ = io.WriteString(w, `{"data":{"plaintext":"a2V5"}}`)
	})
	s.Answer.Store(&old)
	if _, err := key.Encrypt([]byte("key"), []byte("ad")); err == nil || !strings.Contains(err.Error(), "does not bind") {
		t.Errorf("got %v", err)
	}
}

func TestLogins(t *testing.T) {
	s := kektest.Start(t)
	// What a login answers, and what it got (developer.hashicorp.com/vault/api-docs/auth/approle, /kubernetes).
	var path string
	var fields map[string]string
	login := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/login") {
			if r.Header.Get("X-Vault-Token") != kektest.Token || r.Header.Get("X-Vault-Namespace") != "team/a" {
				w.WriteHeader(403)
				return
			}
			_, _ = io.WriteString(w, `{"data":{"plaintext":"a2V5"}}`)
			return
		}
		path, fields = r.URL.Path, nil
		_ = json.NewDecoder(r.Body).Decode(&fields)
		_, _ = io.WriteString(w, `{"auth":{"client_token":"`+kektest.Token+`","lease_duration":60}}`)
	})
	s.Answer.Store(&login)
	for name, test := range map[string]struct {
		env   map[string]string
		files map[string]string
		path  string
		want  map[string]string
	}{
		"file":       {env: map[string]string{"VAULT_TOKEN_FILE": "/run/token"}, files: map[string]string{"/run/token": kektest.Token + "\n"}},
		"approle":    {env: map[string]string{"VAULT_ROLE_ID": "r-1", "VAULT_SECRET_ID": "s-1"}, path: "/v1/auth/approle/login", want: map[string]string{"role_id": "r-1", "secret_id": "s-1"}},
		"kubernetes": {env: map[string]string{"VAULT_K8S_ROLE": "broker", "VAULT_K8S_MOUNT": "k8s/eu"}, files: map[string]string{"/var/run/secrets/kubernetes.io/serviceaccount/token": "jwt.jwt.jwt\n"}, path: "/v1/auth/k8s/eu/login", want: map[string]string{"role": "broker", "jwt": "jwt.jwt.jwt"}},
	} {
		t.Run(name, func(t *testing.T) {
			path, fields = "", nil
			test.env["VAULT_NAMESPACE"] = "team/a"
			key, err := hcvault.New("hcvault:"+s.URL()+"/transit/keys/k", process(test.env, test.files))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := key.Decrypt([]byte("vault:v1:x"), []byte("ad")); err != nil || string(got) != "key" {
				t.Fatalf("%q, %v", got, err)
			}
			if path != test.path || len(fields) != len(test.want) {
				t.Errorf("login at %s with %v", path, fields)
			}
			for k, v := range test.want {
				if fields[k] != v {
					t.Errorf("login with %s=%q", k, fields[k])
				}
			}
		})
	}
	// An agent that has not written its file yet is waited for; a token that is no word never gets into an error.
	key, err := hcvault.New("hcvault:"+s.URL()+"/transit/keys/k", process(map[string]string{"VAULT_TOKEN_FILE": "/absent"}, nil))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := key.Decrypt([]byte("x"), nil); !errors.Is(err, kek.ErrUnavailable) {
		t.Errorf("no file: %v", err)
	}
	key, err = hcvault.New("hcvault:"+s.URL()+"/transit/keys/k", process(map[string]string{"VAULT_TOKEN": "bad\ncanary"}, nil))
	if err == nil {
		_, err = key.Decrypt([]byte("x"), nil)
	}
	if err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("a token of two lines: %v", err)
	}
}

func TestURIs(t *testing.T) {
	env := process(map[string]string{"VAULT_TOKEN": "x"}, nil)
	for _, uri := range []string{"hcvault://vault.example.com:8200/transit/keys/tb", "hcvault:https://vault.example.com/a/b/keys/tb", "hcvault:http://127.0.0.1:8200/transit/keys/tb"} {
		if _, err := hcvault.New(uri, env); err != nil {
			t.Errorf("%s: %v", uri, err)
		}
	}
	for _, uri := range []string{"hcvault:", "hcvault://", "hcvault:key", "hcvault://vault.example.com", "hcvault://vault.example.com/transit/tb", "hcvault://vault.example.com/transit/keys/", "hcvault://vault.example.com/transit/keys/a/b",
		"hcvault:http://vault.example.com/transit/keys/tb", "hcvault:ftp://127.0.0.1/transit/keys/tb", "hcvault://user:canary@vault.example.com/transit/keys/tb", "hcvault://vault.example.com/../keys/tb", "hcvault://vault.example.com/transit/keys/a%2fb",
		"hcvault://vault.example.com/transit/keys/tb?x=canary", "hcvault://vault.example.com/transit/keys/tb#x"} {
		if _, err := hcvault.New(uri, env); err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", uri, err)
		}
	}
	if _, err := hcvault.New("hcvault://vault.example.com/transit/keys/tb", process(nil, nil)); err == nil || !strings.Contains(err.Error(), "VAULT_TOKEN") {
		t.Errorf("no login: %v", err)
	}
	if _, err := hcvault.New("hcvault://vault.example.com/transit/keys/tb", process(map[string]string{"VAULT_TOKEN": "x", "VAULT_CACERT": "/ca"}, map[string]string{"/ca": "no certificate"})); err == nil {
		t.Error("a file without certificates is taken")
	}
}
