package vault

import (
	"context"
	"fmt"
	"io/fs"
	"strconv"
	"testing"
	"time"

	"tokenbroker/broker"
)

// fuzzedFiles is a spool in memory.
type fuzzedFiles map[string][]byte

func (m fuzzedFiles) Write(_ context.Context, name string, content []byte) error {
	m[name] = content
	return nil
}

func (m fuzzedFiles) Read(_ context.Context, name string) ([]byte, error) {
	content, there := m[name]
	if !there {
		return nil, fs.ErrNotExist
	}
	return content, nil
}

func (m fuzzedFiles) Remove(_ context.Context, name string) error {
	delete(m, name)
	return nil
}

func (m fuzzedFiles) List(context.Context) (names []string, err error) {
	for name := range m {
		names = append(names, name)
	}
	return names, nil
}

// FuzzLease (threats 31, 32 and 34): a stranger replaces fields of the record that a refresh begins with, and what lies beside it. The refresh
// token that is sent to the provider is the one of this connection, or none is.
func FuzzLease(f *testing.F) {
	const token = "canary-refresh-token"
	var record, beside map[string][]byte
	s := scriptedStore(f, time.Now, func(step Step) Result {
		r := Result{Now: time.Now()}
		for _, read := range step.Reads {
			switch n := len(r.Reads); n {
			case 0:
				r.Reads = append(r.Reads, record)
			case 1:
				r.Reads = append(r.Reads, beside)
			default:
				r.Reads = append(r.Reads, map[string][]byte{})
			}
			_ = read
		}
		return r
	})
	conn, grant := formConnection(f)
	grant.RefreshToken = broker.NewSecret(token)
	good := formRecord(f, s, conn, grant)
	good[fieldFence] = []byte("7")
	names := []string{fieldFence, fieldFormat, fieldHeader, fieldPrivate, fieldRefresh}
	for i, name := range names {
		f.Add(1<<i, []byte("9"), good[name], []byte{})
	}
	f.Add(0, []byte{}, []byte{}, []byte("12345678\x01seal"))
	f.Add(31, []byte{}, good[fieldRefresh], good[fieldRefresh])
	f.Fuzz(func(t *testing.T, which int, fence, other, kept []byte) {
		record = make(map[string][]byte)
		for _, name := range []string{fieldFence, fieldRefresh, fieldFormat, fieldHeader, fieldPrivate} {
			record[name] = good[name]
		}
		for i, name := range names {
			if which&(1<<i) != 0 {
				record[name] = other
			}
		}
		if which&32 != 0 {
			record[fieldFence] = fence
		}
		beside = map[string][]byte{fieldKept: kept, fieldSuccessor: other, string(fence): kept}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		lease, got, err := s.BeginRefresh(ctx, conn, "me", time.Minute)
		if err != nil {
			if text := fmt.Sprint(err); len(text) > 600 {
				t.Fatalf("an error of %d bytes", len(text))
			}
			return
		}
		if got.Reveal() != token {
			t.Fatalf("the refresh begins with %q", got.Reveal())
		}
		if n, err := strconv.ParseInt(string(record[fieldFence]), 10, 64); err != nil || lease.Fence != n {
			t.Fatalf("fence %q is %d", record[fieldFence], lease.Fence)
		}
	})
}

// FuzzSharedGrant (threats 31 and 34): the record of a grant that several connections hold. A stranger can name holders, and gives nobody a token.
func FuzzSharedGrant(f *testing.F) {
	s := formStore(f, true)
	_, grant := formConnection(f)
	fields, err := s.grantFields("name", 7, grant, "w")
	if err != nil {
		f.Fatal(err)
	}
	sealed := []byte(fields[len(fields)-1])
	plain, err := s.seals.open(sealed, sharedPlace("name", 7))
	if err != nil {
		f.Fatal(err)
	}
	f.Add("1", "8", sealed, plain, "m:"+fuzzedID, "7 1800000000000")
	f.Add("", "", []byte{}, []byte(`{"lf":9223372036854775807,"ex":-1}`), "c:", "x")
	f.Fuzz(func(t *testing.T, format, generation string, stranger, plain []byte, field, value string) {
		record := map[string][]byte{fieldFormat: []byte(format), fieldGeneration: []byte(generation), fieldGrant: stranger}
		if field != fieldGrant && field != fieldFormat && field != fieldGeneration {
			record[field] = []byte(value)
		}
		got, err := s.openShared("another", record)
		if err == nil && (!got.grant.RefreshToken.IsZero() || !got.grant.AccessToken.IsZero() || got.generation != 0) {
			t.Fatalf("a stranger made generation %d", got.generation)
		}
		if err != nil && !known(err) {
			t.Fatal(err)
		}
		got.held(broker.Holder{ID: fuzzedID}, time.Now())
		n, err := strconv.ParseInt(generation, 10, 64)
		if err != nil {
			return
		}
		sealed, err := s.seals.seal(plain, sharedPlace("name", n))
		if err != nil {
			t.Fatal(err)
		}
		record[fieldFormat], record[fieldGrant] = []byte(sharedFormat), []byte(sealed)
		first, err := s.openShared("name", record)
		if err != nil {
			if !known(err) {
				t.Fatal(err)
			}
			return
		}
		fields, err := s.grantFields("name", n, first.grant, "w")
		if err != nil {
			t.Fatal(err)
		}
		record[fieldGrant] = []byte(fields[len(fields)-1])
		second, err := s.openShared("name", record)
		if err != nil || !sameJSON(t, storeGrant(first.grant), storeGrant(second.grant)) {
			t.Fatalf("written and read it is another: %v", err)
		}
	})
}
