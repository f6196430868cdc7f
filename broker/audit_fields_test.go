package broker_test

import (
	"reflect"
	"testing"
	"time"

	"tokenbroker/broker"
)

// Threat 72: an event is texts of fields that are listed, and nothing that could bring along what it holds: no Secret, no error, no map and no value
// of any type.
func TestThreat72EventsHaveFixedFields(t *testing.T) {
	fields := 0
	var look func(path string, of reflect.Type)
	look = func(path string, of reflect.Type) {
		switch {
		case of == reflect.TypeFor[time.Time](), of.Kind() == reflect.String, of.Kind() == reflect.Bool:
			fields++
		case of == reflect.TypeFor[[]broker.EventScope]():
			look(path+"[]", of.Elem())
		case of == reflect.TypeFor[broker.Entry](), of == reflect.TypeFor[broker.Event](), of == reflect.TypeFor[broker.EventScope](), of == reflect.TypeFor[broker.Actor]():
			for i := range of.NumField() {
				look(path+"."+of.Field(i).Name, of.Field(i).Type)
			}
		default:
			t.Errorf("%s is %s: what is in one can't be seen here", path, of)
		}
	}
	look("Entry", reflect.TypeFor[broker.Entry]())
	look("Event", reflect.TypeFor[broker.Event]())
	if fields < 30 {
		t.Errorf("only %d fields were found", fields)
	}
}
