package main

import (
	"fmt"
	"strings"
	"time"

	"tokenbroker/vault"
)

// published verifies checkpoints alone, with neither Redis nor a configuration.
func (c *auditVerifyCommand) published(con *console) error {
	by, err := c.offline()
	if err != nil {
		return err
	}
	if len(by.Keys) == 0 {
		return &usageError{"--checkpoints needs --key, the public key that they are signed with, or --config"}
	}
	sources, err := publishedCheckpoints("", c.Checkpoints, con)
	if err != nil {
		return err
	}
	r, faults := vault.VerifyCheckpoints(sources, by)
	unnamed(con, r.SignedBy)
	if len(faults) > 0 {
		for _, f := range faults[1:] {
			_, _ = fmt.Fprintf(con.out, "also bad: %s: %s\n", f.Entry, f.What)
		}
		return fmt.Errorf("the checkpoints are not as they were published: the first bad one is %s: %s; %s in all", faults[0].Entry, faults[0].What, counted(len(faults), "bad place", "bad places"))
	}
	if r.Checkpoints == 0 {
		return fmt.Errorf("there is no checkpoint in %s", strings.Join(c.Checkpoints, ", "))
	}
	_, _ = fmt.Fprintf(con.out, "the checkpoints are whole: %s of %s, signed%s, the last one at %s; the entries that they are about were not looked at, which takes --config\n",
		count(r.Checkpoints, "checkpoint"), count(r.Logs, "log"), byWhom(r.SignedBy), r.Until.Format(time.RFC3339))
	return nil
}

// byWhom names the installations.
func byWhom(by vault.SignedBy) string {
	if len(by.Installations) == 0 {
		return ""
	}
	return " by " + strings.Join(by.Installations, " and ")
}

// unnamed tells of checkpoints that could be those of any installation.
func unnamed(con *console, by vault.SignedBy) {
	if by.Unnamed > 0 {
		_, _ = fmt.Fprintf(con.out, "note: %s of an older form, which names no installation: they are signed with the key, and could be of any installation that has it\n",
			counted(by.Unnamed, "checkpoint is", "checkpoints are"))
	}
}
