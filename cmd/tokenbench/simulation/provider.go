package simulation

import (
	_ "embed"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Provider is what is known of an authorization server, and the share of all connections that it is assumed to have.
type Provider struct {
	ID string `yaml:"id"`
	// Share of all connections. An assumption, not a fact: replace it by your own.
	Share float64 `yaml:"share"`
	// TTL of its access tokens, and Idle of unused refresh tokens, in seconds; 0: not known to end.
	TTL  int64 `yaml:"ttl_s"`
	Idle int64 `yaml:"idle_s"`
	// RefreshesPerSecond is a limit on the OAuth client, 0: none is published. Limit tells what is published, whatever it is about.
	RefreshesPerSecond float64 `yaml:"refreshes_per_second"`
	Limit              string  `yaml:"limit"`
	Source             string  `yaml:"source"`
}

//go:embed providers.yaml
var providersYAML []byte

// Providers are the built-in ones.
func Providers() ([]Provider, error) { return ParseProviders(providersYAML) }

// ParseProviders reads a list in YAML. Shares need not add up to one: they are scaled.
func ParseProviders(text []byte) ([]Provider, error) {
	d := yaml.NewDecoder(strings.NewReader(string(text)))
	d.KnownFields(true)
	var list []Provider
	if err := d.Decode(&list); err != nil {
		return nil, fmt.Errorf("read providers: %w", err)
	}
	sum := 0.0
	for _, p := range list {
		if p.ID == "" || p.Share < 0 || p.TTL < 0 || p.Idle < 0 || p.RefreshesPerSecond < 0 {
			return nil, fmt.Errorf("read providers: %q lacks an id or has a negative figure", p.ID)
		}
		sum += p.Share
	}
	if sum <= 0 {
		return nil, fmt.Errorf("read providers: nobody has a share")
	}
	for i := range list {
		list[i].Share /= sum
	}
	return list, nil
}

// idleRate is how many refreshes a second keep that many unused grants from ending: each between 70 % and 85 % of the limit.
func (p Provider) idleRate(unused float64) float64 {
	if p.Idle == 0 {
		return 0
	}
	return unused / (0.775 * float64(p.Idle))
}
