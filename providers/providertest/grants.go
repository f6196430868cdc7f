package providertest

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"tokenbroker/broker"
	"tokenbroker/providers"
)

// The steps beside the code flow: obtain, begin_device and poll_device.

// DeviceCode is what poll_device sends.
const DeviceCode = "device-code-in-hand"

// signingKey signs the assertions of all runs: to make one takes long.
var signingKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

// configured is the recording's connector as an operator would write it.
func configured(t testing.TB, r Recording) providers.ConnectorConfig {
	t.Helper()
	c := providers.ConnectorConfig{ID: r.Connector.ID, Provider: r.Connector.Provider, ClientID: r.Connector.ClientID,
		ClientSecret: broker.NewSecret(r.Connector.ClientSecret), NoticeSecret: broker.NewSecret(NoticeSecret), Scopes: r.Connector.Scopes, Vars: r.Connector.Vars,
		Grant: r.Connector.Grant, Device: r.Connector.Device, Impersonate: r.Connector.Impersonate}
	if c.Grant != "" {
		c.Tenants = []string{"acme"}
	}
	if c.Grant == string(broker.GrantJWTBearer) {
		key, err := signingKey()
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		c.Assertion = providers.AssertionConfig{Key: broker.NewSecret(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))}
	}
	return c
}

func (r *runner) callBeside(ctx context.Context, step Step) (broker.Grant, error) {
	id, scopes := r.recording.Connector.ID, broker.NewScopeSet(step.Scopes...)
	switch step.Call {
	case "obtain":
		return r.reg.Obtain(ctx, id, broker.ObtainRequest{Scopes: scopes, Subject: step.Subject})
	case "begin_device":
		begun, err := r.reg.BeginDevice(ctx, id, scopes)
		r.device = slices.DeleteFunc([]string{begun.DeviceCode.Reveal(), begun.UserCode.Reveal(), begun.VerificationURI, begun.VerificationURIComplete.Reveal()},
			func(s string) bool { return s == "" })
		return broker.Grant{}, err
	case "poll_device":
		return r.reg.PollDevice(ctx, id, broker.DevicePoll{DeviceCode: broker.NewSecret(DeviceCode)})
	}
	return broker.Grant{}, fmt.Errorf("the recording calls %q", step.Call)
}

// wrongClaims compares an assertion's claims, all of them, and verifies its signature.
func wrongClaims(assertion string, want map[string]any) []string {
	key, err := signingKey()
	if err != nil {
		return []string{err.Error()}
	}
	token, err := jwt.ParseSigned(assertion, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		return []string{"the assertion can't be read"}
	}
	var got map[string]any
	if err := token.Claims(key.Public(), &got); err != nil {
		return []string{"the assertion's signature is wrong"}
	}
	issued, _ := got["iat"].(float64)
	expires, _ := got["exp"].(float64)
	got["lifetime"] = int(expires - issued)
	var problems []string
	if int64(issued) != Now().Unix() || got["jti"] == "" {
		problems = append(problems, "the assertion has no iat of now, or no jti")
	}
	for _, name := range []string{"iat", "exp", "jti"} {
		delete(got, name)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		problems = append(problems, fmt.Sprintf("claims: got %v, want %v", got, want))
	}
	return problems
}
