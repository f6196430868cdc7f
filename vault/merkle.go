package vault

import (
	"crypto/sha256"
	"math/bits"
)

// The Merkle tree of RFC 6962 section 2.1: leaves and inner nodes are hashed behind different bytes, so that neither can stand in for
// the other, and a tree of n leaves is split at the largest power of two below n.

type treeHash [sha256.Size]byte

func hashLeaf(data []byte) treeHash {
	h := sha256.New()
	_, _ = h.Write([]byte{0})
	_, _ = h.Write(data)
	return treeHash(h.Sum(nil))
}

// hashLink is hashLeaf of a link.
func hashLink(l link) treeHash {
	var b [1 + len(l)]byte
	copy(b[1:], l[:])
	return sha256.Sum256(b[:])
}

func hashNode(left, right treeHash) treeHash {
	var b [1 + 2*sha256.Size]byte
	b[0] = 1
	copy(b[1:], left[:])
	copy(b[1+sha256.Size:], right[:])
	return sha256.Sum256(b[:])
}

// tree makes the root from leaves that come one by one, with as many hashes in memory as the tree is high.
type tree struct {
	size  uint64
	parts []treeHash // roots of full trees, the largest first: one for each bit of size
}

func (t *tree) add(leaf treeHash) {
	for n := t.size; n&1 == 1; n >>= 1 {
		leaf = hashNode(t.parts[len(t.parts)-1], leaf)
		t.parts = t.parts[:len(t.parts)-1]
	}
	t.parts = append(t.parts, leaf)
	t.size++
}

func (t *tree) root() treeHash {
	if t.size == 0 {
		return sha256.Sum256(nil)
	}
	root := t.parts[len(t.parts)-1]
	for i := len(t.parts) - 2; i >= 0; i-- {
		root = hashNode(t.parts[i], root)
	}
	return root
}

func rootOf(leaves []treeHash) treeHash {
	var t tree
	for _, leaf := range leaves {
		t.add(leaf)
	}
	return t.root()
}

// pathTo is the audit path of a leaf (RFC 6962 section 2.1.1), from the leaf up.
func pathTo(leaves []treeHash, index int) []treeHash {
	if len(leaves) <= 1 {
		return nil
	}
	split := 1 << (bits.Len(uint(len(leaves)-1)) - 1)
	if index < split {
		return append(pathTo(leaves[:split], index), rootOf(leaves[split:]))
	}
	return append(pathTo(leaves[split:], index-split), rootOf(leaves[:split]))
}

// rootBy is the root that the path leads to (RFC 9162 section 2.1.3.2); ok is false for a path of the wrong length.
func rootBy(leaf treeHash, index, size uint64, path []treeHash) (root treeHash, ok bool) {
	if index >= size {
		return root, false
	}
	root = leaf
	at, last := index, size-1
	for _, side := range path {
		if last == 0 {
			return root, false
		}
		if at&1 == 1 || at == last {
			root = hashNode(side, root)
			for at&1 == 0 && at != 0 {
				at, last = at>>1, last>>1
			}
		} else {
			root = hashNode(root, side)
		}
		at, last = at>>1, last>>1
	}
	return root, last == 0
}
