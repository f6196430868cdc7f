package main

import (
	"context"
	"fmt"
	"time"

	"tokenbroker/vault/sinks"
)

// placePatience bounds how long a disk may take to say whether it can be written to.
const placePatience = 2 * time.Second

// tryFile tries a file that lines are appended to.
func (o object) tryFile(key, path string) {
	if !o.s.env.tryPlaces {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), placePatience)
	defer cancel()
	if err := sinks.TryFile(ctx, path); err != nil {
		o.place(key, "the file can't be written to (%s): make its directory, or give it to the user that runs the broker", withoutPath(err))
	}
}

// tryArchives tries the directory that archives go to. The broker makes one that is missing: so it would where a disk is not mounted.
func (o object) tryArchives(key, dir string) {
	if !o.s.env.tryPlaces {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), placePatience)
	defer cancel()
	switch made, err := sinks.TryArchives(ctx, dir); {
	case err != nil:
		o.place(key, "the directory can't be written to (%s): give it to the user that runs the broker, or make room; nothing is dropped meanwhile", withoutPath(err))
	case made:
		o.note(key, "the directory does not exist; it is made when something is archived")
	}
}

// place reports a place that can't be written to.
func (o object) place(key, format string, args ...any) {
	if o.s.env.placesMayFail {
		o.note(key, format, args...)
		return
	}
	o.fail(key, ":", o.get(key), format, args...)
}

// note is for the operator, who may want it so.
func (o object) note(key, format string, args ...any) {
	o.s.notes = append(o.s.notes, fmt.Sprintf("%s:%d: %s: %s", o.s.file, o.get(key).Line, o.at(key), fmt.Sprintf(format, args...)))
}
