package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// floodOrder is what a sender sends, as JSON in the environment of its process. {i} stands for the request's number, {state} for a state
// that nobody gave out, {from} for an address, another one each time.
type floodOrder struct {
	Method, URL, Body  string
	Header             map[string]string
	First, Last        int
	PerSecond, Senders int
}

const floodVariable = "TOKENBROKER_FLOOD_ORDER"

// send has a process of its own send that, which gets what the processors have left: whoever floods a broker uses his own. It counts
// answers by their status.
func (o floodOrder) send(t *testing.T) map[int]int {
	t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nice", "-n", "19", self)
	cmd.Env = append(os.Environ(), floodVariable+"="+string(text))
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	answered := map[int]int{}
	if err == nil {
		err = json.Unmarshal(out, &answered)
	}
	if err != nil {
		t.Errorf("the sender: %v %s", err, complaints.String())
	}
	return answered
}

// runFlood is the sender's process.
func runFlood(text string) error {
	var o floodOrder
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return err
	}
	client := &http.Client{
		Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	var mu sync.Mutex
	answered := map[int]int{}
	var next atomic.Int64
	next.Store(int64(o.First))
	began := time.Now()
	var group sync.WaitGroup
	for range o.Senders {
		group.Go(func() {
			for i := int(next.Add(1) - 1); i < o.Last; i = int(next.Add(1) - 1) {
				if o.PerSecond > 0 {
					time.Sleep(time.Until(began.Add(time.Duration(i-o.First) * time.Second / time.Duration(o.PerSecond))))
				}
				status := 0
				if req, err := o.request(i); err == nil {
					if res, err := client.Do(req); err == nil {
						_, _ = io.Copy(io.Discard, res.Body)
						_ = res.Body.Close()
						status = res.StatusCode
					}
				}
				mu.Lock()
				answered[status]++
				mu.Unlock()
			}
		})
	}
	group.Wait()
	return json.NewEncoder(os.Stdout).Encode(answered)
}

func (o floodOrder) request(i int) (*http.Request, error) {
	fill := strings.NewReplacer("{i}", fmt.Sprint(i), "{state}", fmt.Sprintf("%056x", i), "{from}", fmt.Sprintf("198.51.%d.%d", i/250%250, i%250))
	req, err := http.NewRequest(o.Method, fill.Replace(o.URL), strings.NewReader(fill.Replace(o.Body)))
	if err != nil {
		return nil, err
	}
	for name, value := range o.Header {
		req.Header.Set(name, fill.Replace(value))
	}
	return req, nil
}
