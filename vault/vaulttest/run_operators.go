package vaulttest

import (
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
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
	again := broker.OperatorAgain{Session: text + "-session", Operator: "oidc:" + text, Since: time.Now().UTC().Truncate(time.Millisecond), Turn: 3, Epoch: text + "-epoch"}
	return broker.OperatorRun{To: "/dashboard?q=" + text, Again: again, LoginRun: broker.LoginRun{
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
	if err != nil || got.To != run.To || got.Again != run.Again || got.Nonce.Reveal() != run.Nonce.Reveal() || got.Verifier.Reveal() != run.Verifier.Reveal() || !got.Until.Equal(run.Until) || got.Browser != "bw" || !got.IssuerRequired {
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
	// One that was damaged does not open, and counts as nobody's; the next one takes its place.
	before := r.keys("tb:*:we:*")
	other := "oidc:" + eventID()
	if err := s.SetOperatorEpoch(r.ctx(), other, "three", time.Now().Add(time.Hour)); err != nil {
		r.Fatal(err)
	}
	made := slices.DeleteFunc(r.keys("tb:*:we:*"), func(key string) bool { return slices.Contains(before, key) })
	if len(made) != 1 {
		r.Fatalf("%d keys of an epoch", len(made))
	}
	r.raw("HSET", made[0], "b", "damaged")
	_, err := r.store().OperatorEpoch(r.ctx(), other)
	is(r, err, broker.ErrIntegrity, "a damaged one")
	if err := s.SetOperatorEpoch(r.ctx(), other, "four", time.Now().Add(time.Hour)); err != nil {
		r.Fatal(err)
	}
	expect(other, "four")
	if err := s.SetOperatorEpoch(r.ctx(), who, "past", time.Now().Add(-time.Second)); err != nil {
		r.Fatal(err)
	}
	expect(who, "")
}

// operatorSession is one whose id sorts before those of later n.
func operatorSession(n int) broker.OperatorSession {
	now := time.Now().UTC().Truncate(time.Millisecond)
	return broker.OperatorSession{
		ID: fmt.Sprintf("%011x", n) + rand.Text(), Operator: "oidc:canary-operator", Name: "canary-name", Groups: []string{"canary-group", "b"}, Epoch: "canary-epoch", Since: now, Seen: now.Add(time.Second),
	}
}

func testOperatorSessions(r *rig) {
	s := r.store()
	until := time.Now().Add(time.Hour)
	listed := func(store func() []broker.OperatorSession, id string) bool {
		for _, one := range store() {
			if one.ID == id {
				return true
			}
		}
		return false
	}
	pages := func() (all []broker.OperatorSession) {
		r.Helper()
		for position := ""; ; {
			page, next, err := r.store().OperatorSessions(r.ctx(), position, 2)
			if err != nil || len(page) > 2 {
				r.Fatalf("a page of %d: %v", len(page), err)
			}
			if all, position = append(all, page...), next; next == "" {
				return all
			}
		}
	}
	var made []broker.OperatorSession
	for n := range 5 {
		one := operatorSession(5 - n)
		one.ByToken = n == 2
		if err := s.BeginOperatorSession(r.ctx(), one, until); err != nil {
			r.Fatal(err)
		}
		got, err := r.store().OperatorSession(r.ctx(), one.ID)
		if err != nil || fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", one) {
			r.Fatalf("stored %+v, read %+v, %v", one, got, err)
		}
		made = append([]broker.OperatorSession{one}, made...)
	}
	i := 0
	for _, one := range pages() { // there may be others'
		if i < len(made) && one.ID == made[i].ID {
			i++
		}
	}
	if i != len(made) {
		r.Fatalf("%d of %d are listed in their order", i, len(made))
	}
	// It is over: gone, and nothing that comes late brings it back.
	one := made[1]
	for range 2 {
		if err := s.EndOperatorSession(r.ctx(), one.ID); err != nil {
			r.Fatal(err)
		}
	}
	is(r, s.KeepOperatorSession(r.ctx(), one, until), broker.ErrNotFound, "kept after its end")
	_, err := s.OperatorSession(r.ctx(), one.ID)
	is(r, err, broker.ErrNotFound, "after its end")
	if listed(pages, one.ID) {
		r.Error("it is listed after its end")
	}
	one = made[2]
	one.Seen = one.Seen.Add(time.Minute)
	if err := s.KeepOperatorSession(r.ctx(), one, until); err != nil {
		r.Fatal(err)
	}
	if got, err := s.OperatorSession(r.ctx(), one.ID); err != nil || !got.Seen.Equal(one.Seen) {
		r.Fatalf("kept: %+v, %v", got, err)
	}
	if err := s.KeepOperatorSession(r.ctx(), one, time.Now().Add(-time.Second)); err != nil {
		r.Fatal(err)
	}
	if listed(pages, one.ID) {
		r.Error("it is listed after its time")
	}
	sessionTurns(r, s, made[0], until)
	// One under another's id does not open, and does not hide the others.
	copyHash(r, r.operatorSessionKey(made[4].ID), r.operatorSessionKey(made[3].ID))
	_, err = s.OperatorSession(r.ctx(), made[3].ID)
	is(r, err, broker.ErrIntegrity, "another's under this id")
	if listed(pages, made[3].ID) || !listed(pages, made[4].ID) {
		r.Error("what does not open is listed, or hides others")
	}
	for _, id := range []string{"", "a:b", "*"} {
		_, err := s.OperatorSession(r.ctx(), id)
		is(r, err, broker.ErrNotFound, "no id")
		if err := s.EndOperatorSession(r.ctx(), id); err != nil {
			r.Error(err)
		}
	}
}

// sessionTurns lets a session go on: of several at once one does, and what is of the turn before writes nothing any more.
func sessionTurns(r *rig, s broker.OperatorSessions, one broker.OperatorSession, until time.Time) {
	r.Helper()
	before := one
	for range 3 {
		one.Turn++
		var renewed atomic.Int32
		var all sync.WaitGroup
		for range 6 {
			all.Go(func() {
				switch err := s.RenewOperatorSession(r.ctx(), one, until); {
				case err == nil:
					renewed.Add(1)
				case !errors.Is(err, broker.ErrNotFound):
					r.Errorf("renew: %v", err)
				}
			})
		}
		all.Wait()
		if renewed.Load() != 1 {
			r.Fatalf("turn %d began %d times", one.Turn, renewed.Load())
		}
		is(r, s.KeepOperatorSession(r.ctx(), before, until), broker.ErrNotFound, "kept in the turn before")
		if got, err := s.OperatorSession(r.ctx(), one.ID); err != nil || got.Turn != one.Turn {
			r.Fatalf("in turn %d: %+v, %v", one.Turn, got, err)
		}
		if err := s.KeepOperatorSession(r.ctx(), one, until); err != nil {
			r.Fatal(err)
		}
		before = one
	}
	if err := s.EndOperatorSession(r.ctx(), one.ID); err != nil {
		r.Fatal(err)
	}
	one.Turn++
	is(r, s.RenewOperatorSession(r.ctx(), one, until), broker.ErrNotFound, "renewed after its end")
	_, err := s.OperatorSession(r.ctx(), one.ID)
	is(r, err, broker.ErrNotFound, "after its end, renewed")
}

func (r *rig) operatorSessionKey(id string) string {
	r.Helper()
	keys := r.keys("tb:*:wl:" + id)
	if len(keys) != 1 {
		r.Fatalf("%d keys of a session on the list", len(keys))
	}
	return keys[0]
}
