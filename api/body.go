package api

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/http"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"tokenbroker/broker"
)

const (
	maxBodyBytes = 64 << 10
	maxDepth     = 16
)

// readBody reads the request's JSON object into a T. It is strict, because a proxy or a policy before us may have read
// the same bytes by other rules (threat 49): one object, nothing after it, no repeated name, no name that T has not, no
// other case, no invalid UTF-8.
func readBody[T any](in *request) (T, error) {
	var body T
	text, err := in.readAll()
	if err != nil {
		return body, err
	}
	if err := decode(text, &body); err != nil {
		return body, err
	}
	return body, nil
}

// readAll reads the body within its limits of type, size and time.
func (in *request) readAll() ([]byte, error) {
	if err := checkType(in.http.Header); err != nil {
		return nil, err
	}
	return in.readWhole()
}

// readWhole is readAll for a body whose type was looked at.
func (in *request) readWhole() ([]byte, error) {
	if in.http.ContentLength > maxBodyBytes {
		return nil, tooLarge()
	}
	text, err := in.readBytes()
	var over *http.MaxBytesError
	switch {
	case errors.As(err, &over):
		return nil, tooLarge()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, closing(http.StatusBadRequest, "the body did not arrive in time; send it without pauses")
	case err != nil:
		return nil, closing(http.StatusBadRequest, "the body ended early; send as much as Content-Length says")
	}
	return text, nil
}

// readBytes reads as much as Content-Length says, or, where it says nothing, up to the limit.
func (in *request) readBytes() ([]byte, error) {
	if in.http.ContentLength > 0 {
		text := make([]byte, in.http.ContentLength)
		_, err := io.ReadFull(in.http.Body, text)
		return text, err
	}
	return io.ReadAll(http.MaxBytesReader(in.writer, in.http.Body, maxBodyBytes))
}

// bodyDeadline bounds the arrival of the body, also of one that is refused unread: a body that drips in must not hold a
// request for as long as a refresh may, and net/http reads the rest of a refused one before it answers. net/http ends the
// deadline when the body is there, so it does not bound the answer. It is the network's, so it is on the real clock. A
// writer that knows no deadlines is a test's.
func (in *request) bodyDeadline(timeout time.Duration) {
	if in.http.ContentLength != 0 {
		_ = http.NewResponseController(in.writer).SetReadDeadline(time.Now().Add(timeout))
	}
}

// closing refuses a body that was not read to its end, so the connection cannot be used again.
func closing(status int, description string) error {
	return &refusal{status: status, header: http.Header{"Connection": {"close"}}, err: invalid("%s", description)}
}

func tooLarge() error {
	return closing(http.StatusRequestEntityTooLarge, "the body is larger than 64 KiB")
}

// checkType refuses what is not declared as JSON in UTF-8. Forms and text/plain are what a page of another origin can
// send without asking.
func checkType(header http.Header) error {
	refuse := func() error {
		return &refusal{status: http.StatusUnsupportedMediaType,
			err: invalid("send the body as it is, with \"Content-Type: application/json\"")}
	}
	types, codings := header.Values("Content-Type"), header.Values("Content-Encoding")
	if len(types) != 1 || len(codings) > 1 || len(codings) == 1 && !strings.EqualFold(codings[0], "identity") {
		return refuse()
	}
	if types[0] == "application/json" {
		return nil
	}
	media, params, err := mime.ParseMediaType(types[0])
	if err != nil || media != "application/json" {
		return refuse()
	}
	for name, value := range params {
		if name != "charset" || !strings.EqualFold(value, "utf-8") {
			return refuse()
		}
	}
	return nil
}

// takesBody tells whether calls of that method come with a body.
func takesBody(method string) bool { return method == http.MethodPost || method == http.MethodPatch }

// noBody refuses a body where none belongs: a caller who sends one expects it to matter.
func (in *request) noBody() error {
	if in.http.ContentLength == 0 {
		return nil
	}
	// Chunked, there may be nothing in it.
	if _, err := io.ReadFull(in.http.Body, make([]byte, 1)); err == io.EOF {
		return nil
	}
	return closing(http.StatusBadRequest, "this call takes no body")
}

// decode reads text into the struct that target points to.
func decode(text []byte, target any) error {
	if err := scan(text); err != nil {
		return err
	}
	err := json.Unmarshal(text, target, json.RejectUnknownMembers(true), json.MatchCaseInsensitiveNames(false),
		jsontext.AllowDuplicateNames(false), jsontext.AllowInvalidUTF8(false))
	if err == nil {
		return nil
	}
	fieldsOf := fieldNames(reflect.TypeOf(target).Elem(), "")
	var s *json.SemanticError
	if !errors.As(err, &s) {
		return invalid("the body is not what this call takes; it takes an object of %s", strings.Join(fieldsOf, ", "))
	}
	if errors.Is(s.Err, json.ErrUnknownName) {
		return invalid("field %s is unknown; known are %s", quoteName(s.JSONPointer.LastToken()), strings.Join(fieldsOf, ", "))
	}
	return invalid("field %s must be %s", fieldName(s.JSONPointer), kindName(s.GoType))
}

// scan walks over the text: one object, not too deep, every name once, valid UTF-8, nothing after it.
func scan(text []byte) error {
	if len(bytes.TrimSpace(text)) == 0 {
		return invalid("the body is empty; send a JSON object")
	}
	d := jsontext.NewDecoder(bytes.NewReader(text), jsontext.AllowDuplicateNames(false), jsontext.AllowInvalidUTF8(false))
	if d.PeekKind() != '{' {
		return invalid("the body must be one JSON object")
	}
	for {
		if _, err := d.ReadToken(); err != nil {
			return notJSON(err, d.InputOffset())
		}
		if d.StackDepth() > maxDepth {
			return invalid("the body is nested deeper than %d levels", maxDepth)
		}
		if d.StackDepth() == 0 {
			break
		}
	}
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return invalid("the body goes on after its JSON object; send one object alone")
	}
	return nil
}

func notJSON(err error, offset int64) *broker.Error {
	var s *jsontext.SyntacticError
	if errors.As(err, &s) && errors.Is(s.Err, jsontext.ErrDuplicateName) {
		return invalid("field %s is there more than once", quoteName(s.JSONPointer.LastToken()))
	}
	return invalid("the body is not valid JSON in UTF-8, from about byte %d on", offset)
}

// quoteName shows a name that the caller chose if it looks like a misspelt field and like nothing else.
func quoteName(name string) string {
	if name == "" || len(name) > 24 {
		return "(not shown)"
	}
	for i := range len(name) {
		if c := name[i]; !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_') {
			return "(not shown)"
		}
	}
	return name
}

// fieldName turns the pointer of a known field ("/actor/run", "/scopes/3") into its name.
func fieldName(p jsontext.Pointer) string {
	return strings.ReplaceAll(strings.TrimPrefix(string(p), "/"), "/", ".")
}

func kindName(t reflect.Type) string {
	if t == nil {
		return "of another type"
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t == reflect.TypeFor[scopeList]() || t.Kind() == reflect.Slice:
		return "an array of strings"
	case t.Kind() == reflect.String:
		return "a string"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Int64:
		return "an integer"
	default:
		return "an object"
	}
}

// fieldNames lists the names that a body may have.
func fieldNames(t reflect.Type, prefix string) []string {
	var names []string
	for i := range t.NumField() {
		field := t.Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if field.Type.Kind() == reflect.Struct && field.Type != reflect.TypeFor[scopeList]() {
			names = append(names, fieldNames(field.Type, prefix+name+".")...)
			continue
		}
		names = append(names, prefix+name)
	}
	return names
}

// scopeList is an array of scopes, or the space-separated list of RFC 6749 section 3.3.
type scopeList struct{ names []string }

// UnmarshalJSONFrom reads either form; null is the same as leaving it out.
func (s *scopeList) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	if d.PeekKind() != '"' {
		return json.UnmarshalDecode(d, &s.names)
	}
	var list string
	if err := json.UnmarshalDecode(d, &list); err != nil {
		return err
	}
	s.names = append(s.names, splitScopes(list)...)
	return nil
}
