package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"tokenbroker/vault"
	"tokenbroker/vault/kek"
	"tokenbroker/vault/kek/awskms"
	"tokenbroker/vault/kek/gcpkms"
	"tokenbroker/vault/kek/hcvault"
)

// kekForms is what the flags and the configuration accept.
const kekForms = "env:NAME (a variable with 32 random bytes in base64), hcvault://HOST:PORT/transit/keys/NAME, aws-kms://ARN or gcp-kms://projects/..."

// parseKEK makes the KEK that a reference names. What a key management service needs besides, credentials above all, is read
// through the environment given; nobody is asked yet.
func parseKEK(uri string, env environment) (vault.KEK, error) {
	getenv := func(name string) string {
		value, _ := env.lookup(name)
		return value
	}
	process := kek.Process{Getenv: getenv, Now: time.Now, ReadFile: func(path string) ([]byte, error) { return env.readFile(path, maxIncludeSize) }}
	scheme, _, _ := strings.Cut(uri, ":")
	switch scheme {
	case "hcvault":
		return service(hcvault.New(uri, process))
	case "aws-kms":
		return service(awskms.New(uri, process))
	case "gcp-kms":
		return service(gcpkms.New(uri, process))
	}
	return vault.ParseKEK(uri, getenv)
}

// remoteKEK tells that asking the KEK may mean waiting for a service.
func remoteKEK(uri string) bool { return uri != "" && !strings.HasPrefix(uri, "env:") }

// service keeps a nil of one type from becoming a KEK that is not nil.
func service[K vault.KEK](key K, err error) (vault.KEK, error) {
	if err != nil {
		return nil, err
	}
	return key, nil
}

// kekFailure says what came of a keyset that its KEK did not open or wrap; refusal is the KEK's own error.
func kekFailure(file, reference string, refusal error) error {
	if strings.HasPrefix(reference, "env:") {
		return fmt.Errorf("the key in %s does not open %s: %w; put that one there, or give the file that belongs to this one", reference, file, errOtherKEK)
	}
	if errors.Is(refusal, kek.ErrUnavailable) {
		return fmt.Errorf("the key that %s is encrypted with: %w", file, refusal)
	}
	return fmt.Errorf("the key that %s is encrypted with: %w: %w", file, refusal, errKEKRefuses)
}

// errKEKRefuses: a key management service answered, and does not do it.
var errKEKRefuses = errors.New("nothing opens without it")
