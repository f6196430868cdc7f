package api

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"tokenbroker/broker"
)

// Limits of single values, in bytes. Those of subjects are the contract's.
const (
	maxSubject   = 256
	maxID        = 128
	maxActor     = 256
	maxAssertion = 16 << 10
	maxReason    = 512
	maxReturnTo  = 2048
	maxState     = 1024
	maxCode      = 256
	maxScope     = 512
	maxScopes    = 256
	maxMinTTL    = 86400 // seconds
)

// fields checks the values of one request and keeps the first problem. Messages name the field and say what it may be,
// and never repeat a value: it may be a secret in the wrong place.
type fields struct{ err error }

func (f *fields) refuse(format string, args ...any) {
	if f.err == nil {
		f.err = invalid(format, args...)
	}
}

// subject checks an end user's id: opaque, so nearly everything is allowed.
func (f *fields) subject(value string) {
	switch {
	case value == "":
		f.refuse("subject is missing: send your id of the end user")
	case len(value) > maxSubject || !utf8.ValidString(value) || hasControl(value):
		f.refuse("subject must be 1 to %d bytes of valid UTF-8 without control characters", maxSubject)
	}
}

// who checks whom a request is about: a subject, or a token that says who it is, and then the subject may be left out. That a client must
// send such a token is the service's to say.
func (f *fields) who(caller broker.Caller, subject string, proofs broker.Proofs) {
	if subject != "" || proofs.Subject.IsZero() && !caller.Client.SubjectTokens {
		f.subject(subject)
	}
}

// proofs are the tokens of a request, which their verifier reads; "" is one that was left out.
func (f *fields) proofs(subject, actor string) broker.Proofs {
	for name, token := range map[string]string{"subject_token": subject, "actor_token": actor} {
		if len(token) > maxAssertion {
			f.refuse("%s must be a signed token of at most %d bytes", name, maxAssertion)
		}
	}
	return broker.Proofs{Subject: broker.NewSecret(subject), Actor: broker.NewSecret(actor)}
}

// id checks an id in a body or a query; "" is one that was left out.
func (f *fields) id(name, value string) {
	if value != "" && !isID(value) {
		f.refuse("%s must be an id: 1 to %d letters, digits and . _ ~ : @ -", name, maxID)
	}
}

// text checks a text that is kept, not interpreted; "" is one that was left out.
func (f *fields) text(name, value string, most int) {
	if len(value) > most || !utf8.ValidString(value) || hasControl(value) {
		f.refuse("%s must be at most %d bytes of valid UTF-8 without control characters", name, most)
	}
}

func (f *fields) required(name, value string) {
	if value == "" {
		f.refuse("%s is missing", name)
	}
}

// code checks what proves who is there. Not f.text: it is what a person typed, line breaks and all; the service decides what it
// is.
func (f *fields) code(value string) {
	f.required("code", value)
	if len(value) > maxCode {
		f.refuse("code must be at most %d bytes", maxCode)
	}
}

func (f *fields) actor(a broker.Actor) {
	f.text("actor.agent", a.Agent, maxActor)
	f.text("actor.run", a.Run, maxActor)
	f.text("actor.tool", a.Tool, maxActor)
}

// scopes makes a set of scope tokens. One that can be no scope (RFC 6749 section 3.3) is none of any connector.
func (f *fields) scopes(list []string) broker.ScopeSet {
	if len(list) > maxScopes {
		f.refuse("scopes may name at most %d scopes", maxScopes)
		return broker.ScopeSet{}
	}
	for _, scope := range list {
		if !isScope(scope) && f.err == nil {
			f.err = broker.Errorf(broker.CodeInvalidScope,
				"scopes must be 1 to %d visible ASCII characters each, without quotes, backslashes and spaces; GET /v1/connectors lists them", maxScope)
		}
	}
	return broker.NewScopeSet(list...)
}

func hasControl(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c < ' ' || c == 0x7f:
			return true
		case c >= utf8.RuneSelf:
			return strings.ContainsFunc(s[i:], unicode.IsControl)
		}
	}
	return false
}

func isID(s string) bool {
	if s == "" || len(s) > maxID {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("._~:@-", c) >= 0) {
			return false
		}
	}
	return true
}

// isScope is the grammar of scope-token: %x21 / %x23-5B / %x5D-7E.
func isScope(s string) bool {
	if s == "" || len(s) > maxScope {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c < 0x21 || c > 0x7e || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

// pathID returns the id in the path. One that can be no id names nothing.
func (in *request) pathID(what string) (string, error) {
	id := in.param("id")
	if !isID(id) {
		return "", broker.Errorf(broker.CodeNotFound, "there is no such %s", what)
	}
	return id, nil
}

// pathSubject returns the subject in the path.
func (in *request) pathSubject() (string, error) {
	// The router gives the whole rest of a path to its last parameter; a slash that belongs to the subject comes as %2F.
	if strings.Contains(in.match.param("subject"), "/") {
		return "", broker.Errorf(broker.CodeNotFound, "there is no such path; a slash in a subject is sent as %%2F")
	}
	var f fields
	subject := in.param("subject")
	f.subject(subject)
	return subject, f.err
}
