package redisstore

import (
	_ "embed"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"tokenbroker/vault"
)

//go:embed apply.lua
var applySource string

//go:embed release.lua
var releaseSource string

//go:embed refused.lua
var refusedSource string

//go:embed members.lua
var membersSource string

//go:embed indexed.lua
var indexedSource string

// script is a Lua script and its name in the server's cache.
type script struct{ source, sha string }

// What a step is: the first argument of stepScript.
const (
	kindApply   = "apply"
	kindRelease = "release"
)

// stepScript is one for all kinds of steps: a server knows it or not. Of two scripts it may have forgotten one, and the steps of
// one call would change places while that is sent again.
var (
	stepScript    = newScript("if ARGV[1] == '" + kindRelease + "' then\n" + withFields(releaseSource, vault.ReleaseFields()) + membersSource + refusedSource + "end\n" + applySource)
	indexedScript = newScript(membersSource + indexedSource)
)

// withFields puts the names of the fields in: they are constants, and as arguments they would cost more than what is done with them.
func withFields(source string, shape vault.ReleaseShape) string {
	quoted := func(names ...string) string { return "'" + strings.Join(names, "', '") + "'" }
	return strings.NewReplacer(
		"$READS", strconv.Itoa(len(shape.Fields)), "$CHECKS", strconv.Itoa(len(shape.Checks)),
		"$FIELDS", quoted(append(append([]string{}, shape.Fields...), shape.Checks...)...), "$VERSION", quoted(shape.Version), "$SWITCHES", quoted(shape.SwitchesField),
	).Replace(source)
}

func newScript(source string) *script {
	return &script{source: source, sha: redis.NewScript(source).Hash()}
}
