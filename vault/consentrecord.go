package vault

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"tokenbroker/broker"
)

// The stored form of a consent: one hash with a TTL.
//
//	v format version   ver version of the consent   wid id of the last write   st "open" or "done"   b the rest, sealed
//
// Beside it, if it must not be asked twice at the same time, a hash that ends with the deadline: id is the consent's.
const (
	consentFormat = "1"

	fieldVersion = "ver"
	fieldPhase   = "st"
	fieldBody    = "b"
	fieldConsent = "id"

	phaseOpen = "open"
	phaseDone = "done"
)

type storedConsent struct {
	ID             string            `json:"id"`
	Tenant         string            `json:"t"`
	Client         string            `json:"cl"`
	Subject        string            `json:"sub"`
	Actor          storedActor       `json:"act,omitzero"`
	Connector      string            `json:"cn"`
	Scopes         []string          `json:"sc,omitempty"`
	Added          []string          `json:"add,omitempty"`
	Connection     string            `json:"con,omitempty"`
	Binding        string            `json:"bd"`
	ReturnTo       string            `json:"rt,omitempty"`
	State          string            `json:"cs,omitempty"`
	Link           string            `json:"lk,omitempty"`
	Status         string            `json:"st"`
	Error          string            `json:"er,omitempty"`
	Deadline       int64             `json:"dl,omitempty"`
	CreatedAt      int64             `json:"ca,omitempty"`
	BrowserDigest  string            `json:"bw,omitempty"`
	StateDigest    string            `json:"sd,omitempty"`
	Verifier       string            `json:"vf,omitempty"`
	Fingerprint    string            `json:"fp,omitempty"`
	Issuer         string            `json:"is,omitempty"`
	IssuerRequired bool              `json:"ir,omitempty"`
	ProviderCode   string            `json:"pc,omitempty"`
	CallbackParams map[string]string `json:"cp,omitempty"`
	CompletionCode string            `json:"cc,omitempty"`
	Attempts       int               `json:"at,omitempty"`
	BusyUntil      int64             `json:"bu,omitempty"`
	Provisional    *storedGrant      `json:"pv,omitempty"`
	Identified     bool              `json:"idf,omitempty"`
	Result         string            `json:"rs,omitempty"`
	Account        storedAccount     `json:"acc,omitzero"`
	RequestID      string            `json:"rq,omitempty"`
	TraceID        string            `json:"tr,omitempty"`
	Claim          string            `json:"cm,omitempty"`
	Device         *storedDevice     `json:"dv,omitempty"`
	Login          *storedLogin      `json:"lg,omitempty"`
	From           string            `json:"fr,omitempty"`
}

// storedLogin is a sign-in at a tenant's own OpenID Provider, as the record keeps it that it is for.
type storedLogin struct {
	StateDigest    string `json:"sd,omitempty"`
	Browser        string `json:"bw"`
	Nonce          string `json:"no"`
	Verifier       string `json:"vf"`
	Fingerprint    string `json:"fp"`
	Issuer         string `json:"is"`
	IssuerRequired bool   `json:"ir,omitempty"`
	Until          int64  `json:"un"` // ms
	Proven         bool   `json:"pr,omitempty"`
}

func storeLogin(l broker.LoginRun) *storedLogin {
	if l == (broker.LoginRun{}) {
		return nil
	}
	return &storedLogin{
		StateDigest: l.StateDigest, Browser: l.Browser, Nonce: l.Nonce.Reveal(), Verifier: l.Verifier.Reveal(), Fingerprint: l.Fingerprint,
		Issuer: l.Issuer, IssuerRequired: l.IssuerRequired, Until: millis(l.Until), Proven: l.Proven,
	}
}

func (l *storedLogin) login() broker.LoginRun {
	if l == nil {
		return broker.LoginRun{}
	}
	return broker.LoginRun{
		StateDigest: l.StateDigest, Browser: l.Browser, Nonce: broker.NewSecret(l.Nonce), Verifier: broker.NewSecret(l.Verifier), Fingerprint: l.Fingerprint,
		Issuer: l.Issuer, IssuerRequired: l.IssuerRequired, Until: fromMillis(l.Until), Proven: l.Proven,
	}
}

// storedDevice is the part that a consent on another device has of its own.
type storedDevice struct {
	DeviceCode  string `json:"dc"`
	UserCode    string `json:"uc"`
	Address     string `json:"vu"`
	AddressFull string `json:"vc,omitempty"`
	Interval    int64  `json:"in"` // ms
	PollAt      int64  `json:"at"` // ms
}

func storeDevice(d broker.DeviceFlow) *storedDevice {
	if d == (broker.DeviceFlow{}) {
		return nil
	}
	return &storedDevice{
		DeviceCode: d.DeviceCode.Reveal(), UserCode: d.UserCode.Reveal(), Address: d.VerificationURI, AddressFull: d.VerificationURIComplete.Reveal(),
		Interval: d.Interval.Milliseconds(), PollAt: millis(d.PollAt),
	}
}

func (d *storedDevice) device() broker.DeviceFlow {
	if d == nil {
		return broker.DeviceFlow{}
	}
	return broker.DeviceFlow{
		DeviceCode: broker.NewSecret(d.DeviceCode), UserCode: broker.NewSecret(d.UserCode), VerificationURI: d.Address, VerificationURIComplete: broker.NewSecret(d.AddressFull),
		Interval: time.Duration(d.Interval) * time.Millisecond, PollAt: fromMillis(d.PollAt),
	}
}

type storedActor struct {
	Agent string `json:"a,omitempty"`
	Run   string `json:"r,omitempty"`
	Tool  string `json:"t,omitempty"`
}

// storedGrant is a provider's answer, as it lies in a provisional consent and in the spool: always inside a seal.
type storedGrant struct {
	AccessToken    string            `json:"at,omitempty"`
	RefreshToken   string            `json:"rt,omitempty"`
	Scopes         []string          `json:"sc,omitempty"`
	ScopesReported bool              `json:"sr,omitempty"`
	ExpiresAt      int64             `json:"ex,omitempty"`
	Never          bool              `json:"nv,omitempty"`
	Lifetime       int64             `json:"lf,omitempty"`
	RefreshExpiry  int64             `json:"re,omitempty"`
	ObtainedAt     int64             `json:"oa,omitempty"` // microseconds
	Client         int64             `json:"gn,omitempty"` // generation of the client secret
	Account        storedAccount     `json:"acc,omitzero"`
	Extra          map[string]string `json:"ext,omitempty"`
	Vars           map[string]string `json:"var,omitempty"`
}

func storeGrant(g broker.Grant) storedGrant {
	return storedGrant{
		AccessToken: g.AccessToken.Reveal(), RefreshToken: g.RefreshToken.Reveal(), Scopes: g.Scopes.All(), ScopesReported: g.ScopesReported,
		ExpiresAt: millis(g.ExpiresAt), Never: g.Never, Lifetime: g.Lifetime.Milliseconds(), RefreshExpiry: millis(g.RefreshExpiry), ObtainedAt: micros(g.ObtainedAt), Client: g.ClientGeneration,
		Account: storeAccount(g.Account), Extra: g.Extra, Vars: g.Vars,
	}
}

func (g storedGrant) grant() broker.Grant {
	return broker.Grant{
		AccessToken: broker.NewSecret(g.AccessToken), RefreshToken: broker.NewSecret(g.RefreshToken),
		Scopes: broker.NewScopeSet(g.Scopes...), ScopesReported: g.ScopesReported, ExpiresAt: fromMillis(g.ExpiresAt), Never: g.Never,
		Lifetime: time.Duration(g.Lifetime) * time.Millisecond, RefreshExpiry: fromMillis(g.RefreshExpiry), ObtainedAt: fromMicros(g.ObtainedAt), ClientGeneration: g.Client,
		Account: g.Account.account(), Extra: g.Extra, Vars: g.Vars,
	}
}

func storeConsent(c broker.Consent) storedConsent {
	out := storedConsent{
		ID: c.ID, Tenant: c.Tenant, Client: c.Client, Subject: c.Subject, Actor: storedActor(c.Actor), Connector: c.Connector,
		Scopes: c.Scopes.All(), Added: c.Added.All(), Connection: c.Connection, Binding: string(c.Binding),
		ReturnTo: c.ReturnTo, State: c.State, Link: c.Link.Reveal(), Status: string(c.Status), Error: c.Error,
		Deadline: millis(c.Deadline), CreatedAt: millis(c.CreatedAt), BrowserDigest: c.BrowserDigest, StateDigest: c.StateDigest,
		Verifier: c.Verifier.Reveal(), Fingerprint: c.Fingerprint, Issuer: c.Issuer,
		IssuerRequired: c.IssuerRequired, ProviderCode: c.ProviderCode.Reveal(), CallbackParams: c.CallbackParams,
		CompletionCode: c.CompletionCode.Reveal(), Attempts: c.Attempts, BusyUntil: millis(c.BusyUntil), Identified: c.Identified,
		Result: c.Result, Account: storeAccount(c.Account), RequestID: c.RequestID, TraceID: c.TraceID, Claim: c.Claim, From: c.From, Device: storeDevice(c.Device), Login: storeLogin(c.Login),
	}
	if c.Provisional != nil {
		g := storeGrant(*c.Provisional)
		out.Provisional = &g
	}
	return out
}

func (c storedConsent) consent(version int64) broker.Consent {
	out := broker.Consent{
		ID: c.ID, Tenant: c.Tenant, Client: c.Client, Subject: c.Subject, Actor: broker.Actor(c.Actor), Connector: c.Connector,
		Scopes: broker.NewScopeSet(c.Scopes...), Added: broker.NewScopeSet(c.Added...), Connection: c.Connection,
		Binding: broker.Binding(c.Binding), ReturnTo: c.ReturnTo, State: c.State, Link: broker.NewSecret(c.Link),
		Status: broker.ConsentStatus(c.Status), Error: c.Error, Deadline: fromMillis(c.Deadline), CreatedAt: fromMillis(c.CreatedAt),
		BrowserDigest: c.BrowserDigest, StateDigest: c.StateDigest, Verifier: broker.NewSecret(c.Verifier), Fingerprint: c.Fingerprint,
		Issuer: c.Issuer, IssuerRequired: c.IssuerRequired, ProviderCode: broker.NewSecret(c.ProviderCode), CallbackParams: c.CallbackParams, CompletionCode: broker.NewSecret(c.CompletionCode),
		Attempts: c.Attempts, BusyUntil: fromMillis(c.BusyUntil), Identified: c.Identified, Result: c.Result, Account: c.Account.account(),
		RequestID: c.RequestID, TraceID: c.TraceID, Claim: c.Claim, From: c.From, Device: c.Device.device(), Login: c.Login.login(), Version: version,
	}
	if c.Provisional != nil {
		g := c.Provisional.grant()
		out.Provisional = &g
	}
	return out
}

// consentPlace names the version: an older body under the present version does not open. The tenant is inside the seal,
// for who opens a link does not know it yet.
func consentPlace(id string, version int64) []byte {
	return place("consent", "", id, fieldBody, consentFormat, strconv.FormatInt(version, 10))
}

func finished(status broker.ConsentStatus) bool {
	switch status {
	case broker.ConsentPending, broker.ConsentStarted, broker.ConsentAwaitingCompletion:
		return false
	default:
		return true
	}
}

// consentFields makes the fields of a consent at version.
func (s *Store) consentFields(c broker.Consent, version int64, wid string) ([]string, error) {
	body, err := json.Marshal(storeConsent(c))
	if err != nil {
		return nil, fmt.Errorf("encode consent: %w", err)
	}
	sealed, err := s.seals.sealFor(c.Tenant, body, consentPlace(c.ID, version))
	if err != nil {
		return nil, err
	}
	phase := phaseOpen
	if finished(c.Status) {
		phase = phaseDone
	}
	return []string{
		fieldFormat, consentFormat, fieldVersion, strconv.FormatInt(version, 10), fieldWrite, wid, fieldPhase, phase, fieldBody, sealed,
	}, nil
}

// openConsent reads a record. ErrNotFound, ErrNewerFormat, ErrIntegrity.
func (s *Store) openConsent(id string, record map[string][]byte) (broker.Consent, error) {
	body, version, err := openVersioned(s.seals, record, consentFormat, func(version int64) []byte { return consentPlace(id, version) },
		func(c storedConsent) (string, bool) { return c.Tenant, c.ID == id })
	if err != nil {
		return broker.Consent{}, fmt.Errorf("consent: %w", err)
	}
	return body.consent(version), nil
}

// openVersioned reads a record whose sealed part is pinned to its version; is tells whose it is, and that it is the
// record that was asked for.
// ErrNotFound, ErrNewerFormat, ErrIntegrity.
func openVersioned[T any](seals *sealer, record map[string][]byte, format string, place func(version int64) []byte, is func(T) (tenant string, is bool)) (body T, version int64, err error) {
	if len(record) == 0 {
		return body, 0, broker.ErrNotFound
	}
	if err := checkFormat(string(record[fieldFormat]), format); err != nil {
		return body, 0, err
	}
	if version, err = strconv.ParseInt(string(record[fieldVersion]), 10, 64); err != nil {
		return body, 0, fmt.Errorf("version: %w", broker.ErrIntegrity)
	}
	plain, owner, err := seals.openAny(record[fieldBody], place(version))
	if errors.Is(err, broker.ErrTenantErased) {
		return body, 0, broker.ErrNotFound
	}
	if err != nil {
		return body, 0, err
	}
	if err := json.Unmarshal(plain, &body); err != nil {
		return body, 0, fmt.Errorf("sealed part: %w", broker.ErrIntegrity)
	}
	switch tenant, is := is(body); {
	case !is || owner != "" && owner != tenant:
		return body, 0, fmt.Errorf("sealed part: %w", broker.ErrIntegrity)
	case seals.keyset.Erased(tenant):
		var none T
		return none, 0, broker.ErrNotFound
	}
	return body, version, nil
}
