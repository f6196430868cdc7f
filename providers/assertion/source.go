package assertion

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json"

	"tokenbroker/broker"
	"tokenbroker/providers"
	"tokenbroker/providers/issuer"
)

// Source is an issuer whose tokens a client's requests may carry, and what must be in them.
type Source struct {
	// Issuer is compared exactly with the claim iss.
	Issuer string
	// JWKSURI is where its keys are; "": where its metadata says (OpenID Connect Discovery, or RFC 8414).
	JWKSURI string
	// Keys are its keys; then nothing is asked for.
	Keys issuer.Keyring
	// Audiences: the token must be for one of them.
	Audiences []string
	// Algorithms that it may sign with; none: all of issuer.Algorithms.
	Algorithms []string
	// SubjectClaim is who it is about, a text. Default: sub. With email, email_verified must be true too.
	SubjectClaim string
	// MaxAge is how long after iat a token is taken. Default: one hour.
	MaxAge time.Duration
	// Replay: a token may be used more than once.
	Replay bool
	// Claims are others that must be there, as texts.
	Claims map[string]string
}

const (
	defaultMaxAge = time.Hour
	// maxSubject bounds who it is, as ids of subjects are, maxID the id of a token, in bytes.
	maxSubject, maxID = 256, 1024
	metadataTimeout   = 5 * time.Second
)

// check finds what is wrong with the configuration.
func (s Source) check() error {
	if _, err := providers.ParseIssuer(s.Issuer); err != nil {
		return fmt.Errorf("issuer %w", err)
	}
	switch {
	case len(s.Audiences) == 0:
		return errors.New("audiences is missing: without it a token that was made for somebody else would be taken (RFC 8725 section 3.9)")
	case s.JWKSURI != "" && s.Keys != nil:
		return errors.New("jwks_uri and jwks are both there")
	}
	if s.JWKSURI != "" {
		if _, err := providers.ParseEndpoint(s.JWKSURI); err != nil {
			return fmt.Errorf("jwks_uri %w", err)
		}
	}
	return nil
}

// source is one, with its keys.
type source struct {
	Source
	fetch *providers.Fetcher
	now   func() time.Time
	keys  *issuer.Keys
	meta  *issuer.Cached[string] // jwks_uri
	// alone: it is a client's own, made for one request. It must be for us and nobody else: whoever that is could use it here.
	alone bool
}

func newSource(s Source, fetch *providers.Fetcher, now func() time.Time) *source {
	if s.SubjectClaim == "" {
		s.SubjectClaim = "sub"
	}
	if s.MaxAge <= 0 {
		s.MaxAge = defaultMaxAge
	}
	out := &source{Source: s, fetch: fetch, now: now, keys: issuer.NewKeys(fetch, now), meta: issuer.NewCached[string](now)}
	if s.Keys != nil {
		out.keys = issuer.FixedKeys(s.Keys)
	}
	return out
}

// address is where the keys are.
func (s *source) address(ctx context.Context) (string, error) {
	if s.JWKSURI != "" || s.Keys != nil {
		return s.JWKSURI, nil
	}
	return s.meta.Get(ctx, func(string) bool { return false }, s.discover)
}

// discover reads the issuer's metadata: OpenID Connect Discovery 1.0 section 4, else RFC 8414 section 3.
func (s *source) discover(ctx context.Context) (string, error) {
	var failed error
	for _, address := range slices.Backward(providers.MetadataURLs(s.Issuer)) {
		found, err := s.metadata(ctx, address)
		if err == nil {
			return found, nil
		}
		// The first one that says something is what matters; a server that answers every path with some page says nothing.
		if failed == nil || broker.ClassOf(err) == broker.ClassClientRefused {
			failed = err
		}
	}
	return "", failed
}

func (s *source) metadata(ctx context.Context, address string) (string, error) {
	got, err := s.fetch.Do(ctx, providers.Fetch{What: "metadata", Method: http.MethodGet, URL: address, Timeout: metadataTimeout})
	if err != nil || got.Status != http.StatusOK {
		return "", &broker.UpstreamError{Class: broker.ClassUnsent, Status: got.Status, What: "metadata is not available", Cause: err}
	}
	var doc struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(got.Body, &doc); err != nil {
		return "", &broker.UpstreamError{Class: broker.ClassUnsent, What: "metadata can't be read"}
	}
	if doc.Issuer != s.Issuer { // RFC 8414 section 3.3
		return "", &broker.UpstreamError{Class: broker.ClassClientRefused, What: "metadata is of another issuer"}
	}
	keys, err := providers.ParseEndpoint(doc.JWKSURI)
	if err != nil {
		return "", &broker.UpstreamError{Class: broker.ClassClientRefused, What: "metadata has no usable jwks_uri"}
	}
	// Whoever can write one page at the issuer must not choose its keys, nor where we go (threats 53 and 58).
	if own, err := providers.ParseIssuer(s.Issuer); err != nil || !providers.SameOrigin(keys, own) {
		return "", &broker.UpstreamError{Class: broker.ClassClientRefused, What: "metadata names keys on another host; state jwks_uri in the configuration"}
	}
	return doc.JWKSURI, nil
}

// types of tokens that say who somebody is, ownTypes those by which a client does of itself. Others, such as a logout token or a proof of
// possession, are signed by the same keys and say something else (RFC 8725 section 3.11).
var (
	types    = []string{"JWT", "at+jwt", "application/at+jwt"}
	ownTypes = []string{"JWT", "client-authentication+jwt"}
)

// open verifies a token of this issuer (RFC 7519 section 4.1, RFC 8725 section 3).
func (s *source) open(ctx context.Context, raw string) (broker.Assertion, error) {
	wrong := func(why string) (broker.Assertion, error) {
		return broker.Assertion{}, fmt.Errorf("%w: %s", broker.ErrAssertionRefused, why)
	}
	address, err := s.address(ctx)
	if err != nil {
		return broker.Assertion{}, err
	}
	kinds := types
	if s.alone {
		kinds = ownTypes
	}
	claims, err := s.keys.Open(ctx, raw, address, issuer.Rules{Algorithms: s.Algorithms, Types: kinds})
	if bad := issuer.Wrong(""); errors.As(err, &bad) {
		return wrong(bad.Error())
	} else if err != nil {
		return broker.Assertion{}, err
	}
	now := s.now()
	expires, hasExp := claims.Moment("exp")
	issued, hasIat := claims.Moment("iat")
	begins, hasNbf := claims.Moment("nbf")
	_, isNotice := claims["events"] // a logout token or a security event
	who := claims.Text(s.SubjectClaim)
	id := claims.Text("jti")
	switch {
	case id != "":
		id = "jti " + id
	case !s.alone:
		// Many ID tokens have none. What was signed tells one token from another too; the signature itself does not, as some can be altered.
		sum := sha256.Sum256([]byte(raw[:strings.LastIndexByte(raw, '.')]))
		id = "sha256 " + base64.RawURLEncoding.EncodeToString(sum[:])
	}
	if !hasIat && s.alone { // optional in RFC 7523 section 3; how long it lives is bounded
		issued, hasIat = now, true
	}
	switch {
	case claims.Text("iss") != s.Issuer:
		return wrong("it is of another issuer")
	case isNotice:
		return wrong("it is a token of another kind")
	case s.alone && slices.ContainsFunc(claims.Audience(), func(a string) bool { return !slices.Contains(s.Audiences, a) }):
		return wrong("it is for others too, and must be for this broker alone (aud)")
	case !slices.ContainsFunc(claims.Audience(), func(a string) bool { return slices.Contains(s.Audiences, a) }):
		return wrong("it is for somebody else (aud)")
	case !hasExp || !now.Before(expires.Add(issuer.ClockSkew)):
		return wrong("it has expired, by our clock")
	case s.alone && expires.After(now.Add(s.MaxAge+issuer.ClockSkew)):
		return wrong("it lives longer than ten minutes")
	case !hasIat || issued.After(now.Add(issuer.ClockSkew)):
		return wrong("it does not say when it was issued, or a time to come (iat)")
	case now.Sub(issued) > s.MaxAge+issuer.ClockSkew:
		return wrong("it was issued too long ago; send a fresh one")
	case hasNbf && begins.After(now.Add(issuer.ClockSkew)):
		return wrong("it is not good yet, by our clock")
	case who == "" || len(who) > maxSubject || !utf8.ValidString(who) || strings.ContainsFunc(who, unicode.IsControl):
		return wrong(fmt.Sprintf("its claim %s is no text of 1 to %d bytes without control characters", s.SubjectClaim, maxSubject))
	case s.SubjectClaim == "email" && claims["email_verified"] != true:
		return wrong("email_verified is not true in it")
	case len(id) > maxID || id == "":
		return wrong("it has no jti, by which it could be told whether it was used before")
	}
	for name, want := range s.Claims {
		if claims.Text(name) != want {
			return wrong("its claim " + name + " is not the one that is configured")
		}
	}
	if last := issued.Add(s.MaxAge); last.Before(expires) { // it is taken no longer than that
		expires = last
	}
	out := broker.Assertion{Issuer: s.Issuer, Subject: who, ID: id, Expires: expires, Once: !s.Replay}
	if may, said := claims["may_act"]; said {
		party, _ := may.(map[string]any)
		of := issuer.Claims(party)
		out.MayAct = &broker.Party{Issuer: of.Text("iss"), Subject: of.Text("sub")}
	}
	return out, nil
}
