package main

import (
	"strings"
)

// welcome is what a newcomer reads first: addresses, the key, and lines to paste.
const welcome = `
tokenbroker dev: everything in this process, nothing kept. Not for production.
{MOVED}
  Demo chat    {CHAT}         start here, in a browser
  Broker       {BROKER}         REST API and consent pages
  Dashboard    {BROKER}/dashboard   sign in as a sample operator, one for each role, or with the token: {OPERATOR}
  Script       {BROKER}/sdk/connect.js   opens a consent from your own page (name it with --page ORIGIN); the README has the lines, /sdk/connect.json the integrity hash
  Sandbox      {SANDBOX}         authorization server with users alice, bob, mallory, and a files API
  Health       {OPS}/readyz   and /metrics

The same by hand:

  export BROKER={BROKER} KEY={KEY}

  # 1. A token for user u-1? Not before the user has consented: the answer holds a link.
  curl -s $BROKER/v1/tokens -H "Authorization: Bearer $KEY" -H 'Content-Type: application/json' \
    -d '{"connector":"files","subject":"u-1"}'

  # 2. Open the link, consent, and bring back the code that the page shows.
  curl -s $BROKER/v1/consents/CONSENT_ID/complete -H "Authorization: Bearer $KEY" -H 'Content-Type: application/json' \
    -d '{"subject":"u-1","code":"THE-CODE"}'

  # 3. Ask again: a short-lived token, refreshed unseen from now on.
  curl -s $BROKER/v1/tokens -H "Authorization: Bearer $KEY" -H 'Content-Type: application/json' \
    -d '{"connector":"files","subject":"u-1"}'

  # 4. Who got what, when and why.
  curl -s "$BROKER/v1/events?subject=u-1" -H "Authorization: Bearer $KEY"

Ctrl-C ends it.
`

// movedNote says that something is not where it usually is.
func movedNote(what, usual, got string) string {
	return usual + " is taken, perhaps by another tokenbroker dev, so " + what + " is at " + got
}

// welcome prints it. This is the one place that prints secrets: they live as long as the process, on loopback.
func (d *dev) welcome(main, ops string) {
	moved := ""
	if len(d.moved) > 0 {
		moved = "\n  Note: " + strings.Join(d.moved, "\n  Note: ") + "\n"
	}
	text := strings.NewReplacer(
		"{MOVED}", moved,
		"{CHAT}", "http://"+d.chat.address(), "{BROKER}", "http://"+main, "{SANDBOX}", "http://"+d.sandbox.address(), "{OPS}", "http://"+ops,
		"{KEY}", d.key, "{OPERATOR}", d.operator,
	).Replace(welcome)
	_, _ = d.con.out.Write([]byte(text))
}
