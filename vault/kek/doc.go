// Package kek is what the key management services that can hold the KEK have in common: how they are asked over HTTP, what
// they may read of the process, and which of their failures passes by itself.
//
// Each service is a package of its own below this one and speaks the service's REST API by the standard library; their SDKs
// would double the program. A service wraps and unwraps the keyset, never a record: it is asked when a keyset file is opened
// or written (start, rotation), and a token needs it at no time (threat 37).
package kek

import (
	"errors"
	"fmt"
	"time"
)

// ErrUnavailable marks a failure that may pass by itself: the service, or what gives credentials for it, does not answer, is
// sealed or asks for fewer requests. Every other error is a refusal, which somebody must mend.
var ErrUnavailable = errors.New("the key management service can't be asked now")

// Process is what a service's package takes from the process it is in.
type Process struct {
	// Getenv reads a variable of the environment; an unset one is "".
	Getenv func(name string) string
	// ReadFile reads a small file: credentials, or the certificate of an authority.
	ReadFile func(path string) ([]byte, error)
	Now      func() time.Time
	// Timeout bounds one request; 0: 5 s.
	Timeout time.Duration
}

// Refused makes the error of a service that answered and does not do it. Nothing of the answer goes into it but what the
// caller has recognised: a strange server may repeat the question, which holds keys.
func Refused(service, action string, status int, code, hint string) error {
	text := fmt.Sprintf("%s refuses to %s the keyset (status %d", service, action, status)
	if code != "" {
		text += ", " + code
	}
	text += ")"
	if hint != "" {
		text += ": " + hint
	}
	return errors.New(text)
}
