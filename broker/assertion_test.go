package broker_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

func newAsserted(t *testing.T) (*brokertest.Harness, *brokertest.Assertions) {
	t.Helper()
	at := time.Now().Add(time.Minute)
	a := &brokertest.Assertions{
		Subjects: map[string]broker.Assertion{
			"ann":        {Issuer: "https://idp.example", Subject: "ann", ID: "1", Expires: at, Once: true},
			"ann again":  {Issuer: "https://idp.example", Subject: "ann", ID: "2", Expires: at, Once: true},
			"ann often":  {Issuer: "https://idp.example", Subject: "ann", Expires: at},
			"bob":        {Issuer: "https://idp.example", Subject: "bob", ID: "3", Expires: at, Once: true},
			"for robot":  {Issuer: "https://idp.example", Subject: "ann", Expires: at, MayAct: &broker.Party{Subject: "robot"}},
			"for others": {Issuer: "https://idp.example", Subject: "ann", Expires: at, MayAct: &broker.Party{Issuer: "https://agents.example", Subject: "robot"}},
			"for nobody": {Issuer: "https://idp.example", Subject: "ann", Expires: at, MayAct: &broker.Party{}},
		},
		Actors: map[string]broker.Assertion{"robot": {Issuer: "https://idp.example", Subject: "robot", ID: "r1", Expires: at}},
	}
	h := brokertest.NewWith(t, 1, func(c *broker.Config) { c.Assertions, c.UsedAssertions = a, a })
	return h, a
}

func proofs(subject, actor string) broker.Proofs {
	return broker.Proofs{Subject: broker.NewSecret(subject), Actor: broker.NewSecret(actor)}
}

// TestThreat40SubjectTokens: whose token it is says the subject token and nothing else; it counts once, and only for what came of it.
func TestThreat40SubjectTokens(t *testing.T) {
	h, a := newAsserted(t)
	h.Connect(t, "ann", "files.read")
	ask := func(subject string, p broker.Proofs) (broker.Token, error) {
		return h.Service.IssueToken(context.Background(), h.Caller(), broker.TokenRequest{Connector: "files", Subject: subject, Proofs: p})
	}
	if token, err := ask("", proofs("ann", "")); err != nil || token.AccessToken.IsZero() {
		t.Fatalf("a good one: %v", err)
	}
	refused := func(what string, err error, code broker.Code) {
		t.Helper()
		if broker.CodeOf(err) != code || err == nil {
			t.Errorf("%s: %v, want %s", what, err, code)
		}
		if err != nil && strings.Contains(err.Error(), "idp.example") {
			t.Errorf("%s: the error tells: %v", what, err)
		}
	}
	_, err := ask("", proofs("ann", ""))
	refused("the same again", err, broker.CodeInvalidSubjectToken)
	_, err = ask("bob", proofs("ann again", ""))
	refused("another subject beside it", err, broker.CodeSubjectMismatch)
	_, err = ask("ann", proofs("ann again", ""))
	if err != nil {
		t.Errorf("which that did not use up: %v", err)
	}
	_, err = ask("ann", proofs("forged", ""))
	refused("a forged one", err, broker.CodeInvalidSubjectToken)
	_, err = ask("ann", broker.Proofs{Actor: broker.NewSecret("robot")})
	refused("an actor alone", err, broker.CodeInvalidRequest)
	// Bob has to consent first, and his token still counts behind that.
	_, err = ask("", proofs("bob", ""))
	refused("before a consent", err, broker.CodeConsentRequired)
	h.Connect(t, "bob", "files.read")
	if _, err = ask("", proofs("bob", "")); err != nil {
		t.Errorf("behind it: %v", err)
	}
	// A client that must prove it gets nothing by its word.
	h.Client.SubjectTokens = true
	_, err = ask("ann", broker.Proofs{})
	refused("a bare subject", err, broker.CodeInvalidSubjectToken)
	if _, _, err := h.Service.CreateConsent(context.Background(), h.Caller(), broker.ConsentRequest{Connector: "files", Subject: "ann"}); broker.CodeOf(err) != broker.CodeInvalidSubjectToken {
		t.Errorf("a consent for a bare subject: %v", err)
	}
	if _, err := h.Service.CompleteConsent(context.Background(), h.Caller(), "x", broker.Completion{Subject: "ann", Code: broker.NewSecret("c")}); broker.CodeOf(err) != broker.CodeInvalidSubjectToken {
		t.Errorf("completed for a bare subject: %v", err)
	}
	if _, _, err := h.Service.CreatePortal(context.Background(), h.Caller(), broker.PortalRequest{Subject: "ann"}); broker.CodeOf(err) != broker.CodeInvalidSubjectToken {
		t.Errorf("a visit of a bare subject: %v", err)
	}
	if _, err = ask("", proofs("ann often", "")); err != nil {
		t.Errorf("with a token: %v", err)
	}
	// Every refusal is on record.
	n := map[broker.EventType]int{}
	events, _, err := h.Store.Events(context.Background(), "acme", broker.EventFilter{}, "", 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		if e.Outcome == string(broker.CodeInvalidSubjectToken) {
			if n[e.Type]++; e.Subject != "" {
				t.Errorf("whom it is about is not proven, and on record: %+v", e)
			}
		}
	}
	if n[broker.EventTokenRefused] != 3 || n[broker.EventConsentFailed] != 2 || n[broker.EventPortalRefused] != 1 {
		t.Errorf("refusals on record: %v: %+v", n, events)
	}
	// Whether it was used must be known, and the issuer's keys too: else it is not the caller's fault.
	a.Broken = true
	a.Subjects["new"] = broker.Assertion{Issuer: "https://idp.example", Subject: "ann", ID: "9", Expires: time.Now().Add(time.Minute), Once: true}
	_, err = ask("", proofs("new", ""))
	refused("the store is away", err, broker.CodeTemporarilyUnavailable)
	a.Broken = false
	if _, err = ask("", proofs("new", "")); err != nil {
		t.Errorf("which had noted it, and its answer was lost: %v", err)
	}
	a.Failure = errors.New("no route to host")
	_, err = ask("", proofs("ann often", ""))
	refused("the issuer is away", err, broker.CodeTemporarilyUnavailable)
}

// TestActorTokens: who acts for the user is on record as its token says, and must be whom the user's token allows (RFC 8693 section 4.4).
func TestActorTokens(t *testing.T) {
	h, _ := newAsserted(t)
	h.Connect(t, "ann", "files.read")
	for subject, want := range map[string]broker.Code{"ann often": "", "for robot": "", "for others": broker.CodeInvalidSubjectToken, "for nobody": broker.CodeInvalidSubjectToken} {
		_, err := h.Service.IssueToken(context.Background(), h.Caller(), broker.TokenRequest{Connector: "files", Proofs: proofs(subject, "robot")})
		if (err == nil) != (want == "") || err != nil && broker.CodeOf(err) != want {
			t.Errorf("%s: %v, want %q", subject, err, want)
		}
	}
	ask := func(subject, actor, agent string) error {
		_, err := h.Service.IssueToken(context.Background(), h.Caller(), broker.TokenRequest{Connector: "files", Proofs: proofs(subject, actor), Actor: broker.Actor{Agent: agent}})
		return err
	}
	for _, subject := range []string{"for robot", "for others", "for nobody"} { // what may_act says holds for who sends no actor token too
		if err := ask(subject, "", "robot"); broker.CodeOf(err) != broker.CodeInvalidSubjectToken {
			t.Errorf("%s, by nobody's token: %v", subject, err)
		}
	}
	h.Client.ActorTokens = true
	if err := ask("ann often", "", "robot"); broker.CodeOf(err) != broker.CodeInvalidRequest {
		t.Errorf("an agent by its name alone: %v", err)
	}
	if err := ask("ann often", "", ""); err != nil {
		t.Errorf("no agent: %v", err)
	}
	h.Client.ActorsRequired = true
	if err := ask("ann often", "", ""); broker.CodeOf(err) != broker.CodeInvalidSubjectToken {
		t.Errorf("no agent where there must be one: %v", err)
	}
	_, err := h.Service.IssueToken(context.Background(), h.Caller(), broker.TokenRequest{Connector: "files", Proofs: proofs("ann often", "robot"), Actor: broker.Actor{Agent: "another"}})
	if broker.CodeOf(err) != broker.CodeInvalidRequest {
		t.Errorf("another agent beside it: %v", err)
	}
	events, _, err := h.Store.Events(context.Background(), "acme", broker.EventFilter{Type: broker.EventTokenIssued}, "", 10)
	if err != nil {
		t.Fatal(err)
	}
	agents := map[string]int{}
	for _, e := range events {
		agents[e.Actor.Agent]++
	}
	if agents["robot"] != 2 || agents[""] != 1 || len(agents) != 2 {
		t.Errorf("on record: %v", agents)
	}
}
