package kektest

import (
	"bufio"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// StartProgram builds and starts a program of the folder servers, and returns the first line that it prints. It ends with the
// test.
func StartProgram(t *testing.T, folder string, args ...string) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "server")
	build := exec.Command("go", "build", "-o", binary, ".")
	build.Dir = filepath.Join("..", "kektest", "servers", folder)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", folder, err, out)
	}
	server := exec.Command(binary, args...)
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("%s says nothing: %v", folder, err)
	}
	return strings.TrimSpace(line)
}
