package web

import (
	"encoding/json"
	"fmt"
	"time"
)

// sessionCodec is how a session is written: JSON of texts, lists and numbers. What reads it takes no more memory than it is long; encoding/gob makes a
// map as large as a few bytes say.
type sessionCodec struct{}

type sessionValues struct {
	Deadline int64               `json:"d"` // ms
	Texts    map[string]string   `json:"t,omitempty"`
	Lists    map[string][]string `json:"l,omitempty"`
	Numbers  map[string]int64    `json:"n,omitempty"`
}

// Encode implements scs.Codec.
func (sessionCodec) Encode(deadline time.Time, values map[string]any) ([]byte, error) {
	out := sessionValues{Deadline: deadline.UnixMilli(), Texts: map[string]string{}, Lists: map[string][]string{}, Numbers: map[string]int64{}}
	for name, value := range values {
		switch value := value.(type) {
		case string:
			out.Texts[name] = value
		case []string:
			out.Lists[name] = value
		case int64:
			out.Numbers[name] = value
		default:
			return nil, fmt.Errorf("a session can't hold %s, a %T", name, value)
		}
	}
	return json.Marshal(out)
}

// Decode implements scs.Codec.
func (sessionCodec) Decode(data []byte) (time.Time, map[string]any, error) {
	var in sessionValues
	if err := json.Unmarshal(data, &in); err != nil {
		return time.Time{}, nil, fmt.Errorf("session: %w", err)
	}
	values := make(map[string]any, len(in.Texts)+len(in.Lists)+len(in.Numbers))
	for name, value := range in.Texts {
		values[name] = value
	}
	for name, value := range in.Lists {
		values[name] = value
	}
	for name, value := range in.Numbers {
		values[name] = value
	}
	return time.UnixMilli(in.Deadline).UTC(), values, nil
}
