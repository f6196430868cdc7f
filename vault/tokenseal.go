package vault

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strconv"

	"tokenbroker/broker"
)

// The seals of a record's tokens. In the first form the text of the token is sealed as it is. In the second one it is packed
// first, and a byte before the seal says so (Tink's own begin with another one). A token outlives the write that put it into
// its record, so its form is its own and not the record's: the seal names it.
const (
	tokenFormPlain  = "1"
	tokenFormPacked = "2"

	packedMark = 2 // before the seal; one of the first form begins with Tink's 1
)

// refreshPlace pins the write that put the token there (header.RefreshEpoch).
func refreshPlace(form, tenant, id string, epoch int64) []byte {
	return place("connection", tenant, id, fieldRefresh, form, strconv.FormatInt(epoch, 10))
}

// accessPlace pins the scopes and the expiry, so that nobody who can write to the store can widen or prolong a token.
func accessPlace(form, tenant, id string, t broker.AccessTokenInfo) []byte {
	return place("connection", tenant, id, fieldAccess+t.Key, form,
		t.Scopes.String(), strconv.FormatInt(millis(t.ExpiresAt), 10), strconv.FormatBool(t.Never))
}

// sealRefresh seals a refresh token that the write puts there which makes generation epoch.
func (s *Store) sealRefresh(tenant, id string, epoch int64, token broker.Secret) (string, error) {
	if !s.compact() {
		return s.seals.sealFor(tenant, []byte(token.Reveal()), refreshPlace(tokenFormPlain, tenant, id, epoch))
	}
	return s.seals.sealPacked(tenant, token, refreshPlace(tokenFormPacked, tenant, id, epoch))
}

// sealAccess seals an access token.
func (s *Store) sealAccess(tenant, id string, t broker.AccessTokenInfo, token broker.Secret) (string, error) {
	if !s.compact() {
		return s.seals.sealFor(tenant, []byte(token.Reveal()), accessPlace(tokenFormPlain, tenant, id, t))
	}
	return s.seals.sealPacked(tenant, token, accessPlace(tokenFormPacked, tenant, id, t))
}

func (s *sealer) sealPacked(tenant string, token broker.Secret, place []byte) (string, error) {
	sealed, err := s.sealFor(tenant, packToken(token.Reveal()), place)
	if err != nil {
		return "", err
	}
	return string([]byte{packedMark}) + sealed, nil
}

// openRefreshToken opens a refresh token that the write put there which made generation epoch. ErrIntegrity.
func (s *Store) openRefreshToken(tenant, id string, epoch int64, sealed []byte) (broker.Secret, error) {
	if bare, ok := packedSeal(sealed); ok {
		return s.seals.openPacked(tenant, bare, refreshPlace(tokenFormPacked, tenant, id, epoch))
	}
	return s.seals.openPlain(tenant, sealed, refreshPlace(tokenFormPlain, tenant, id, epoch))
}

// openAccess opens an access token. ErrIntegrity.
func (s *Store) openAccess(tenant, id string, t broker.AccessTokenInfo, sealed []byte) (broker.Secret, error) {
	if bare, ok := packedSeal(sealed); ok {
		return s.seals.openPacked(tenant, bare, accessPlace(tokenFormPacked, tenant, id, t))
	}
	return s.seals.openPlain(tenant, sealed, accessPlace(tokenFormPlain, tenant, id, t))
}

func (s *sealer) openPlain(tenant string, sealed, place []byte) (broker.Secret, error) {
	plain, err := s.openFor(tenant, sealed, place)
	return broker.NewSecret(string(plain)), err
}

func (s *sealer) openPacked(tenant string, sealed, place []byte) (broker.Secret, error) {
	plain, err := s.openFor(tenant, sealed, place)
	if err != nil {
		return broker.Secret{}, err
	}
	token, ok := unpackToken(plain)
	if !ok {
		return broker.Secret{}, fmt.Errorf("open: packed token: %w", broker.ErrIntegrity)
	}
	return broker.NewSecret(token), nil
}

// packedSeal is the seal behind the mark of the second form; false: there is no mark.
func packedSeal(sealed []byte) ([]byte, bool) {
	if len(sealed) == 0 || sealed[0] != packedMark {
		return sealed, false
	}
	return sealed[1:], true
}

// Tokens are mostly made of the 64 characters of base64url, with a few others between: the dots of a JWT. Packed they take six
// bits for each character in place of eight:
//
//	0, then the text as it is
//	1, number of others, each: how many characters of the 64 are between it and the one before, itself; number of characters of
//	the 64; these as base64url is decoded, filled up with A
const (
	packedAsIs  = 0
	packedSixes = 1
)

// packToken packs the text, in whatever way is shorter.
func packToken(text string) []byte {
	asIs := func() []byte { return append([]byte{packedAsIs}, text...) }
	others := 0
	for i := range len(text) {
		if !isSix(text[i]) {
			others++
		}
	}
	if 16*others > len(text) {
		return asIs()
	}
	sixes := make([]byte, 0, len(text)+3)
	out := make([]byte, 0, 8+3*others+(len(text)+3)/4*3)
	out = binary.AppendUvarint(append(out, packedSixes), uint64(others))
	gap := 0
	for i := range len(text) {
		if c := text[i]; isSix(c) {
			sixes = append(sixes, c)
			gap++
		} else {
			out = append(binary.AppendUvarint(out, uint64(gap)), c)
			gap = 0
		}
	}
	out = binary.AppendUvarint(out, uint64(len(sixes)))
	for len(sixes)%4 > 0 {
		sixes = append(sixes, 'A')
	}
	out, err := base64.RawURLEncoding.AppendDecode(out, sixes)
	if err != nil || len(out) > len(text) {
		return asIs()
	}
	return out
}

func isSix(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

// unpackToken is packToken backwards. false: it did not make this.
func unpackToken(packed []byte) (string, bool) {
	r := reader{rest: packed}
	switch r.byte() {
	case packedAsIs:
		return string(r.rest), len(packed) > 0
	case packedSixes:
	default:
		return "", false
	}
	others := r.uvarint()
	begin := r.rest
	for n := others; n > 0 && !r.bad; n-- {
		r.uvarint()
		r.byte()
	}
	sixes := r.uvarint()
	if r.bad || sixes > 2*uint64(len(r.rest)) || uint64(len(r.rest)) != (sixes+3)/4*3 {
		return "", false
	}
	plain := base64.RawURLEncoding.AppendEncode(make([]byte, 0, len(r.rest)/3*4), r.rest)[:sixes]
	if others == 0 {
		return string(plain), true
	}
	out := make([]byte, 0, sixes+others)
	r = reader{rest: begin}
	for range others {
		gap := r.uvarint()
		if gap > uint64(len(plain)) {
			return "", false
		}
		out = append(append(out, plain[:gap]...), r.byte())
		plain = plain[gap:]
	}
	return string(append(out, plain...)), true
}
