package broker

import "errors"

// A provider can tell by itself that grants ended: that a user took the app out of the account, that an administrator
// uninstalled it. Such a notice is a reason to look, and no verdict: the grants that it names are refreshed at once, and what
// the provider says to that counts. So a notice that is late, that comes twice, or that somebody managed to forge costs one
// request and takes nothing from anybody.

// NoticeRequest is a request that says it comes from a provider.
type NoticeRequest struct {
	Method string
	URL    string                   // as the provider was given it
	Header func(name string) string // "": there is none
	Body   []byte
}

// Notice is a verified notice.
type Notice struct {
	// Accounts are ids of accounts whose grants may have ended; Groups are ids whose accounts are all meant: the id itself, and
	// those that begin with it and a colon.
	Accounts []string
	Groups   []string
	// Status and Answer are what the provider wants to hear.
	Status int
	Answer []byte // JSON, or empty
}

var (
	// ErrNoticeRefused: the notice has no signature that verifies, or is too old or too new.
	ErrNoticeRefused = errors.New("notice does not verify")
	// ErrNoNotices: the connector's provider sends none, or the connector lacks the secret that they are signed with.
	ErrNoNotices = errors.New("connector takes no notices")
)
