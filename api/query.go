package api

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"tokenbroker/broker"
)

const (
	maxQueryBytes  = 16 << 10
	maxCursorBytes = 2048
)

// readQuery reads the parameters of a query. Each may be there once, and an empty one counts as left out. Names that the
// call does not know are refused, so that a misspelt filter does not become a wider answer.
func readQuery(u *url.URL, known []string) (map[string]string, error) {
	if u.RawQuery == "" {
		return nil, nil
	}
	if len(u.RawQuery) > maxQueryBytes {
		return nil, invalid("the query is longer than %d bytes", maxQueryBytes)
	}
	values, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, invalid("the query is not well formed: separate parameters with & and percent-encode their values")
	}
	query := make(map[string]string, len(values))
	for name, list := range values {
		switch {
		case !slices.Contains(known, name) && len(known) == 0:
			return nil, invalid("this call takes no query parameters")
		case !slices.Contains(known, name):
			return nil, invalid("query parameter %s is unknown; known are %s", quoteName(name), strings.Join(known, ", "))
		case len(list) > 1:
			return nil, invalid("query parameter %s is there more than once", name)
		case !utf8.ValidString(list[0]):
			return nil, invalid("query parameter %s is not valid UTF-8", name)
		case list[0] != "":
			query[name] = list[0]
		}
	}
	return query, nil
}

// limit is the page size: 1 to most, or the default where the query names none.
func (in *request) limit(f *fields, otherwise, most int) int {
	text, given := in.query["limit"]
	if !given {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > most {
		f.refuse("limit must be an integer from 1 to %d", most)
	}
	return n
}

func (in *request) cursor(f *fields) string {
	cursor := in.query["cursor"]
	if len(cursor) > maxCursorBytes || hasControl(cursor) {
		f.refuse("cursor must be a next_cursor of this list, unchanged")
	}
	return cursor
}

// moment is a time of the query; the zero time where it names none.
func (in *request) moment(f *fields, name string) time.Time {
	text, given := in.query[name]
	if !given {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		f.refuse("%s must be a time in RFC 3339, as 2026-01-31T12:00:00Z (with an offset, send its + as %%2B)", name)
	}
	return t
}

func invalid(format string, args ...any) *broker.Error {
	return broker.Errorf(broker.CodeInvalidRequest, format, args...)
}

func unescape(segment string) string {
	text, err := url.PathUnescape(segment)
	if err != nil {
		return segment
	}
	return text
}
