package web

import (
	"net/url"
	"strings"
	"testing"
)

// FuzzCallback reads anything as the query of an authorization response (threats 1, 6, 19): what passes has one state, and
// either a code or an error whose form is known; nothing that was sent twice is taken.
func FuzzCallback(f *testing.F) {
	for _, seed := range []string{"code=x&state=y", "error=access_denied&state=y", "code=&state=y", "code=x", "code=x&state=y&state=z", "code=x&error=y&state=z", "iss=https%3A%2F%2Fa&code=x&state=y", "code=x;state=y", "%73tate=y&code=x",
		"state=y&error=<script>", "code=x&state=y&scope=a+b", "&&&=", "code=%ff&state=%00", "code[]=x&state=y", "State=y&code=x"} {
		f.Add("files", seed)
	}
	f.Fuzz(func(t *testing.T, connector, query string) {
		cb, ok := parseCallback(connector, query)
		if !ok {
			return
		}
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal("accepted what another parser refuses")
		}
		for _, name := range []string{"state", "code", "error", "iss"} {
			if len(q[name]) > 1 {
				t.Fatalf("%s is there %d times", name, len(q[name]))
			}
		}
		if cb.State.IsZero() || cb.State.Reveal() != q.Get("state") || cb.Code.Reveal() != q.Get("code") || cb.Code.IsZero() == (cb.Error == "") || cb.Connector != connector || strings.ContainsAny(connector, "/\\ \x00\n") {
			t.Fatalf("state %q, code %q, error %q of %q", cb.State.Reveal(), cb.Code.Reveal(), cb.Error, query)
		}
		if cb.Error != "" && cb.Error != "unrecognized" && (cb.Error != q.Get("error") || strings.ContainsAny(cb.Error, "<>\"'&\r\n ")) {
			t.Fatalf("error %q", cb.Error)
		}
		if _, had := cb.Params["state"]; had || cb.HasIssuer != q.Has("iss") || cb.Issuer != q.Get("iss") {
			t.Fatalf("parameters %v", cb.Params)
		}
		if _, had := cb.Params["code"]; had {
			t.Fatal("the code is among the parameters")
		}
	})
}
