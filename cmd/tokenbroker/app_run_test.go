package main

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestHungWorkersHoldUpNoDrain: the process drains in time although something in the background does not end.
func TestHungWorkersHoldUpNoDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var group sync.WaitGroup
		disk := make(chan struct{})
		group.Go(func() { <-disk })
		began := time.Now()
		if ended(t.Context(), &group, workersEnd) || time.Since(began) != workersEnd {
			t.Errorf("it waited %s", time.Since(began))
		}
		close(disk)
		if !ended(t.Context(), &group, workersEnd) {
			t.Error("all have ended, and that is not seen")
		}
	})
}
