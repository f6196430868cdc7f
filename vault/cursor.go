package vault

import (
	"encoding/base64"
	"errors"
	"fmt"

	"tokenbroker/broker"
)

var _ broker.Cursors = (*Store)(nil)

// cursorPlace pins a cursor to what it continues.
func cursorPlace(purpose string) []byte { return place("cursor", "", purpose, "position", "1") }

// SealCursor implements broker.Cursors.
func (s *Store) SealCursor(purpose, position string) (string, error) {
	sealed, err := s.seals.seal([]byte(position), cursorPlace(purpose))
	if err != nil {
		return "", fmt.Errorf("seal cursor: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString([]byte(sealed)), nil
}

// OpenCursor implements broker.Cursors.
func (s *Store) OpenCursor(purpose, cursor string) (string, error) {
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil {
		return "", errors.New("open cursor: it is not base64url")
	}
	position, err := s.seals.open(sealed, cursorPlace(purpose))
	if err != nil {
		return "", fmt.Errorf("open cursor: %w", err)
	}
	return string(position), nil
}
