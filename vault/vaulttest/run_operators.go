package vaulttest

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"tokenbroker/broker"
)

func testSessions(r *rig) {
	s := r.store()
	token := broker.NewSecret("canary-session-token" + eventID())
	_, err := s.Session(r.ctx(), token)
	is(r, err, broker.ErrNotFound, "no session yet")
	if err := s.SaveSession(r.ctx(), token, []byte("canary-session-data"), time.Now().Add(time.Hour)); err != nil {
		r.Fatal(err)
	}
	data, err := s.Session(r.ctx(), token)
	if err != nil || string(data) != "canary-session-data" {
		r.Fatalf("session: %v", err)
	}
	_, err = s.Session(r.ctx(), broker.Secret{})
	is(r, err, broker.ErrNotFound, "no token")
	// A session under another's key does not open.
	other := broker.NewSecret("other" + eventID())
	if err := s.SaveSession(r.ctx(), other, []byte("admin"), time.Now().Add(time.Hour)); err != nil {
		r.Fatal(err)
	}
	copyHash(r, sessionKeyOf(r, other), sessionKeyOf(r, token))
	_, err = s.Session(r.ctx(), token)
	is(r, err, broker.ErrIntegrity, "another's session under this token")
	if err := s.KeepSession(r.ctx(), other, []byte("kept"), time.Now().Add(time.Hour)); err != nil {
		r.Fatal(err)
	}
	if data, err := s.Session(r.ctx(), other); err != nil || string(data) != "kept" {
		r.Fatalf("kept session: %q, %v", data, err)
	}
	if err := s.DeleteSession(r.ctx(), token); err != nil {
		r.Fatal(err)
	}
	_, err = s.Session(r.ctx(), token)
	is(r, err, broker.ErrNotFound, "after the end")
	// Threat 62: whoever read the session before its end can't bring it back.
	is(r, s.KeepSession(r.ctx(), token, []byte("late"), time.Now().Add(time.Hour)), broker.ErrNotFound, "kept after the end")
	_, err = s.Session(r.ctx(), token)
	is(r, err, broker.ErrNotFound, "after a late write")
	if err := s.SaveSession(r.ctx(), token, []byte("x"), time.Now().Add(-time.Second)); err != nil {
		r.Fatal(err)
	}
	_, err = s.Session(r.ctx(), token)
	is(r, err, broker.ErrNotFound, "saved after its end")
}

func sessionKeyOf(r *rig, token broker.Secret) string {
	r.Helper()
	keys := r.keys("tb:*:w:" + token.Digest())
	if len(keys) != 1 {
		r.Fatalf("%d keys of a session", len(keys))
	}
	return keys[0]
}

func operatorRun(text string) broker.OperatorRun {
	return broker.OperatorRun{To: "/dashboard?q=" + text, LoginRun: broker.LoginRun{
		StateDigest: "sd", Browser: "bw", Nonce: broker.NewSecret(text + "-nonce"), Verifier: broker.NewSecret(text + "-verifier"), Fingerprint: "fp", Issuer: "https://sso.example", IssuerRequired: true,
		Until: time.Now().Add(10 * time.Minute).UTC().Truncate(time.Millisecond),
	}}
}

func testOperatorSignIns(r *rig) {
	s := r.store()
	state := broker.NewSecret("state" + eventID())
	_, err := s.SignIn(r.ctx(), state)
	is(r, err, broker.ErrNotFound, "no sign-in yet")
	is(r, s.UseSignIn(r.ctx(), state), broker.ErrNotFound, "use of none")
	run := operatorRun("canary")
	if err := s.CreateSignIn(r.ctx(), state, run); err != nil {
		r.Fatal(err)
	}
	got, err := r.store().SignIn(r.ctx(), state)
	if err != nil || got.To != run.To || got.Nonce.Reveal() != run.Nonce.Reveal() || got.Verifier.Reveal() != run.Verifier.Reveal() || !got.Until.Equal(run.Until) || got.Browser != "bw" || !got.IssuerRequired {
		r.Fatalf("stored and read back: %+v, %v", got, err)
	}
	// A session's token is no state, nor the other way round.
	_, err = s.Session(r.ctx(), state)
	is(r, err, broker.ErrNotFound, "a session of that text")
	var uses atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			switch err := s.UseSignIn(r.ctx(), state); {
			case err == nil:
				uses.Add(1)
			case !errors.Is(err, broker.ErrNotFound):
				r.Errorf("use: %v", err)
			}
		})
	}
	all.Wait()
	if uses.Load() != 1 {
		r.Fatalf("used %d times", uses.Load())
	}
	_, err = s.SignIn(r.ctx(), state)
	is(r, err, broker.ErrNotFound, "after its use")
	run.Until = time.Now().Add(-time.Second)
	if err := s.CreateSignIn(r.ctx(), state, run); err != nil {
		r.Fatal(err)
	}
	_, err = s.SignIn(r.ctx(), state)
	is(r, err, broker.ErrNotFound, "after its end")
}

func testOperatorEpochs(r *rig) {
	s := r.store()
	who := "oidc:" + eventID()
	expect := func(operator, want string) {
		r.Helper()
		if got, err := r.store().OperatorEpoch(r.ctx(), operator); err != nil || got != want {
			r.Fatalf("epoch of %s: %q, %v, want %q", operator, got, err, want)
		}
	}
	expect(who, "")
	for _, epoch := range []string{"one", "two"} {
		if err := s.SetOperatorEpoch(r.ctx(), who, epoch, time.Now().Add(time.Hour)); err != nil {
			r.Fatal(err)
		}
		expect(who, epoch)
	}
	expect(who+"x", "")
	if err := s.SetOperatorEpoch(r.ctx(), who, "past", time.Now().Add(-time.Second)); err != nil {
		r.Fatal(err)
	}
	expect(who, "")
}
