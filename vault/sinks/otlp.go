package sinks

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// OTLP posts lines as log records of the OpenTelemetry protocol, over HTTP in its JSON form, which needs no library.
type OTLP struct{ hook *Webhook }

// NewOTLP makes one; the URL is the whole one, such as https://collector.example.com/v1/logs, the client as for NewWebhook.
func NewOTLP(address string, client *http.Client) (*OTLP, error) {
	hook, err := NewWebhook(address, client)
	if err != nil {
		return nil, err
	}
	return &OTLP{hook: hook}, nil
}

// Name is for operators.
func (o *OTLP) Name() string { return "otlp " + o.hook.host }

type otlpText struct {
	Text string `json:"stringValue"`
}

type otlpAttribute struct {
	Key   string   `json:"key"`
	Value otlpText `json:"value"`
}

type otlpRecord struct {
	Time       string          `json:"timeUnixNano"`
	Observed   string          `json:"observedTimeUnixNano"`
	Severity   int             `json:"severityNumber"`
	Level      string          `json:"severityText"`
	Body       otlpText        `json:"body"`
	Attributes []otlpAttribute `json:"attributes"`
	Trace      string          `json:"traceId,omitempty"`
	Event      string          `json:"eventName"`
}

type otlpScope struct {
	Scope struct {
		Name string `json:"name"`
	} `json:"scope"`
	Records []otlpRecord `json:"logRecords"`
}

type otlpResource struct {
	Resource struct {
		Attributes []otlpAttribute `json:"attributes"`
	} `json:"resource"`
	Scopes []otlpScope `json:"scopeLogs"`
}

type otlpRequest struct {
	Resources []otlpResource `json:"resourceLogs"`
}

// refusedOf is how many records a collector says that it did not take, though it answers 200, as it says that; "": it says nothing of the kind.
// What is said in a way that can't be read is no number of 0.
func refusedOf(said []byte) string {
	var answer, partial map[string]json.RawMessage
	if json.Unmarshal(said, &answer) != nil {
		if bytes.HasPrefix(bytes.TrimSpace(said), []byte("{")) {
			return "some" // it began to say something
		}
		return "" // nothing, or not in the protocol's words
	}
	if told := answer["partialSuccess"]; len(told) == 0 || string(told) == "null" {
		return ""
	}
	if json.Unmarshal(answer["partialSuccess"], &partial) != nil {
		return "some"
	}
	switch n := strings.Trim(string(partial["rejectedLogRecords"]), `"`); n {
	case "", "null", "0":
		return ""
	default:
		return n
	}
}

// severityInfo is INFO as the protocol counts.
const severityInfo = 9

// Append posts lines that are events.
func (o *OTLP) Append(ctx context.Context, lines [][]byte) error {
	scope := otlpScope{Records: make([]otlpRecord, len(lines))}
	scope.Scope.Name = "tokenbroker/audit"
	for i, line := range lines {
		var of told
		if err := json.Unmarshal(line, &of); err != nil {
			return fmt.Errorf("post to %s: the line is no event", o.Name())
		}
		at := strconv.FormatInt(of.Time.UnixNano(), 10)
		scope.Records[i] = otlpRecord{
			Time: at, Observed: at, Severity: severityInfo, Level: "INFO", Body: otlpText{string(line)}, Event: of.Type,
			Attributes: []otlpAttribute{{Key: "event.name", Value: otlpText{of.Type}}},
		}
		if raw, err := hex.DecodeString(of.Trace); err == nil && len(raw) == 16 {
			scope.Records[i].Trace = of.Trace
		}
	}
	resource := otlpResource{Scopes: []otlpScope{scope}}
	resource.Resource.Attributes = []otlpAttribute{{Key: "service.name", Value: otlpText{"tokenbroker"}}}
	body, err := json.Marshal(otlpRequest{Resources: []otlpResource{resource}})
	if err != nil {
		return fmt.Errorf("post to %s: %w", o.Name(), err)
	}
	said, whole, err := o.hook.exchange(ctx, "application/json", body)
	if err != nil {
		return err
	}
	if !whole {
		return fmt.Errorf("post to %s: its answer breaks off, or is longer than %d bytes, and may say that it did not take all records", o.Name(), maxAnswer)
	}
	if n := refusedOf(said); n != "" {
		return fmt.Errorf("post to %s: it took all but %.20q records", o.Name(), n)
	}
	return nil
}

// Close ends idle connections.
func (o *OTLP) Close() error { return o.hook.Close() }
