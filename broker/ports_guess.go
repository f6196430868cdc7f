package broker

import (
	"context"
	"fmt"
	"time"
)

// Guess is what a process remembers of a connection that it read, enough to say what a token's events would be before the store is
// asked again. There is no secret in it, and nothing that is of a user but the names that the caller gave.
type Guess struct {
	Tenant, Subject, Connector string
	// Connection is the id of the one connection that the subject had to the connector.
	Connection string
	// Scopes are those of the connection and of its token, which were the same.
	Scopes    ScopeSet
	ExpiresAt time.Time // of the token, not later than it is
	// Table is what is disabled, as far as this process knows.
	Table SwitchTable
	// Seen is for whoever made the guess: what must be found unchanged.
	Seen any
}

// Guesses lets tokens out on what was remembered, in one round trip where reading first would take two.
type Guesses interface {
	// Guess returns what is remembered, if that is enough. It asks the store nothing.
	Guess(tenant, subject, connector string) (Guess, bool)
	// ReleaseGuessed is Connections.Release for the token with all scopes, if the connection is still as it was when it was
	// remembered, the subject has got no other one since, and the table of switches is still the guess's; then it returns the
	// connection as well. *WrongGuess: it is not, and nothing was recorded. ErrIntegrity: the record or its token does not open;
	// the entry was recorded by then, and the guess is forgotten.
	ReleaseGuessed(ctx context.Context, guess Guess, entry Entry) (Connection, Secret, error)
}

// WrongGuess says that nothing was done on the guess, and what the same round trip read instead.
type WrongGuess struct {
	// Read: All, Table and Err are what SwitchBoard.OfSubjectSwitched would return.
	Read  bool
	All   []Connection
	Table SwitchTable
	Err   error
}

func (e *WrongGuess) Error() string { return fmt.Sprintf("the guess was wrong (read: %t)", e.Read) }
