// Package gcpkms asks Google Cloud KMS to wrap the keyset: a symmetric key, with additional authenticated data, and with the
// checksums that the service recommends in both directions.
//
// What asks needs roles/cloudkms.cryptoKeyEncrypterDecrypter on the key.
package gcpkms

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"tokenbroker/vault/kek"
)

const (
	service  = "Google Cloud KMS"
	standard = "https://cloudkms.googleapis.com"
)

// Key is a key of Google Cloud KMS.
type Key struct {
	client *kek.Client
	base   string
	name   string
	token  tokenSource
}

var nameForm = regexp.MustCompile(`^projects/[a-z0-9:.-]{1,64}/locations/[a-z0-9-]{1,64}/keyRings/[A-Za-z0-9_-]{1,63}/cryptoKeys/[A-Za-z0-9_-]{1,63}$`)

// New reads gcp-kms://projects/P/locations/L/keyRings/R/cryptoKeys/K. CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDKMS names another
// address than Google's, as it does for gcloud; for credentials see newTokenSource.
func New(uri string, p kek.Process) (*Key, error) {
	name := strings.TrimPrefix(strings.TrimPrefix(uri, "gcp-kms:"), "//")
	if !nameForm.MatchString(name) {
		return nil, errors.New("the KEK must be written gcp-kms://projects/P/locations/L/keyRings/R/cryptoKeys/K")
	}
	k := &Key{client: kek.NewClient(service, p.Timeout, nil), base: standard, name: name}
	var err error
	if text := p.Getenv("CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDKMS"); text != "" {
		if k.base, err = kek.BaseURL(text); err != nil {
			return nil, fmt.Errorf("the variable CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDKMS: %w", err)
		}
	}
	k.token, err = newTokenSource(p)
	return k, err
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum is CRC32C as the API writes it: an int64 in JSON, which is text.
func checksum(b []byte) string { return strconv.FormatUint(uint64(crc32.Checksum(b, castagnoli)), 10) }

type answer struct {
	Name                                      string `json:"name"`
	Ciphertext, Plaintext                     []byte
	CiphertextCrc32c, PlaintextCrc32c         string
	VerifiedPlaintextCrc32c                   bool
	VerifiedAdditionalAuthenticatedDataCrc32c bool
}

// errCorrupt: what arrived is not what was sent. Another try may do.
var errCorrupt = fmt.Errorf("%s: a checksum is wrong: something was changed on the way: %w", service, kek.ErrUnavailable)

// Encrypt wraps plaintext and has the service bind associatedData to it.
func (k *Key) Encrypt(plaintext, associatedData []byte) ([]byte, error) {
	out, err := k.ask("encrypt", "wrap", map[string]any{
		"plaintext": plaintext, "plaintextCrc32c": checksum(plaintext),
		"additionalAuthenticatedData": associatedData, "additionalAuthenticatedDataCrc32c": checksum(associatedData),
	})
	switch {
	case err != nil:
		return nil, err
	case len(out.Ciphertext) == 0:
		return nil, fmt.Errorf("%s answers without a ciphertext", service)
	case !out.VerifiedPlaintextCrc32c || !out.VerifiedAdditionalAuthenticatedDataCrc32c || checksum(out.Ciphertext) != out.CiphertextCrc32c:
		return nil, errCorrupt
	}
	return out.Ciphertext, nil
}

// Decrypt opens what Encrypt wrapped with the same associatedData.
func (k *Key) Decrypt(ciphertext, associatedData []byte) ([]byte, error) {
	out, err := k.ask("decrypt", "open", map[string]any{
		"ciphertext": ciphertext, "ciphertextCrc32c": checksum(ciphertext),
		"additionalAuthenticatedData": associatedData, "additionalAuthenticatedDataCrc32c": checksum(associatedData),
	})
	switch {
	case err != nil:
		return nil, err
	case len(out.Plaintext) == 0:
		return nil, fmt.Errorf("%s answers without a plaintext", service)
	case checksum(out.Plaintext) != out.PlaintextCrc32c:
		return nil, errCorrupt
	}
	return out.Plaintext, nil
}

// codeForm is what an error's status can look like: nothing else of an answer gets into an error.
var codeForm = regexp.MustCompile(`^[A-Z_]{1,64}$`)

var hints = map[string]string{
	"PERMISSION_DENIED":   "the account needs roles/cloudkms.cryptoKeyEncrypterDecrypter on the key, and the API must be enabled",
	"NOT_FOUND":           "there is no such key",
	"FAILED_PRECONDITION": "the key's version is disabled or destroyed",
	"INVALID_ARGUMENT":    "another key wrapped it, or the file was changed",
	"UNAUTHENTICATED":     "the credentials are not valid",
}

func (k *Key) ask(verb, action string, body map[string]any) (answer, error) {
	ctx := context.Background()
	token, err := k.token(ctx)
	if err != nil {
		return answer{}, fmt.Errorf("credentials for Google Cloud: %w", err)
	}
	got, err := k.client.AskJSON(ctx, k.base+"/v1/"+k.name+":"+verb, http.Header{"Authorization": {"Bearer " + token.Reveal()}}, body)
	if err != nil {
		return answer{}, err
	}
	if !got.Fine() {
		var problem struct {
			Error struct {
				Status string `json:"status"`
			} `json:"error"`
		}
		code := ""
		if got.Into(&problem) == nil && codeForm.MatchString(problem.Error.Status) {
			code = problem.Error.Status
		}
		return answer{}, kek.Refused(service, action, got.Status, code, hints[code])
	}
	var out answer
	err = got.Into(&out)
	return out, err
}
