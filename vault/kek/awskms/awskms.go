// Package awskms asks AWS KMS to wrap the keyset: a symmetric key, with the associated data as its encryption context.
//
// What asks needs kms:Encrypt and kms:Decrypt on the key. The encryption context stands in CloudTrail, and a policy may insist
// on it: the name is "tokenbroker", the value tells the two parts of the file apart.
package awskms

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"tokenbroker/vault/kek"
)

const service = "AWS KMS"

// Key is a key of AWS KMS.
type Key struct {
	client      *kek.Client
	now         func() time.Time
	endpoint    string
	region      string
	arn         string
	credentials credentials
}

// arnForm is the ARN of a key or of an alias.
var arnForm = regexp.MustCompile(`^arn:(aws[a-z-]*):kms:([a-z0-9-]{4,32}):[0-9]{12}:(key/[A-Za-z0-9-]{1,128}|alias/[A-Za-z0-9/_-]{1,250})$`)

// domains are where the services of a partition are.
var domains = map[string]string{"aws": "amazonaws.com", "aws-us-gov": "amazonaws.com", "aws-cn": "amazonaws.com.cn", "aws-eusc": "amazonaws.eu"}

// New reads aws-kms://ARN. AWS_ENDPOINT_URL_KMS and AWS_ENDPOINT_URL name another address than the region's, as they do for
// AWS's own programs; for credentials see newCredentials.
func New(uri string, p kek.Process) (*Key, error) {
	arn := strings.TrimPrefix(strings.TrimPrefix(uri, "aws-kms:"), "//")
	parts := arnForm.FindStringSubmatch(arn)
	if parts == nil {
		return nil, errors.New("the KEK must be written aws-kms://arn:aws:kms:REGION:ACCOUNT:key/ID (or :alias/NAME)")
	}
	k := &Key{client: kek.NewClient(service, p.Timeout, nil), now: p.Now, region: parts[2], arn: arn}
	for _, name := range []string{"AWS_ENDPOINT_URL_KMS", "AWS_ENDPOINT_URL"} {
		text := p.Getenv(name)
		if text == "" || k.endpoint != "" {
			continue
		}
		base, err := kek.BaseURL(text)
		if err != nil {
			return nil, fmt.Errorf("the variable %s: %w", name, err)
		}
		k.endpoint = base
	}
	domain, known := domains[parts[1]]
	switch {
	case k.endpoint != "":
	case known:
		k.endpoint = "https://kms." + k.region + "." + domain
	default:
		return nil, fmt.Errorf("where the KMS of the partition %s is must be said in AWS_ENDPOINT_URL_KMS", parts[1])
	}
	var err error
	k.credentials, err = newCredentials(p, k.region, domain)
	return k, err
}

// Encrypt wraps plaintext: at most 4 KiB, which is a keyset of some 40 keys.
func (k *Key) Encrypt(plaintext, associatedData []byte) ([]byte, error) {
	return k.ask("Encrypt", "wrap", map[string]any{"KeyId": k.arn, "Plaintext": plaintext, "EncryptionContext": encryptionContext(associatedData)},
		func(a answer) []byte { return a.CiphertextBlob })
}

// Decrypt opens what Encrypt wrapped with the same associatedData. The key is named, so that no other one is used.
func (k *Key) Decrypt(ciphertext, associatedData []byte) ([]byte, error) {
	return k.ask("Decrypt", "open", map[string]any{"KeyId": k.arn, "CiphertextBlob": ciphertext, "EncryptionContext": encryptionContext(associatedData)},
		func(a answer) []byte { return a.Plaintext })
}

// encryptionContext is text only; data that is none goes under another name, so that nothing is written in two ways.
func encryptionContext(associatedData []byte) map[string]string {
	text := string(associatedData)
	if text != "" && !strings.ContainsFunc(text, func(r rune) bool { return r > unicode.MaxASCII || !unicode.IsPrint(r) }) {
		return map[string]string{"tokenbroker": text}
	}
	return map[string]string{"tokenbroker-base64": "." + base64.StdEncoding.EncodeToString(associatedData)}
}

type answer struct {
	CiphertextBlob, Plaintext []byte
}

// transient are the refusals that pass by themselves, though their status is 400.
var transient = []string{"ThrottlingException", "LimitExceededException", "KMSInternalException", "DependencyTimeoutException", "KeyUnavailableException", "RequestTimeoutException"}

// hints say what to do about the usual ones.
var hints = map[string]string{
	"AccessDeniedException":       "the role needs kms:Encrypt and kms:Decrypt on the key",
	"IncorrectKeyException":       "another key wrapped it",
	"InvalidCiphertextException":  "another key wrapped it, or the file was changed",
	"NotFoundException":           "there is no such key in this account and region",
	"DisabledException":           "the key is disabled",
	"KMSInvalidStateException":    "the key is pending deletion or import",
	"ValidationException":         "more than 4 KiB, or the key is not a symmetric one",
	"UnrecognizedClientException": "the credentials are not valid",
	"InvalidSignatureException":   "the secret key is wrong, or the clock of this machine",
	"ExpiredTokenException":       "the session token has expired",
}

// codeForm is what an error's code can look like: nothing else of an answer gets into an error.
var codeForm = regexp.MustCompile(`^[A-Za-z]{1,64}$`)

func (k *Key) ask(operation, action string, body map[string]any, pick func(answer) []byte) ([]byte, error) {
	ctx := context.Background()
	keys, err := k.credentials(ctx)
	if err != nil {
		return nil, fmt.Errorf("credentials for AWS: %w", err)
	}
	text, err := encode(body)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(k.endpoint)
	if err != nil {
		return nil, errors.New("the endpoint can't be used")
	}
	header := http.Header{"X-Amz-Target": {"TrentService." + operation}, "Content-Type": {"application/x-amz-json-1.1"}}
	sign(header, signed{method: http.MethodPost, host: u.Host, path: "/", body: text, region: k.region, service: "kms", at: k.now()}, keys)
	got, err := k.client.Ask(ctx, http.MethodPost, k.endpoint+"/", header, text)
	if err != nil {
		return nil, err
	}
	if !got.Fine() {
		code := errorCode(got)
		if slices.Contains(transient, code) {
			return nil, fmt.Errorf("%s: %s: %w", service, code, kek.ErrUnavailable)
		}
		return nil, kek.Refused(service, action, got.Status, code, hints[code])
	}
	var out answer
	if err := got.Into(&out); err != nil {
		return nil, err
	}
	if result := pick(out); len(result) > 0 {
		return result, nil
	}
	return nil, fmt.Errorf("%s answers without what it was asked for", service)
}

// errorCode is the code of a refusal, "" if it has none.
func errorCode(a kek.Answer) string {
	var body struct {
		Type string `json:"__type"`
	}
	if a.Into(&body) != nil {
		return ""
	}
	code := body.Type[strings.LastIndexByte(body.Type, '#')+1:]
	if !codeForm.MatchString(code) {
		return ""
	}
	return code
}
