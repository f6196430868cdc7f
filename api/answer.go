package api

import (
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"tokenbroker/broker"
)

// account is an upstream account as callers read it; all fields are always there.
type account struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Email string `json:"email"`
}

// encode writes a body. Names come from providers and may be no valid UTF-8; that must not turn an answer into an error.
func encode(body any) ([]byte, error) {
	return json.Marshal(body, json.Deterministic(true), jsontext.AllowInvalidUTF8(true))
}

// stamp writes a time as RFC 3339 in UTC, cut to milliseconds: an expiry must not come out later than it is.
func stamp(t time.Time) string { return t.UTC().Format(stampLayout) }

const stampLayout = "2006-01-02T15:04:05.000Z"

// stampOrNull is null for a time that is not known.
func stampOrNull(t time.Time) *string {
	if t.IsZero() {
		return nil
	}
	s := stamp(t)
	return &s
}

func textOrNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// wholeSeconds rounds down and is never negative: a caller must not rely on time that is not there.
func wholeSeconds(d time.Duration) int64 { return max(0, int64(d/time.Second)) }

// scopeArray is a scope set as an array, which is never null.
func scopeArray(s broker.ScopeSet) []string { return append([]string{}, s.All()...) }
