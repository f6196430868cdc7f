package e2e

import (
	"fmt"
	"testing"
	"time"

	"tokenbroker/providers/sandbox"
)

// Redis hangs while a consent's code is redeemed, for longer than one write of the broker may take: the provider has answered,
// and the grant lies nowhere but in the broker. The user ends with a connection all the same, and nothing is revoked.
func TestRedisHangsDuringExchange(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.start()
	c := p.api(r.key)
	for n, binding := range []string{"return", "code"} {
		t.Run(binding, func(t *testing.T) {
			c := c.within(t)
			subject := []string{"alice", "bob"}[n]
			b := newBrowser(t)
			b.hint = subject
			more := object{}
			if binding == "return" {
				more["return_to"] = "http://127.0.0.1:3000/done"
			}
			consent := c.consent(subject, more)
			complete := "/v1/consents/" + consent.str("id") + "/complete"
			callback := b.atProvider(b.start(consent.str("url")).location)
			// What redeems the code: the completing call, or the callback.
			redeem := func() object { return object{"subject": subject, "code": b.follow(b.get(callback)).code(t)} }
			if binding == "return" {
				body := object{"subject": subject, "code": query(t, b.get(callback).location, "code")}
				redeem = func() object {
					if a, err := c.try("POST", complete, body); err == nil && a.status == 200 {
						return object{"connection": a.str("id")}
					}
					return body // told to try again
				}
			}
			r.inject(sandbox.Fault{On: sandbox.TargetToken, Kind: sandbox.KindHang})
			redeemed := make(chan object, 1)
			go func() {
				defer close(redeemed)
				redeemed <- redeem()
			}()
			r.eventually(20*time.Second, "the code is at the provider", func() error {
				if held := r.provider.Stats().Held; held != 1 {
					return fmt.Errorf("%d requests are held", held)
				}
				return nil
			})
			r.server.Pause()
			r.provider.ClearFaults()
			time.Sleep(2500 * time.Millisecond) // how long Redis hangs
			r.server.Resume()
			body := <-redeemed
			conn, done := body["connection"].(string)
			if !done {
				conn = c.want(200, "POST", complete, body).str("id")
			}
			if got := c.token(subject).str("connection"); got != conn {
				t.Errorf("the token is of connection %s, the call answered %s", got, conn)
			}
			c.refreshed(subject)
			stats := r.provider.Stats()
			if g := r.grant(subject); g.Revoked != "" || g.Failures != 0 || stats.RevokeRequests != 0 || stats.TokenRequests["authorization_code"] != n+1 {
				t.Errorf("the provider's view: %+v, %d revocations, %d codes", g, stats.RevokeRequests, stats.TokenRequests["authorization_code"])
			}
		})
	}
}
