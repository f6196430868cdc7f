package broker_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"tokenbroker/broker"
)

// Threat 24: a secret prints under no verb and no encoder, however deep it lies.
func TestSecretNeverPrints(t *testing.T) {
	const canary = "canary-9f86d081884c"
	type inner struct{ s broker.Secret }
	type outer struct {
		Public broker.Secret
		hidden broker.Secret
		Deep   []inner
		Map    map[string]broker.Secret
		Ptr    *inner
		Any    any
	}
	secret := broker.NewSecret(canary)
	v := outer{Public: secret, hidden: secret, Deep: []inner{{secret}}, Map: map[string]broker.Secret{"k": secret}, Ptr: &inner{secret}, Any: secret}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T"} {
		fmt.Fprintf(&out, verb+"\n", v)
		fmt.Fprintf(&out, verb+"\n", &v)
		fmt.Fprintf(&out, verb+"\n", secret)
		fmt.Fprintf(&out, verb+"\n", &secret)
	}
	if err := json.NewEncoder(&out).Encode(v); err != nil {
		t.Fatal(err)
	}
	for _, h := range []slog.Handler{slog.NewJSONHandler(&out, nil), slog.NewTextHandler(&out, nil)} {
		slog.New(h).Info("x", "secret", secret, "nested", v, "list", []broker.Secret{secret}, "err", fmt.Errorf("wrap: %v", secret))
	}
	func() {
		defer func() { fmt.Fprint(&out, recover()) }()
		panic(v)
	}()
	for _, form := range []string{canary, fmt.Sprintf("%x", canary), fmt.Sprintf("%X", canary), base64.StdEncoding.EncodeToString([]byte(canary))} {
		if strings.Contains(out.String(), form) {
			t.Errorf("the secret shows in:\n%s", out.String())
		}
	}
	if !strings.Contains(out.String(), "[redacted]") {
		t.Error("nothing says that something was redacted")
	}
}

// Absence must never pass for a match (threat 1).
func TestAbsentSecretsDoNotMatch(t *testing.T) {
	var none broker.Secret
	if none.Equal(none) || none.MatchesDigest("") || none.MatchesDigest(none.Digest()) || broker.NewSecret("a").MatchesDigest("") {
		t.Error("absent secrets match")
	}
	if a := broker.NewSecret("a"); !a.Equal(broker.NewSecret("a")) || !a.MatchesDigest(a.Digest()) || a.Equal(broker.NewSecret("b")) {
		t.Error("present secrets do not compare as they should")
	}
}
