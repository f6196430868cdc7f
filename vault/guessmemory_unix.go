//go:build unix

package vault

import (
	"sync"
	"syscall"
)

// guessMemory asks the system for the memory itself: pages that nobody has written to cost nothing, and those in use don't make the
// garbage collector wait for as much garbage again.
func guessMemory(n int) (table []byte, free func()) {
	const small = 64 << 10
	if n <= small {
		return make([]byte, n), func() {}
	}
	raw, err := syscall.Mmap(-1, 0, n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return make([]byte, n), func() {}
	}
	return raw, sync.OnceFunc(func() { _ = syscall.Munmap(raw) })
}
