package broker_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/csv"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"html/template"
	"io"
	"log"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	texttemplate "text/template"

	jsonv2 "github.com/go-json-experiment/json"
	"go.yaml.in/yaml/v3"

	"tokenbroker/broker"
)

const encodedCanary = "canary+token/with=signs-5f2c"

// holder has a secret in every place where a value can be.
type holder struct {
	Public  broker.Secret `json:"public" yaml:"public" xml:"public"`
	Pointer *broker.Secret
	List    []broker.Secret
	Map     map[string]broker.Secret `xml:"-"`
	Any     any
	Deep    *struct{ In struct{ S broker.Secret } }
	hidden  broker.Secret
}

func newHolder(s broker.Secret) holder {
	h := holder{Public: s, Pointer: &s, List: []broker.Secret{s}, Map: map[string]broker.Secret{"k": s}, Any: s, hidden: s}
	h.Deep = &struct{ In struct{ S broker.Secret } }{}
	h.Deep.In.S = s
	return h
}

// leaks finds the text in what was printed, in every spelling that an encoder may give it.
func leaks(out string) bool {
	text := encodedCanary
	quoted := strconv.Quote(text)
	for _, form := range []string{
		text, quoted[1 : len(quoted)-1], hex.EncodeToString([]byte(text)), strings.ToUpper(hex.EncodeToString([]byte(text))), fmt.Sprintf("% x", text), fmt.Sprintf("%#v", []byte(text)), fmt.Sprint([]byte(text)),
		base64.StdEncoding.EncodeToString([]byte(text)), base64.RawURLEncoding.EncodeToString([]byte(text)), url.QueryEscape(text), url.PathEscape(text), template.HTMLEscapeString(text), "canary", "5f2c",
	} {
		if strings.Contains(out, form) {
			return true
		}
	}
	return false
}

// Threat 24: every verb with every flag, every encoder that the program or its libraries use, loggers, templates, errors and
// panics, with the secret by itself and in every place of a value.
func TestThreat24SecretsUnderEveryEncoder(t *testing.T) {
	secret := broker.NewSecret(encodedCanary)
	h := newHolder(secret)
	values := map[string]any{"secret": secret, "pointer": &secret, "holder": h, "pointer to a holder": &h, "list": []any{secret, h}, "map": map[string]any{"k": h}, "key of a map": map[broker.Secret]int{secret: 1}, "error": errors.Join(io.EOF, fmt.Errorf("wrap: %v %+v", secret, h))}
	check := func(how, out string, redacted bool) {
		t.Helper()
		if leaks(out) {
			t.Errorf("%s shows it: %s", how, out)
		}
		if redacted && !strings.Contains(out, "redacted") {
			t.Errorf("%s does not say that something was left out: %s", how, out)
		}
	}
	for name, v := range values {
		for verb := 'A'; verb <= 'z'; verb++ {
			for _, flags := range []string{"", "+", "#", " ", "0", "-", "+#", "10", ".3", "# "} {
				check(fmt.Sprintf("%%%s%c of %s", flags, verb, name), fmt.Sprintf("%"+flags+string(verb), v), verb == 'v' && flags == "" && !strings.Contains(name, "error"))
			}
		}
		check("Sprint of "+name, fmt.Sprint(v)+fmt.Sprintln(v)+fmt.Sprintf("%d%%%[1]s %[1]q", v), true)

		encoders := map[string]func(io.Writer) error{
			"json":          func(w io.Writer) error { return json.NewEncoder(w).Encode(v) },
			"json indented": func(w io.Writer) error { e := json.NewEncoder(w); e.SetIndent("", " "); return e.Encode(v) },
			"json v2":       func(w io.Writer) error { return jsonv2.MarshalWrite(w, v) },
			"xml":           func(w io.Writer) error { return xml.NewEncoder(w).Encode(v) },
			"yaml":          func(w io.Writer) error { return yaml.NewEncoder(w).Encode(v) },
			"gob":           func(w io.Writer) error { return gob.NewEncoder(w).Encode(v) },
			"csv": func(w io.Writer) error {
				c := csv.NewWriter(w)
				defer c.Flush()
				return c.Write([]string{fmt.Sprint(v)})
			},
			"html": func(w io.Writer) error {
				return template.Must(template.New("").Parse(`<p title="{{.}}">{{.}}</p><script>x = {{.}}</script><a href="/?q={{.}}">`)).Execute(w, v)
			},
			"text template": func(w io.Writer) error {
				return texttemplate.Must(texttemplate.New("").Parse(`{{.}} {{printf "%s %#v" . .}}`)).Execute(w, v)
			},
		}
		for how, encode := range encoders {
			var out bytes.Buffer
			err := encode(&out) // some can't write such a value, which is as good
			check(how+" of "+name, out.String(), false)
			check("the error of "+how, fmt.Sprint(err), false)
		}

		for _, source := range []bool{false, true} {
			var out bytes.Buffer
			options := &slog.HandlerOptions{AddSource: source, Level: slog.LevelDebug}
			for _, handler := range []slog.Handler{slog.NewJSONHandler(&out, options), slog.NewTextHandler(&out, options)} {
				l := slog.New(handler).With("with", v).WithGroup("group").With(slog.Group("g", "in", v))
				l.LogAttrs(context.Background(), slog.LevelError, "m", slog.Any("any", v), slog.Group("deep", slog.Group("er", slog.Any("x", v))), slog.Any("list", []any{v}))
				l.Debug("m", "err", fmt.Errorf("wrap %w", fmt.Errorf("%v", v)), "odd", v, v)
			}
			log.New(&out, "", 0).Println(v)
			log.New(&out, fmt.Sprint(v), 0).Printf("%v %+v %#v", v, v, v)
			check("logs of "+name, out.String(), true)
		}
	}
	text, err := secret.MarshalText()
	check("MarshalText", string(text), true)
	check("errors", errors.Join(err, fmt.Errorf("%w: %v", io.EOF, secret)).Error(), true)
}

// A panic that nobody recovers is printed by the runtime, which asks no methods.
func TestThreat24SecretsInPanics(t *testing.T) {
	if kind := os.Getenv("SECRET_PANIC"); kind != "" {
		secret := broker.NewSecret(os.Getenv("SECRET_TEXT"))
		h := newHolder(secret)
		switch kind {
		case "secret":
			panic(secret)
		case "holder":
			panic(h)
		case "pointer":
			panic(&h)
		case "error":
			panic(fmt.Errorf("failed with %v", h))
		case "key":
			var none struct{ m map[broker.Secret]int }
			none.m[secret] = 1
		case "conversion":
			var v any = secret
			_ = v.(fmt.Scanner)
		}
	}
	for _, kind := range []string{"secret", "holder", "pointer", "error", "key", "conversion"} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestThreat24SecretsInPanics$")
		cmd.Env = append(os.Environ(), "SECRET_PANIC="+kind, "SECRET_TEXT="+encodedCanary, "GOTRACEBACK=all")
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "panic") {
			t.Errorf("%s: no panic: %v", kind, err)
		}
		if leaks(strings.ReplaceAll(string(out), "SECRET_TEXT", "")) {
			t.Errorf("%s shows it:\n%s", kind, out)
		}
	}
}
