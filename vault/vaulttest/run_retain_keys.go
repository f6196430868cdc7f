package vaulttest

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
)

// testTrimmedNewerKey: an entry that is due while its key is not here yet is left where it is, and nobody calls it tampered with; the streams of
// others are archived and trimmed meanwhile, and that one when its key has come.
func testTrimmedNewerKey(r *rig) {
	for _, archive := range []bool{false, true} {
		o := newRotation(r)
		old, away := o.keyset, true
		tenantOf := func(who string) string { return tenant(r) + who + map[bool]string{true: " archived"}[archive] }
		write := func(tenant string) {
			e := entry(broker.EventTokenRefused, broker.Connection{Tenant: tenant, Subject: "u"}, "a")
			if err := r.store().Append(r.ctx(), e); err != nil {
				r.Fatal(err)
			}
		}
		write(tenantOf("bob"))
		r.keyset = o.open()
		o.edit(vault.KeysetEdit{Do: vault.KeysetRotate, Audit: true})
		write(tenantOf("ann"))
		keep := vault.Retention{Age: 24 * time.Hour}
		if archive {
			keep.Archive = func(_ context.Context, _ string, write func(io.Writer) error) error { return write(io.Discard) }
		}
		b := &later{Store: r.backend(), ahead: ahead}
		s := r.store(func(vc *vault.Config, _ *redisstore.Config) {
			vc.Keyset, vc.Backend, vc.Now, vc.Retention = old, b, func() time.Time { return time.Now().Add(ahead) }, keep
			vc.ReloadKeyset = func() error {
				if away {
					return errors.New("the key service is away")
				}
				return old.Reload(o.file)
			}
		})
		left := func(tenant string) (n int) {
			for _, e := range r.allEvents(r.store(), tenant, broker.EventFilter{}, 10) {
				if e.Type == broker.EventTokenRefused {
					n++
				}
			}
			return n
		}
		r.trimmed(s)
		if n := left(tenantOf("ann")); n != 1 {
			r.Errorf("archive %t: an entry that can't be read yet was dropped", archive)
		}
		if n := left(tenantOf("bob")); n != 0 {
			r.Errorf("archive %t: it holds up another stream", archive)
		}
		if strings.Contains(r.log.String(), "tampered") {
			r.Errorf("archive %t: it is called tampered with: %s", archive, r.log.String())
		}
		away, r.keyset = false, old
		r.within(30*time.Second, "both are trimmed once the key is here", func() bool {
			r.trimmed(s)
			return left(tenantOf("ann"))+left(tenantOf("bob")) == 0
		})
	}
}
