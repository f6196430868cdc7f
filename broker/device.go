package broker

import (
	"context"
	"errors"
	"strings"
	"time"
)

// A consent on another device (RFC 8628): the chat shows a code and the provider's address, the user opens that anywhere and
// types the code there, and the broker asks the provider until the user has decided.
//
//	create (code, address)        the provider gave tokens            complete (subject, code)
//	(nothing) ──────▶ started ─────────────────────▶ awaiting_completion ─────────────▶ completed
//	                     ├ the user says no ─▶ denied     └ 10 min ─▶ expired (the grant is revoked upstream)
//	                     └ 10 min ─▶ expired
//
// No page of ours is between the user and the provider, so nothing shows that whoever types the code is the one in the chat:
// somebody who asks for a code and talks another person into typing it gets that person's account (RFC 8628 section 5.4, remote
// phishing). What stands against it is that the operator has to allow it for each connector, that a code lives ten minutes at
// most, that the account is shown before the chat completes, and that no token comes out without the completing call. A link
// of binding "code" that is opened on a phone does the same without that weakness.

// BindingDevice is that of a consent on another device: the completing call brings the code that the chat has shown.
const BindingDevice Binding = "device"

const (
	// deviceInterval is how long to wait between two polls where the provider does not say (RFC 8628 section 3.2), and what is
	// added when it wants fewer (section 3.5).
	deviceInterval    = 5 * time.Second
	maxDeviceInterval = time.Minute
)

// What PollDevice returns while there is no grant (RFC 8628 section 3.5).
var (
	ErrDevicePending = errors.New("the user has not decided yet")
	ErrDeviceTooFast = errors.New("the provider wants to be asked less often")
	ErrDeviceDenied  = errors.New("the user said no")
	ErrDeviceExpired = errors.New("the device code has expired")
)

// DeviceAuthorization is what a provider gives to begin with (RFC 8628 section 3.2).
type DeviceAuthorization struct {
	DeviceCode              Secret
	UserCode                Secret
	VerificationURI         string
	VerificationURIComplete Secret // with the user code in it; zero: there is none
	ExpiresIn               time.Duration
	Interval                time.Duration // between two polls; 0: not said
}

// DevicePoll asks whether the user has decided (RFC 8628 section 3.4).
type DevicePoll struct {
	DeviceCode Secret
	Scopes     ScopeSet // that were asked
}

// DeviceFlow is the part of a consent that a consent on another device has of its own.
type DeviceFlow struct {
	DeviceCode              Secret
	UserCode                Secret
	VerificationURI         string
	VerificationURIComplete Secret
	Interval                time.Duration
	PollAt                  time.Time // when the provider may be asked next
}

// DeviceView is what a client shows to its user.
type DeviceView struct {
	UserCode                Secret
	VerificationURI         string
	VerificationURIComplete Secret
	Interval                time.Duration
}

// createDevice begins a consent on another device. A crash between the provider's answer and the write leaves a code at the
// provider that nobody asks about, and that ends by itself.
func (s *Service) createDevice(ctx context.Context, caller Caller, req ConsentRequest, asked ask) (Consent, error) {
	switch {
	case !asked.connector.Device:
		return Consent{}, Errorf(CodeInvalidRequest, "connector %s takes no consents on another device; the operator allows them under connectors: device", asked.connector.ID)
	case caller.Client.Login:
		return Consent{}, Errorf(CodeInvalidRequest, "this client's users sign in at their organisation before they consent, which flow device has no page for; leave flow out")
	case req.ReturnTo != "":
		return Consent{}, Errorf(CodeInvalidRequest, "return_to has no use with flow device: no browser of the user's comes back")
	}
	consent, err := s.draftConsent(ctx, caller, req, asked)
	if err != nil {
		return Consent{}, err
	}
	if err := s.admitConsent(ctx, caller, consent); err != nil {
		return Consent{}, err
	}
	upCtx, cancel := context.WithTimeout(ctx, s.cfg.UpstreamTimeout)
	begun, err := s.cfg.Upstream.BeginDevice(upCtx, consent.Connector, consent.Scopes)
	cancel()
	if err != nil {
		s.leavePlaces(ctx, consent)
		return Consent{}, s.upstreamFault(ctx, consent.Connector, err)
	}
	now := s.cfg.Now().UTC()
	interval := min(begun.Interval, maxDeviceInterval)
	if interval <= 0 {
		interval = deviceInterval
	}
	consent.Binding, consent.Status, consent.Deadline = BindingDevice, ConsentStarted, now.Add(min(begun.ExpiresIn, FlowLife))
	consent.CompletionCode = normalDeviceCode(begun.UserCode)
	consent.Device = DeviceFlow{
		DeviceCode: begun.DeviceCode, UserCode: begun.UserCode, VerificationURI: begun.VerificationURI,
		VerificationURIComplete: begun.VerificationURIComplete, Interval: interval, PollAt: now.Add(interval),
	}
	var entries []Entry
	for _, t := range []EventType{EventConsentCreated, EventConsentStarted} {
		entry, err := s.consentEntry(ctx, consent, t, consent.Scopes, "ok", "on another device")
		if err != nil {
			return Consent{}, serverError(err)
		}
		entries = append(entries, entry)
	}
	return s.storeNew(ctx, consent, "", entries)
}

// sweepDevices is one round of asking providers whether their users have decided. Of several replicas one asks: it has the
// claim, and should it die with it, another one goes on when the claim is over.
func (s *Service) sweepDevices(ctx context.Context) {
	for range sweepRounds {
		readCtx, cancel := context.WithTimeout(ctx, 2*s.cfg.StoreTimeout)
		due, err := s.cfg.Consents.DuePolls(readCtx, s.cfg.Now(), sweepBatch)
		cancel()
		if err != nil {
			s.cfg.Log.WarnContext(ctx, "consents on other devices could not be read", "error", err)
			return
		}
		s.sweepEach(ctx, len(due), func(ctx context.Context, i int) {
			if err := s.poll(ctx, due[i]); err != nil && !errors.Is(err, ErrConflict) && CodeOf(err) != CodeNotFound {
				s.cfg.Log.WarnContext(ctx, "a consent on another device could not be looked after", "consent", due[i].ID, "error", err)
			}
		})
		if len(due) < sweepBatch || ctx.Err() != nil {
			return
		}
	}
}

// poll asks the provider once. The first write claims the consent; a crash behind it leaves the claim, which runs out, and if
// the provider had given tokens just then, they are lost and the user starts again.
func (s *Service) poll(ctx context.Context, consent Consent) error {
	now := s.cfg.Now()
	if s.statusOf(consent) != ConsentStarted || consent.Binding != BindingDevice || now.Before(consent.BusyUntil) || now.Before(consent.Device.PollAt) {
		return nil
	}
	mine, err := s.claimed(consent)
	if err != nil {
		return err
	}
	claimed, err := s.takeClaim(ctx, consent, mine)
	if err != nil {
		return err
	}
	held := claimed
	if claimed.Provisional == nil { // else whoever had the claim before was cut off with the grant stored already
		provider := s.refresher.lineOf(claimed.Connector).provider
		if s.silences.has(provider, now) {
			return s.pollAgain(ctx, claimed, claimed.Device.Interval)
		}
		held, err = s.exchange(ctx, claimed, func(ctx context.Context) (Grant, error) {
			grant, err := s.cfg.Upstream.PollDevice(ctx, claimed.Connector, DevicePoll{DeviceCode: claimed.Device.DeviceCode, Scopes: claimed.Scopes})
			s.silences.note(provider, s.cfg.Now(), answered(err))
			return grant, err
		})
		if err != nil {
			return s.pollFailed(ctx, claimed, err)
		}
	}
	_, err = s.awaitCompletion(ctx, held, func(now Consent) bool { return now.Status == ConsentAwaitingCompletion })
	if errors.Is(err, ErrConflict) {
		return nil
	}
	return err
}

// pollFailed: there is no grant, yet or at all.
func (s *Service) pollFailed(ctx context.Context, consent Consent, cause error) error {
	var public *Error
	switch class := ClassOf(cause); {
	case errors.As(cause, &public):
		return cause // the store, not the provider
	case errors.Is(cause, ErrDevicePending):
		return s.pollAgain(ctx, consent, consent.Device.Interval)
	case errors.Is(cause, ErrDeviceTooFast):
		return s.pollAgain(ctx, consent, consent.Device.Interval+deviceInterval) // from now on (RFC 8628 section 3.5)
	case errors.Is(cause, ErrDeviceDenied):
		_, err := s.endUnder(ctx, consent.BusyUntil, consent, ConsentDenied, EventConsentDenied, "access_denied", "the user said no at the provider")
		return err
	case errors.Is(cause, ErrDeviceExpired):
		_, err := s.endClaimed(ctx, consent, ConsentExpired, "expired", "the user did not type the code in time")
		return err
	case class == ClassUnsent, class == ClassThrottled, class == ClassInDoubt:
		// Less and less often (RFC 8628 section 3.5). If the answer got lost that had the tokens, the next one says that the code is spent.
		after := min(2*consent.Device.Interval, maxDeviceInterval)
		return s.pollAgain(ctx, consent, max(after, min(retryAfter(cause), maxDeviceInterval)))
	default:
		fault := s.upstreamFault(ctx, consent.Connector, cause)
		_, err := s.endClaimed(ctx, consent, ConsentFailed, string(fault.Code), "the provider did not redeem the device code: "+string(class))
		return err
	}
}

// pollAgain gives the claim back and asks again after that time.
func (s *Service) pollAgain(ctx context.Context, consent Consent, after time.Duration) error {
	claim := consent.BusyUntil
	consent.BusyUntil, consent.Device.Interval = time.Time{}, after
	consent.Device.PollAt = s.cfg.Now().UTC().Add(after)
	_, err := s.updateUnder(ctx, claim, consent)
	return err
}

// deviceView is what is still to be shown of the consent; nil: nothing.
func (s *Service) deviceView(c Consent) *DeviceView {
	if c.Binding != BindingDevice || s.statusOf(c) != ConsentStarted {
		return nil
	}
	return &DeviceView{
		UserCode: c.Device.UserCode, VerificationURI: c.Device.VerificationURI,
		VerificationURIComplete: c.Device.VerificationURIComplete, Interval: c.Device.Interval,
	}
}

// typedCode undoes what people do to the code that the binding has them type.
func typedCode(binding Binding, typed Secret) Secret {
	switch binding {
	case BindingCode:
		return normalUserCode(typed)
	case BindingDevice:
		return normalDeviceCode(typed)
	}
	return typed
}

// normalDeviceCode leaves the letters, as capitals, and the digits of a provider's code.
func normalDeviceCode(code Secret) Secret {
	return NewSecret(strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z':
			return r - 'a' + 'A'
		case 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
			return r
		}
		return -1
	}, code.Reveal()))
}

// answered is the error of a poll, without those that are an answer.
func answered(err error) error {
	for _, answer := range []error{ErrDevicePending, ErrDeviceTooFast, ErrDeviceDenied, ErrDeviceExpired} {
		if errors.Is(err, answer) {
			return nil
		}
	}
	return err
}
