package vault

import "context"

// Lists is what a Backend may offer beside: byte strings that only grow at their end. The posting index lies in them; behind a
// Backend that is no Lists there is no index, and searching reads streams alone. Every method is safe for concurrent use,
// honours the context's deadline and takes one round trip (on a cluster: one for each node, at the same time).
type Lists interface {
	// AppendLists appends each piece to its list, whole or not at all. They may lie anywhere; after an error some may have been
	// appended.
	AppendLists(ctx context.Context, pieces []ListPiece) error
	// ListLengths returns the length of each list in bytes, 0 where there is none.
	ListLengths(ctx context.Context, keys []string) ([]int64, error)
	// ListHeads returns the first bytes of each list, fewer where it is shorter.
	ListHeads(ctx context.Context, heads []ListHead) ([]string, error)
}

// ListPiece is what is appended to a list.
type ListPiece struct{ Key, Bytes string }

// ListHead asks for so many bytes from the beginning of a list, at least 1.
type ListHead struct {
	Key    string
	Length int64
}
