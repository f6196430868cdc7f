package vault

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tink-crypto/tink-go/v2/subtle/random"

	"tokenbroker/vault/kek"
)

// While the KEK of an installation is changed its files are encrypted for two, so that each process opens them with the one that it has
// (broker/decisions/0037-changing-the-kek.md). A random key encrypts the file then, and lies in it as often as there are KEKs, wrapped by
// each. Whoever has one of them can change the file, and the other one still opens it.

// maxKEKs are those of a change: one to leave, one to come.
const maxKEKs = 2

// KEKName is how a KEK calls itself, by the reference that names it in configurations; "" if it does not.
func KEKName(key KEK) string {
	if named, ok := key.(interface{ KEKName() string }); ok {
		return named.KEKName()
	}
	return ""
}

// NamedKEK is a KEK with its name.
type NamedKEK struct {
	KEK
	Name string
}

// KEKName implements what KEKName asks for.
func (k NamedKEK) KEKName() string { return k.Name }

// OtherKEKError: the KEK does not open a file that says itself which ones do. Whoever can write the file can write that too: it is for
// people to read, and to compare with what they did.
type OtherKEKError struct {
	Says  []string
	Cause error
}

func (e *OtherKEKError) Error() string {
	return fmt.Sprintf("%s; it says that it is encrypted with %s", e.Cause, e.Names())
}

// Names are those that it says, for people.
func (e *OtherKEKError) Names() string { return quotedNames(e.Says) }

// Unwrap is the cause.
func (e *OtherKEKError) Unwrap() error { return e.Cause }

func quotedNames(names []string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = fmt.Sprintf("%q", name)
	}
	return strings.Join(quoted, " and ")
}

// otherKEK makes the error of a KEK that does not open what is encrypted with those of the names. A service that does not answer is no
// reason to look for another KEK.
func otherKEK(err error, key KEK, names ...string) error {
	const long = 1000
	names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return name == "" || len(name) > long })
	if err == nil || len(names) == 0 || slices.Contains(names, KEKName(key)) || errors.Is(err, kek.ErrUnavailable) {
		return err
	}
	return &OtherKEKError{Says: names, Cause: err}
}

// Purposes of a shared key: what a wrapped one is bound to, beside the name of its KEK.
const (
	sharedKeyset  = "tokenbroker/keyset/shared-key/v1"
	sharedSigning = "tokenbroker/audit/shared-key/v1"
)

// sharedKey encrypts a file that several KEKs open.
type sharedKey struct {
	KEK
	wrapped []wrappedKey
	opened  string // the name of the KEK that opened it
}

// wrappedKey is the shared key, wrapped by one KEK and bound to that one's name.
type wrappedKey struct {
	KEK   string    `json:"kek"`
	Since time.Time `json:"since,omitzero"`
	Key   []byte    `json:"key"`
}

func (k *sharedKey) names() (names []string) { return namesOf(k.wrapped) }

func namesOf(wrapped []wrappedKey) (names []string) {
	for _, w := range wrapped {
		names = append(names, w.KEK)
	}
	return names
}

// newSharedKey makes one for the KEK that a file has and the one that it gets.
func newSharedKey(purpose string, has, gets KEK, now time.Time) (*sharedKey, error) {
	raw := random.GetRandomBytes(32)
	defer clear(raw)
	out := &sharedKey{opened: KEKName(has)}
	for _, key := range []KEK{has, gets} {
		name := KEKName(key)
		sealed, err := key.Encrypt(raw, joined(purpose, name))
		if err != nil {
			return nil, fmt.Errorf("wrap for %s: %w", name, err)
		}
		out.wrapped = append(out.wrapped, wrappedKey{KEK: name, Since: now.UTC().Truncate(time.Second), Key: sealed})
	}
	var err error
	out.KEK, err = NewKEK(raw, "the key of the file")
	return out, err
}

// openSharedKey opens it with whichever of the wrapped ones is the KEK's. Names may differ from those that it was wrapped under: a
// variable is renamed, or gets the new value. The one of the own name is tried first, so that a service is not asked for another's.
func openSharedKey(purpose string, wrapped []wrappedKey, key KEK) (*sharedKey, error) {
	if len(wrapped) > maxKEKs {
		return nil, fmt.Errorf("this is encrypted for %d KEKs, and there are never more than %d", len(wrapped), maxKEKs)
	}
	own := KEKName(key)
	order := slices.Clone(wrapped)
	slices.SortStableFunc(order, func(a, b wrappedKey) int {
		switch {
		case a.KEK == own && b.KEK != own:
			return -1
		case a.KEK != own && b.KEK == own:
			return 1
		}
		return 0
	})
	refusal := errors.New("no KEK is named in it")
	for _, w := range order {
		raw, err := key.Decrypt(w.Key, joined(purpose, w.KEK))
		if err == nil {
			defer clear(raw)
			opened, err := NewKEK(raw, "the key of the file")
			return &sharedKey{KEK: opened, wrapped: wrapped, opened: w.KEK}, err
		}
		if refusal = err; errors.Is(err, kek.ErrUnavailable) {
			break
		}
	}
	return nil, otherKEK(fmt.Errorf("open with any of its KEKs: %w", refusal), key, namesOf(wrapped)...)
}

// mayAdd is the error of a KEK that can't be added to a file which has those; done: it is there already.
func mayAdd(shared *sharedKey, has, gets KEK) (done bool, err error) {
	from, to := KEKName(has), KEKName(gets)
	switch {
	case from == "" || to == "":
		return false, errors.New("a KEK without a name can't be told from another")
	case shared != nil && slices.Contains(shared.names(), to) && shared.opened != to:
		return true, nil
	case shared != nil:
		return false, fmt.Errorf("it is encrypted for %s: a change of the KEK is under way; end it first, by dropping one of both", quotedNames(shared.names()))
	case from == to:
		return false, fmt.Errorf("both KEKs are called %s: to change the value of a variable, put the new one into another variable first; once it is there, its name is free again", to)
	}
	return false, nil
}

// mayDrop is the error of a KEK that can't be dropped; done: the file has one alone, which is not that.
func mayDrop(shared *sharedKey, drop string) (done bool, err error) {
	switch {
	case shared == nil:
		return true, nil
	case shared.opened == drop:
		return false, fmt.Errorf("this was opened with %s: whoever drops it must open the file with the one that stays, which the configuration (or --kek) is to name", drop)
	case !slices.Contains(shared.names(), drop):
		return false, fmt.Errorf("it is not encrypted for %q, but for %s", drop, quotedNames(shared.names()))
	}
	return false, nil
}
