package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// version and commit are set by the linker in release builds; otherwise the build information tells.
var (
	version = ""
	commit  = ""
)

type versionCommand struct{}

// Run prints one line.
func (versionCommand) Run(con *console) error {
	v, c := buildVersion()
	_, err := fmt.Fprintf(con.out, "tokenbroker %s (commit %s, %s)\n", v, c, runtime.Version())
	return err
}

// buildVersion returns the version and the commit that this program was made from.
func buildVersion() (v, c string) {
	v, c = version, commit
	info, ok := debug.ReadBuildInfo()
	if ok && v == "" && info.Main.Version != "(devel)" {
		v = info.Main.Version
	}
	if ok && c == "" {
		modified := false
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				c = s.Value
			case "vcs.modified":
				modified = s.Value == "true"
			}
		}
		if c != "" && modified {
			c += "+changes"
		}
	}
	if v == "" {
		v = "devel"
	}
	if c == "" {
		c = "unknown"
	}
	return v, c
}
