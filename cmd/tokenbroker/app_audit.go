package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"tokenbroker/providers"
	"tokenbroker/vault"
	"tokenbroker/vault/sinks"
)

// signing is how the trail is signed and where that is published.
func (c AuditConfig) signing() (vault.Signing, error) {
	out := vault.Signing{Keys: c.Signing, Installation: c.Installation, Interval: c.CheckpointEvery}
	if c.Signing == nil {
		return vault.Signing{}, nil
	}
	if c.PublishFile != "" {
		out.Publishers = append(out.Publishers, sinks.NewFile(c.PublishFile))
	}
	if !c.PublishWebhook.IsZero() {
		hook, err := sinks.NewWebhook(c.PublishWebhook.Reveal(), providers.NewOutbound(nil))
		if err != nil {
			return vault.Signing{}, err
		}
		out.Publishers = append(out.Publishers, hook)
	}
	return out, nil
}

// publishPatience is how long a checkpoint may wait before /readyz tells of it.
const publishPatience = time.Minute

// checkAudit tells where checkpoints of the audit trail do not arrive. The process serves all the same: they wait, and what they are about is
// in the chain.
func (a *app) checkAudit(context.Context) trouble {
	var wrong []string
	for _, p := range a.store.Published() {
		if p.Waiting > 0 && p.Failure != nil && time.Since(p.Oldest) > publishPatience {
			wrong = append(wrong, fmt.Sprintf("%s of the audit trail can't be published to %s, the oldest since %s: %v",
				count(p.Waiting, "checkpoint"), p.To, p.Oldest.UTC().Format(time.RFC3339), p.Failure))
		}
	}
	if err := a.store.SignFailure(); err != nil {
		wrong = append(wrong, fmt.Sprintf("the audit trail is not signed in full: %v", err))
	}
	for _, err := range a.sinks.gate.failing() {
		wrong = append(wrong, fmt.Sprintf("no token is handed out, as a required sink of audit.sinks did not take the last one's events: %v", err))
	}
	for _, d := range a.store.Delivered() {
		if d.Mine && d.Failure != nil && !d.Behind.IsZero() && time.Since(d.Behind) > publishPatience {
			wrong = append(wrong, fmt.Sprintf("events since %s can't be delivered to %s: %v", d.Behind.UTC().Format(time.RFC3339), d.To, d.Failure))
		}
		if d.Mine && d.Unreadable > 0 {
			wrong = append(wrong, fmt.Sprintf("%s could not be opened and so not be delivered to %s; tokenbroker audit verify names what was tampered with", counted(int(d.Unreadable), "entry", "entries"), d.To))
		}
	}
	if err := a.store.TrimFailure(); err != nil {
		wrong = append(wrong, fmt.Sprintf("old events are not dropped: %v", err))
	}
	return trouble{text: strings.Join(wrong, "; "), serves: true}
}
