package vault

import (
	"encoding/json"
	"fmt"
	"time"
)

// What keysetkek.go does for the keyset, for the file of the keys that sign the audit trail: the same KEK wraps it. A version before two
// KEKs finds that such a file does not open.

// signingDoc is a file, opened.
type signingDoc struct {
	signingFile
	public []PublicKey
	shared *sharedKey // nil: one KEK encrypts it
	with   KEK        // what its keys are wrapped by: the KEK, or the shared key
}

func openSigningDoc(content []byte, key KEK) (*signingDoc, error) {
	file, public, err := parseSigningFile(content)
	if err != nil {
		return nil, err
	}
	doc := &signingDoc{signingFile: file, public: public, with: key}
	if len(file.KEKs) > 0 {
		if doc.shared, err = openSharedKey(sharedSigning, file.KEKs, key); err != nil {
			return nil, fmt.Errorf("the audit signing key can't be opened: %w", err)
		}
		doc.with = doc.shared
	}
	return doc, nil
}

// seed opens a key of the file.
func (d *signingDoc) seed(i int) ([]byte, error) {
	seed, err := d.with.Decrypt(d.Keys[i].Sealed, signingAD(d.public[i].key))
	if err != nil {
		return nil, fmt.Errorf("the audit signing key %s can't be opened (is it the KEK that it was made with?): %w", d.public[i].ID, err)
	}
	return seed, nil
}

// rewrap wraps all keys by another KEK, or the shared one, and makes the file's content.
func (d *signingDoc) rewrap(shared *sharedKey, key KEK) ([]byte, error) {
	with, wrapped := key, []wrappedKey(nil)
	if shared != nil {
		with, wrapped = shared, shared.wrapped
	}
	keys := make([]signingFileKey, len(d.Keys))
	for i, was := range d.Keys {
		seed, err := d.seed(i)
		if err != nil {
			return nil, err
		}
		keys[i] = was
		keys[i].Sealed, err = with.Encrypt(seed, signingAD(d.public[i].key))
		clear(seed)
		if err != nil {
			return nil, fmt.Errorf("wrap signing key: %w", err)
		}
	}
	return signingFile{Keys: keys, KEKs: wrapped}.content()
}

func (f signingFile) content() ([]byte, error) {
	out, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write signing keys: %w", err)
	}
	return append(out, '\n'), nil
}

// AddSigningKEK is AddKEK for a file of signing keys.
func AddSigningKEK(content []byte, has, gets KEK, now time.Time) ([]byte, error) {
	doc, err := openSigningDoc(content, has)
	if err != nil {
		return nil, err
	}
	done, err := mayAdd(doc.shared, has, gets)
	if err != nil {
		return nil, err
	}
	out := content
	if !done {
		shared, err := newSharedKey(sharedSigning, has, gets, now)
		if err != nil {
			return nil, err
		}
		if out, err = doc.rewrap(shared, nil); err != nil {
			return nil, err
		}
	}
	return out, signsWith(out, has, gets)
}

// DropSigningKEK is DropKEK for a file of signing keys.
func DropSigningKEK(content []byte, stays KEK, drop string) ([]byte, error) {
	doc, err := openSigningDoc(content, stays)
	if err != nil {
		return nil, err
	}
	if done, err := mayDrop(doc.shared, drop); err != nil {
		return nil, err
	} else if done {
		return content, signsWith(content, stays)
	}
	out, err := doc.rewrap(nil, stays)
	if err != nil {
		return nil, err
	}
	return out, signsWith(out, stays)
}

// RenewSigningKEK is RenewKEK for a file of signing keys.
func RenewSigningKEK(content []byte, key KEK) ([]byte, error) {
	doc, err := openSigningDoc(content, key)
	if err != nil {
		return nil, err
	}
	if doc.shared != nil {
		return nil, ErrChangingKEK
	}
	out, err := doc.rewrap(nil, key)
	if err != nil {
		return nil, err
	}
	return out, signsWith(out, key)
}

// signsWith is opensWith.
func signsWith(content []byte, keys ...KEK) error {
	for _, key := range keys {
		if _, err := OpenSigningKeys(content, key); err != nil {
			return fmt.Errorf("what was encrypted for %s does not open with it: %w", KEKName(key), err)
		}
	}
	return nil
}
