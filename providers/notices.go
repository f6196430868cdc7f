package providers

import (
	"fmt"
	"strings"
)

// Notices is how the provider tells that grants ended, before the next call fails: requests that it sends to
// PUBLIC_URL/notices/CONNECTOR. A value in When, Accounts and Groups is a path in the JSON body, or header.NAME.
type Notices struct {
	// Signature is how a notice proves where it comes from. What can't be verified is refused.
	Signature NoticeSignature `yaml:"signature"`
	// Challenges are questions by which the provider makes sure, before it sends notices, that somebody is there.
	Challenges []NoticeChallenge `yaml:"challenges"`
	// Events are the notices that mean something; the others are taken and forgotten.
	Events []NoticeEvent `yaml:"events"`
}

// NoticeSignature is what is verified.
type NoticeSignature struct {
	// Kind is hmac-sha256, ed25519, basic (the OAuth client's own credentials, RFC 7617), token (the secret itself, in Header) or
	// set (a Security Event Token, RFC 8417, signed with a key of the provider's JWK set).
	Kind string `yaml:"kind"`
	// Secret is which secret signs: notice_secret (of the connector's configuration; for ed25519 the public key in hex) or
	// client_secret. Default notice_secret.
	Secret string `yaml:"secret"`
	// Header carries the signature, behind Prefix, in hex or base64. Default hex.
	Header   string `yaml:"header"`
	Prefix   string `yaml:"prefix"`
	Encoding string `yaml:"encoding"`
	// Signed is what is signed, with {body}, {timestamp}, {method} and {url} filled in. Default {body}.
	Signed string `yaml:"signed"`
	// Timestamp is the header that holds the moment of sending, in seconds or milliseconds since 1970. A notice that is older
	// or newer than MaxAge seconds is refused. Default 300.
	Timestamp string `yaml:"timestamp"`
	MaxAge    int64  `yaml:"max_age"`
	// Issuer and JWKS of a set: who signs it, and where the keys are. Its audience must be the connector's client_id.
	Issuer string `yaml:"issuer"`
	JWKS   string `yaml:"jwks"`
}

// NoticeChallenge is a question and its answer.
type NoticeChallenge struct {
	// When all hold: path or header.NAME, and the value that must be there; * is any value.
	When map[string]string `yaml:"when"`
	// Status of the answer. Default 200.
	Status int `yaml:"status"`
	// Answer is a JSON object: each value is a path in the question, or hmac:PATH, the value there signed with the secret, in hex.
	Answer map[string]string `yaml:"answer"`
}

// NoticeEvent is a notice that concerns grants.
type NoticeEvent struct {
	// When as in a challenge.
	When map[string]string `yaml:"when"`
	// Accounts are paths of ids of accounts; "a+b" joins parts with a colon as in account ids; a part that is an array, or goes
	// through one with *, stands for each of its elements.
	Accounts []string `yaml:"accounts"`
	// Groups are paths of ids whose accounts are all meant: an id itself, and every account id that begins with it and a colon.
	Groups []string `yaml:"groups"`
	// Prefix stands before each id, where the account's id has one that the notice leaves out.
	Prefix string `yaml:"prefix"`
}

// notices checks the block.
func (v *validation) notices() {
	n := v.d.Notices
	if n == nil {
		return
	}
	s := n.Signature
	v.oneOf("notices.signature.kind", s.Kind, "hmac-sha256", "ed25519", "basic", "token", "set")
	v.oneOf("notices.signature.secret", s.Secret, "notice_secret", "client_secret")
	v.oneOf("notices.signature.encoding", s.Encoding, "hex", "base64")
	switch s.Kind {
	case "":
		v.add("notices.signature.kind", "is missing: a notice that nobody signed is not believed")
	case "hmac-sha256", "ed25519", "token":
		if !headerName.MatchString(s.Header) {
			v.add("notices.signature.header", "must be the header that carries the signature")
		}
		if s.Signed != "" && !strings.Contains(s.Signed, "{body}") {
			v.add("notices.signature.signed", "must have {body} in it: else anything could be in the body")
		}
		if strings.Contains(s.Signed, "{timestamp}") && s.Timestamp == "" {
			v.add("notices.signature.timestamp", "is missing: signed has {timestamp} in it")
		}
	case "set":
		if s.Issuer == "" {
			v.add("notices.signature.issuer", "is missing")
		}
		if _, err := parseEndpoint(s.JWKS); err != nil {
			v.add("notices.signature.jwks", "%s", err)
		}
	}
	if s.Timestamp != "" && !headerName.MatchString(s.Timestamp) {
		v.add("notices.signature.timestamp", "must be a header")
	}
	if s.MaxAge < 0 {
		v.add("notices.signature.max_age", "must not be negative")
	}
	if s.Secret == "client_secret" && v.d.TokenEndpointAuthMethod == authNone || s.Kind == "basic" && v.d.TokenEndpointAuthMethod == authNone {
		v.add("notices.signature", "is made with the client secret, which token_endpoint_auth_method none has not")
	}
	for i, c := range n.Challenges {
		key := fmt.Sprintf("notices.challenges[%d]", i)
		if len(c.When) == 0 {
			v.add(key+".when", "is missing: what tells it from a notice")
		}
		if c.Status != 0 && (c.Status < 200 || c.Status > 299) {
			v.add(key+".status", "must be 200 to 299")
		}
	}
	if len(n.Events) == 0 {
		v.add("notices.events", "is missing: which notices mean that a grant ended")
	}
	for i, e := range n.Events {
		key := fmt.Sprintf("notices.events[%d]", i)
		if len(e.When) == 0 {
			v.add(key+".when", "is missing: what tells it from others")
		}
		if len(e.Accounts) == 0 && len(e.Groups) == 0 {
			v.add(key+".accounts", "is missing: whose grants ended")
		}
	}
}
