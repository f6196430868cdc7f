package providers

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"maps"
	"net/url"
	"slices"

	"tokenbroker/broker"
)

// VerifyCallback implements broker.Upstream: it checks what the definition says that a callback must bring. params are all
// query parameters of the callback, state and code included. It sends nothing.
func (r *Registry) VerifyCallback(connector string, params map[string]broker.Secret) error {
	s, err := r.server(connector)
	if err != nil {
		return err
	}
	refused := func(what string) error { return &broker.UpstreamError{Class: broker.ClassRefused, What: what} }
	if sig := s.def.CallbackSignature; sig != nil {
		signed := url.Values{}
		for name, value := range params {
			if name != sig.Parameter {
				signed.Set(name, value.Reveal())
			}
		}
		signs := func(s *server) bool {
			mac := hmac.New(sha256.New, []byte(s.config.ClientSecret.Reveal()))
			mac.Write([]byte(signed.Encode())) // sorted by name
			got, err := hex.DecodeString(params[sig.Parameter].Reveal())
			return err == nil && hmac.Equal(got, mac.Sum(nil))
		}
		if p := r.predecessor(s); !signs(s) && (p == nil || !signs(p)) {
			return refused("the callback does not have the provider's signature")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.def.CallbackExpect)) {
		want := fill(s.def.CallbackExpect[name], s.vars)
		if subtle.ConstantTimeCompare([]byte(want), []byte(params[name].Reveal())) != 1 {
			return refused("the callback is about another account than the one that was asked for")
		}
	}
	return nil
}
