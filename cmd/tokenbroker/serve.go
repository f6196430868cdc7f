package main

import (
	"context"
)

type serveCommand struct {
	Config string `required:"" placeholder:"FILE" help:"The configuration file."`
}

// Run serves until a signal. It reads as the parts depend on one another: configuration and keys, log, telemetry, and then
// newApp for the rest.
func (c *serveCommand) Run(ctx context.Context, con *console) error {
	if err := harden(); err != nil {
		return err
	}
	env := con.env
	env.waits, env.tryPlaces, env.placesMayFail = true, true, true
	cfg, err := LoadConfig(c.Config, env)
	if err != nil {
		return err
	}
	lines := newLogBuffer(con.err, logDelay)
	defer lines.close() // the last thing that happens
	log := newLogger(lines, cfg.LogLevel)
	adoptLibraryLogs(log)
	telemetry, err := startTelemetry(ctx, telemetryConfig{Lookup: con.env.lookup, Log: log})
	if err != nil {
		return err
	}
	defer endTelemetry(ctx, telemetry, log)

	var doors *doors
	if cfg.KeysWait != nil {
		if doors, err = awaitKeys(ctx, cfg, env, telemetry, log); err != nil || doors == nil {
			return err // without an error: it was told to end
		}
	}
	a, err := newApp(ctx, appConfig{Config: cfg, Keyset: cfg.Keys, KeysetFile: cfg.Keyset.File, Doors: doors, Telemetry: telemetry, Log: log})
	if err != nil {
		doors.close()
		return err
	}
	v, commit := buildVersion()
	return a.run(ctx, func(main, ops string) {
		args := []any{"listen", main, "ops_listen", ops, "public_url", cfg.PublicURL, "version", v, "commit", commit}
		if a.waiting != nil {
			args = append(args, "waits_for", "redis: "+a.waiting.Error())
		}
		log.Info("serving", args...)
		for _, note := range cfg.Notes {
			log.Warn(note)
		}
	})
}
