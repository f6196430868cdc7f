package awskms

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
)

// The vectors get-vanilla and post-vanilla, and post-sts-header-before with its session token, of AWS's test suite for
// signatures of version 4.
func TestSignatures(t *testing.T) {
	at := time.Date(2015, 8, 30, 12, 36, 0, 0, time.UTC)
	key := keys{id: "AKIDEXAMPLE", secret: broker.NewSecret("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")}
	for method, want := range map[string]string{
		http.MethodGet:  "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
		http.MethodPost: "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
	} {
		h := http.Header{}
		sign(h, signed{method: method, host: "example.amazonaws.com", path: "/", region: "us-east-1", service: "service", at: at}, key)
		if got := h.Get("Authorization"); !strings.HasSuffix(got, "SignedHeaders=host;x-amz-date, Signature="+want) {
			t.Errorf("%s: %s", method, got)
		}
	}
	key.session = broker.NewSecret("AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==")
	h := http.Header{}
	sign(h, signed{method: http.MethodPost, host: "example.amazonaws.com", path: "/", region: "us-east-1", service: "service", at: at}, key)
	if got := h.Get("Authorization"); !strings.HasSuffix(got, "SignedHeaders=host;x-amz-date;x-amz-security-token, Signature=85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead") {
		t.Errorf("with a session: %s", got)
	}
}
