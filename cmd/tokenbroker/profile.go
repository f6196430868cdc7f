//go:build profile

package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"sync"
	"syscall"
)

// profileVariable names the directory for profiles.
const profileVariable = "TOKENBROKER_PROFILE_DIR"

// startProfiles lets SIGUSR1 begin a profile of the processor and SIGUSR2 end it; then it and the allocations since the start
// are written to the directory: cpu.prof and allocs.prof. Only a build with -tags profile has it (cmd/tokenbench, decision 22):
// it listens on no port, and without the variable it does nothing. The function that it returns ends it.
func startProfiles(complaints io.Writer) func() {
	dir := os.Getenv(profileVariable)
	if dir == "" {
		return func() {}
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGUSR2)
	var worker sync.WaitGroup
	worker.Go(func() {
		for s := range signals {
			err := profile(dir, s == syscall.SIGUSR1)
			if err != nil {
				_, _ = fmt.Fprintln(complaints, "profile:", err)
			}
		}
	})
	return func() {
		signal.Stop(signals)
		close(signals)
		worker.Wait()
		pprof.StopCPUProfile()
	}
}

func profile(dir string, begin bool) error {
	if begin {
		file, err := os.Create(filepath.Join(dir, "cpu.part"))
		if err != nil {
			return err
		}
		return pprof.StartCPUProfile(file) // the file is closed with the process, and is whole from StopCPUProfile on
	}
	pprof.StopCPUProfile()
	file, err := os.Create(filepath.Join(dir, "allocs.part"))
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	if err := pprof.Lookup("allocs").WriteTo(file, 0); err != nil {
		return err
	}
	// Renamed, so that whoever waits for them sees them whole.
	for _, name := range []string{"cpu", "allocs"} {
		if err := os.Rename(filepath.Join(dir, name+".part"), filepath.Join(dir, name+".prof")); err != nil {
			return err
		}
	}
	return nil
}
