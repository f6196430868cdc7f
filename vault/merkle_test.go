package vault

import (
	"encoding/hex"
	"fmt"
	"testing"
)

// TestMerkleTree holds the tree against the values that certificate-transparency's own tests have for RFC 6962, and each path of each
// leaf of trees up to 70 against the root.
func TestMerkleTree(t *testing.T) {
	if got := rootOf(nil); hex.EncodeToString(got[:]) != "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" {
		t.Errorf("the empty tree: %x", got)
	}
	inputs := []string{"", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"}
	roots := []string{
		"6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
		"fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
		"aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
		"d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
		"4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
		"76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
		"ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
		"5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
	}
	var leaves []treeHash
	for i, text := range inputs {
		data, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		leaves = append(leaves, hashLeaf(data))
		if got := rootOf(leaves); hex.EncodeToString(got[:]) != roots[i] {
			t.Errorf("%d leaves: %x", i+1, got)
		}
	}
	leaves = nil
	for n := 1; n <= 70; n++ {
		leaves = append(leaves, hashLeaf(fmt.Append(nil, n)))
		root := rootOf(leaves)
		for i := range leaves {
			path := pathTo(leaves, i)
			if got, ok := rootBy(leaves[i], uint64(i), uint64(n), path); !ok || got != root {
				t.Fatalf("leaf %d of %d", i, n)
			}
			if got, ok := rootBy(leaves[i], uint64(i), uint64(n), append(path, root)); ok && got == root {
				t.Fatalf("leaf %d of %d: a longer path passed", i, n)
			}
			if n > 1 {
				if got, ok := rootBy(leaves[i], uint64(i+1)%uint64(n), uint64(n), path); ok && got == root {
					t.Fatalf("leaf %d of %d: in another's place", i, n)
				}
			}
		}
	}
}
