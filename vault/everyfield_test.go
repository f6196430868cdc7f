package vault

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"tokenbroker/broker"
)

// fill gives every field a value of its own, so that one which a stored form forgets shows.
func fill(v reflect.Value, n *int) {
	*n++
	switch v.Interface().(type) {
	case broker.Secret:
		v.Set(reflect.ValueOf(broker.NewSecret(fmt.Sprintf("secret-%d", *n))))
		return
	case time.Time:
		v.Set(reflect.ValueOf(time.UnixMilli(int64(1_700_000_000_000 + *n)).UTC()))
		return
	case time.Duration:
		v.Set(reflect.ValueOf(time.Duration(*n) * time.Second))
		return
	case *broker.UpstreamError:
		return // is for those who hear of it at once, and not stored
	case broker.ScopeSet:
		v.Set(reflect.ValueOf(broker.NewScopeSet(fmt.Sprintf("scope-%d", *n), "z")))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprintf("text-%d", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Map:
		if v.Type() == reflect.TypeFor[map[string]int64]() {
			v.Set(reflect.ValueOf(map[string]int64{fmt.Sprintf("key-%d", *n): int64(*n)}))
			return
		}
		v.Set(reflect.ValueOf(map[string]string{fmt.Sprintf("key-%d", *n): "value"}))
	case reflect.Slice:
		one := reflect.New(v.Type().Elem()).Elem()
		fill(one, n)
		v.Set(reflect.Append(v, one))
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	default:
		panic("no value for " + v.Type().String())
	}
}

// A field that is added to the domain and forgotten in the stored form would be lost without a sound: the issuer that a
// callback must name, for one.
func TestStoredConsentKeepsEveryField(t *testing.T) {
	var c broker.Consent
	n := 0
	fill(reflect.ValueOf(&c).Elem(), &n)
	back := storeConsent(c).consent(c.Version)
	if back.Provisional == nil {
		t.Fatal("the provisional grant is lost")
	}
	want, got := reflect.ValueOf(c), reflect.ValueOf(back)
	for i := range want.NumField() {
		if a, b := plainForm(want.Field(i)), plainForm(got.Field(i)); a != b {
			t.Errorf("%s: stored %s, read %s", want.Type().Field(i).Name, a, b)
		}
	}
}

// plainForm is a value with its secrets, for comparison.
func plainForm(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case broker.Secret:
		return x.Reveal()
	case *broker.Grant:
		out := ""
		for i := range reflect.ValueOf(*x).NumField() {
			out += plainForm(reflect.ValueOf(*x).Field(i)) + ";"
		}
		return out
	}
	return fmt.Sprintf("%+v", v.Interface())
}
