package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
	"tokenbroker/vault/kek"
	"tokenbroker/vault/sinks"
)

const (
	// leastDays is how many days events are kept at least: less is a slip, such as hours in the place of days.
	leastDays, mostDays = 7, 36500
	// leastEntries is how few entries the trail may be bound to.
	leastEntries, mostEntries = 100_000, 1_000_000_000_000
)

// AuditConfig is what is done about the audit trail beside keeping it.
type AuditConfig struct {
	// Signing are the keys that sign it, from SigningFile; nil: it is not signed, or wait says why they could not be opened though
	// nothing is wrong with the configuration (Config.KeysWait).
	Signing     *vault.SigningKeys
	SigningFile string
	wait        error
	// Installation names whose trail it is, in what is signed; public_url, unless the operator gives it another name.
	Installation string
	// CheckpointEvery is how often that is done; default 10 s.
	CheckpointEvery time.Duration
	// PublishFile and PublishWebhook get each checkpoint, outside of Redis; "": nobody does.
	PublishFile    string
	PublishWebhook broker.Secret // a URL, whose path may be a secret
	// ArchiveDir gets what is dropped before it is; "": that is gone.
	ArchiveDir string
	// Sinks get each event.
	Sinks []SinkConfig
}

// audit reads audit. What is left out is not done; wrap is the reference of the KEK, which wraps the signing key too, publicURL the name of the
// installation where it has no other.
func (o object) audit(wrap, publicURL string) (vault.Retention, AuditConfig) {
	var keep vault.Retention
	cfg := AuditConfig{Installation: publicURL}
	n := o.get("audit")
	if n == nil {
		return keep, cfg
	}
	audit, ok := o.s.object(n, "audit", "installation", "retention", "signing_key", "checkpoint_every", "publish", "archive_dir", "sinks")
	if !ok {
		return keep, cfg
	}
	if name := audit.text("installation", "", label); name != "" {
		cfg.Installation = name
	}
	cfg.CheckpointEvery = audit.duration("checkpoint_every", 10*time.Second, time.Second, time.Minute)
	if file := audit.text("signing_key", "", anyPath); file != "" {
		cfg.SigningFile = o.s.path(file)
		cfg.Signing, cfg.wait = audit.openSigning(cfg.SigningFile, wrap)
	} else {
		for _, key := range []string{"publish", "checkpoint_every"} {
			if n := audit.get(key); n != nil {
				audit.fail(key, "", n, "has no use without audit.signing_key; make one: tokenbroker audit key --create --file audit-key.json --kek env:TOKENBROKER_KEK")
			}
		}
	}
	audit.publish(&cfg)
	cfg.Sinks = audit.sinks()
	keep = audit.retention()
	if dir := audit.text("archive_dir", "", anyPath); dir != "" {
		cfg.ArchiveDir = o.s.path(dir)
		audit.tryArchives("archive_dir", cfg.ArchiveDir)
		if keep.Age == 0 && keep.Entries == 0 && len(o.s.problems) == 0 {
			audit.fail("archive_dir", "", audit.get("archive_dir"), "has no use without audit.retention, which says what is dropped and so archived; for a file now and then: tokenbroker audit export")
		}
		keep.Archive = sinks.Archives{Dir: cfg.ArchiveDir}.Make
	}
	return keep, cfg
}

// openSigning opens the file for real, as openKeyset does; wait: the key management service can't be asked now.
func (o object) openSigning(file, reference string) (keys *vault.SigningKeys, wait error) {
	content, err := readSigningFile(file, o.s.env)
	if err != nil {
		o.fail("signing_key", ":", o.get("signing_key"), "%s", err)
		return nil, nil
	}
	if reference == "" {
		return nil, nil // a problem of keyset.kek, which is reported
	}
	key, err := parseKEK(reference, o.s.env)
	if err != nil {
		return nil, nil // likewise
	}
	keys, err = openSigningKeys(file, reference, key, content)
	switch {
	case err == nil:
	case errors.Is(err, kek.ErrUnavailable) && o.s.env.waits:
		return nil, err
	default:
		o.fail("signing_key", ":", o.get("signing_key"), "%s", err)
	}
	return keys, nil
}

func openSigningKeys(file, reference string, key vault.KEK, content []byte) (*vault.SigningKeys, error) {
	return withKEK(file, reference, key, func(key vault.KEK) (*vault.SigningKeys, error) { return vault.OpenSigningKeys(content, key) })
}

// publish reads where checkpoints go.
func (o object) publish(cfg *AuditConfig) {
	n := o.get("publish")
	if n == nil {
		return
	}
	p, ok := o.s.object(n, "audit.publish", "file", "webhook")
	if !ok {
		return
	}
	if file := p.text("file", "", anyPath); file != "" {
		cfg.PublishFile = o.s.path(file)
		p.tryFile("file", cfg.PublishFile)
	}
	if hook, given := p.secret("webhook"); given {
		if err := outboundURL(hook.Reveal()); err != nil {
			p.fail("webhook", "", p.get("webhook"), "%s", err)
		}
		cfg.PublishWebhook = hook
	}
	if p.get("file") == nil && p.get("webhook") == nil {
		o.fail("publish", "", n, "must say where: file, webhook, or both")
	}
}

// hostForm is a name that a server may have: labels with dots between, of letters of any script (RFC 5890), digits, hyphens and the underscores of some.
var hostForm = regexp.MustCompile(`^[\p{L}\p{N}_]([\p{L}\p{N}\p{M}_-]*[\p{L}\p{N}\p{M}_])?(\.[\p{L}\p{N}_]([\p{L}\p{N}\p{M}_-]*[\p{L}\p{N}\p{M}_])?)*\.?$`)

// outboundURL accepts an address that requests of the broker's own go to. Its complaints don't repeat it: it may hold a secret.
func outboundURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || !hostForm.MatchString(u.Hostname()) && net.ParseIP(u.Hostname()) == nil {
		return errors.New("must be a URL such as https://audit.example.com/checkpoints")
	}
	if port := u.Port(); port != "" || strings.HasSuffix(u.Host, ":") {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return errors.New("must have a port from 1 to 65535, or none")
		}
	}
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
		return errors.New("must be a URL such as https://audit.example.com/checkpoints")
	case u.User != nil || u.Fragment != "":
		return errors.New("must have neither a user name nor a fragment")
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return errors.New("must be https:// (http:// is for loopback only)")
	}
	return nil
}

// retention reads audit.retention. What is left out is no reason to drop anything.
func (o object) retention() vault.Retention {
	var keep vault.Retention
	n := o.get("retention")
	if n == nil {
		return keep
	}
	r, ok := o.s.object(n, "audit.retention", "age", "entries")
	if !ok {
		return keep
	}
	keep.Age = r.days("age", leastDays, mostDays)
	keep.Entries = int64(r.number("entries", 0, leastEntries, mostEntries))
	gone := "dropped for good"
	if o.get("archive_dir") != nil {
		gone = "moved to audit.archive_dir"
	}
	when := ""
	switch {
	case keep.Age > 0 && keep.Entries > 0:
		when = fmt.Sprintf("audit events are %s when they are older than %d days, or when the trail has more than %d entries", gone, keep.Age/(24*time.Hour), keep.Entries)
	case keep.Age > 0:
		when = fmt.Sprintf("audit events are %s when they are older than %d days", gone, keep.Age/(24*time.Hour))
	case keep.Entries > 0:
		when = fmt.Sprintf("the oldest audit events are %s when the trail has more than %d entries", gone, keep.Entries)
	default:
		return keep
	}
	o.s.notes = append(o.s.notes, fmt.Sprintf("%s:%d: %s", o.s.file, n.Line, when))
	return keep
}

// days reads a whole number of days, such as 90d.
func (o object) days(key string, least, most int) time.Duration {
	n, text, ok := o.scalar(key)
	if !ok {
		return 0
	}
	number, isDays := strings.CutSuffix(text, "d")
	v, err := strconv.Atoi(number)
	if !isDays || err != nil || v < least || v > most || number != strconv.Itoa(v) {
		o.fail(key, "", n, "must be a whole number of days from %dd to %dd, such as 90d; leave it out to keep all", least, most)
		return 0
	}
	return time.Duration(v) * 24 * time.Hour
}
