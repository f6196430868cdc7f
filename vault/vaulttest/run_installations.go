package vaulttest

import (
	"bytes"
	"slices"
	"strings"

	"tokenbroker/vault"
)

// testInstallations (threat 71): an installation that was made from a copy of another one has its signing key and its Redis. What one has signed does not
// pass for the other's, be it in Redis, published, archived or proven; what was signed before there were names still verifies, and is said to be that.
func testInstallations(r *rig) {
	here, t := r.signed(), r.trail(1)
	there := &signed{rig: r, keys: here.keys, paper: &paper{}, installation: "https://staging.example"}
	one := r.store(here.signs)
	t.write(one, 4)
	one.Close()
	two := r.store(there.signs)
	t.write(two, 3)
	two.Close()
	ours, theirs := here.paper.source(), there.paper.source()
	if strings.Contains(string(theirs[0].Lines[0]), `"seen"`) {
		r.Errorf("the copy's log names one of another installation:\n%s", theirs[0].Lines[0])
	}
	anyone, both := vault.Signers{Keys: here.keys.Public()}, here.by()
	both.Installations = append(both.Installations, there.installation)
	said := func(what, want string, faults []vault.Fault) {
		r.Helper()
		if (want == "") != (len(faults) == 0) || want != "" && !slices.ContainsFunc(faults, func(f vault.Fault) bool {
			return strings.HasPrefix(f.What, "forged: ") && strings.Contains(f.What, want)
		}) {
			r.Errorf("%s: want %q, got %+v", what, want, faults)
		}
	}
	const foreign, several = "which has the same key, and not of", "several installations"
	// In Redis, where both are.
	var archive, proof []byte
	for what, c := range map[string]struct {
		by   vault.Signers
		want string
	}{"ours": {here.by(), foreign}, "theirs": {there.by(), foreign}, "of both": {both, ""}, "of whoever it may be": {anyone, several}} {
		report, err := r.store().VerifySigned(r.ctx(), c.by, nil)
		if err != nil {
			r.Fatal(err)
		}
		said("in Redis, "+what, c.want, report.Faults)
		if what == "of both" && (!slices.Equal(report.Signed.Installations, both.Installations) || report.Signed.Entries != 7 || report.Signed.Unnamed != 0) {
			r.Errorf("of both: %+v", report.Signed)
		}
	}
	// Published alone.
	r.raw("DEL", "tb:{00}:cp")
	check := func(what, want string, by vault.Signers, sources ...vault.CheckpointSource) {
		r.Helper()
		_, faults := vault.VerifyCheckpoints(sources, by)
		said(what, want, faults)
	}
	check("what is ours", "", here.by(), ours...)
	check("what is theirs", foreign, here.by(), theirs...)
	check("both, of whoever", several, anyone, ours[0], theirs[0])
	renamed := bytes.Replace(theirs[0].Lines[0], []byte(there.installation), []byte(here.installation), 1)
	check("theirs, under our name", "not signed by", here.by(), vault.CheckpointSource{Lines: [][]byte{renamed}})
	unnamed := bytes.Replace(theirs[0].Lines[0], []byte(`"checkpoint":2,"installation":"`+there.installation+`",`), []byte(`"checkpoint":1,`), 1)
	check("theirs, without a name", "not signed by", here.by(), vault.CheckpointSource{Lines: [][]byte{unnamed}})
	// Archived and proven.
	var b bytes.Buffer
	if _, _, _, err := r.store().Export(r.ctx(), &b, vault.ExportQuery{}, here.by(), ours); err != nil {
		r.Fatal(err)
	}
	archive = b.Bytes()
	event := ""
	for id, number := range t.names {
		if number == "2" {
			event = id
		}
	}
	proof, err := r.store().Prove(r.ctx(), vault.ProofQuery{Event: event}, here.by(), ours)
	if err != nil {
		r.Fatal(err)
	}
	for what, c := range map[string]struct {
		by   vault.Signers
		want string
	}{"ours": {here.by(), ""}, "theirs": {there.by(), foreign}, "of whoever it may be": {anyone, ""}} {
		report := vault.VerifyArchive([]vault.ArchiveFile{{Name: "a", From: bytes.NewReader(archive)}}, c.by)
		said("archived, "+what, c.want, report.Faults)
		if c.want == "" && !slices.Equal(report.Installations, []string{here.installation}) {
			r.Errorf("archived, %s: %+v", what, report)
		}
		_, checkpoint, err := vault.VerifyProof(proof, c.by)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) || err == nil && checkpoint.Installation != here.installation {
			r.Errorf("proven, %s: %v", what, err)
		}
	}
	// Of before there were names.
	old := &signed{rig: r, keys: here.keys, paper: &paper{}}
	three := r.store(old.signs)
	t.write(three, 2)
	three.Close()
	if line := old.paper.source()[0].Lines[0]; !bytes.Contains(line, []byte(`"checkpoint":1,"log"`)) {
		r.Errorf("a checkpoint without a name is\n%s", line)
	}
	r.raw("DEL", "tb:{00}:cp")
	report := here.verify(old.paper.source()[0], ours[0])
	if len(report.Faults) > 0 || report.Signed.Unnamed != 1 || report.Signed.Entries != 6 {
		r.Errorf("of before: %+v, %+v", report.Faults, report.Signed)
	}
}
