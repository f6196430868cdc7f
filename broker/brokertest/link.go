package brokertest

import (
	"net/url"
	"strings"
	"testing"

	"tokenbroker/broker"
)

// LinkSecret takes the secret out of a link's URL, as the page behind it gets it.
func LinkSecret(link broker.ConsentLink) broker.Secret {
	text := link.URL.Reveal()
	return broker.NewSecret(text[strings.LastIndex(text, "/")+1:])
}

// Query returns a parameter of the URL that a location holds.
func Query(t testing.TB, location broker.Secret, name string) string {
	t.Helper()
	u, err := url.Parse(location.Reveal())
	if err != nil {
		t.Fatalf("the location is not a URL: %v", err)
	}
	return u.Query().Get(name)
}
