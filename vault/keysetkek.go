package vault

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// KeysetForms is the highest form of the keyset file that this program reads: 3 has two KEKs.
const KeysetForms = twoKEKsFormat

// ErrChangingKEK: the file is encrypted for two KEKs, and what was asked needs it to be for one.
var ErrChangingKEK = errors.New("a change of the KEK is under way: end it first (`tokenbroker keyset kek drop`)")

// KEKInfo is a KEK that a file names.
type KEKInfo struct {
	Name  string
	Since time.Time // when the file was encrypted for it; zero: not known
}

// KeysetKEKs lists the KEKs that a keyset file says it is encrypted for; none: it says nothing. No KEK is asked, so nothing proves it.
func KeysetKEKs(content []byte) ([]KEKInfo, error) {
	var file struct {
		KEK  string       `json:"kek"`
		KEKs []wrappedKey `json:"keks"`
	}
	if err := json.Unmarshal(content, &file); err != nil {
		return nil, errors.New("keyset file is not JSON")
	}
	var all []KEKInfo
	for _, w := range file.KEKs {
		all = append(all, KEKInfo{Name: w.KEK, Since: w.Since})
	}
	if len(all) == 0 && file.KEK != "" {
		all = []KEKInfo{{Name: file.KEK}}
	}
	return all, nil
}

// AddKEK makes the content of a keyset file that opens with both KEKs, the one that it has and the one that it gets. A file that does so
// already stays as it is.
func AddKEK(content []byte, has, gets KEK, now time.Time) ([]byte, error) {
	doc, err := openKeysetDoc(content, has)
	if err != nil {
		return nil, err
	}
	done, err := mayAdd(doc.shared, has, gets)
	if err != nil {
		return nil, err
	}
	out := content
	if !done {
		if doc.shared == nil && opensWith(content, gets) == nil {
			return nil, fmt.Errorf("%s is the same key as %s, under another name", KEKName(gets), KEKName(has))
		}
		if doc.shared, err = newSharedKey(sharedKeyset, has, gets, now); err != nil {
			return nil, err
		}
		if out, err = doc.wrap(has); err != nil {
			return nil, err
		}
	}
	return out, opensWith(out, has, gets)
}

// DropKEK makes the content of a keyset file that opens with the KEK given alone, no longer with the one of the name. A file that is so
// already stays as it is.
func DropKEK(content []byte, stays KEK, drop string) ([]byte, error) {
	doc, err := openKeysetDoc(content, stays)
	if err != nil {
		return nil, err
	}
	if done, err := mayDrop(doc.shared, drop); done || err != nil {
		return content, err
	}
	doc.shared = nil // and with it the key that the other KEK opens
	out, err := doc.wrap(stays)
	if err != nil {
		return nil, err
	}
	return out, opensWith(out, stays)
}

// RenewKEK makes the content of a keyset file that is wrapped by the same KEK once more: a service takes the newest version of its key.
func RenewKEK(content []byte, key KEK) ([]byte, error) {
	doc, err := openKeysetDoc(content, key)
	if err != nil {
		return nil, err
	}
	if doc.shared != nil {
		return nil, ErrChangingKEK
	}
	out, err := doc.wrap(key)
	if err != nil {
		return nil, err
	}
	return out, opensWith(out, key)
}

// opensWith is the error of content that one of the KEKs does not open: a service may be allowed to wrap and not to open.
func opensWith(content []byte, keys ...KEK) error {
	for _, key := range keys {
		if _, err := openKeysetDoc(content, key); err != nil {
			return fmt.Errorf("what was encrypted for %s does not open with it: %w", KEKName(key), err)
		}
	}
	return nil
}
