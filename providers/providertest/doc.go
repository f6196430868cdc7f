// Package providertest is what every provider definition must pass: a recording of what is sent to the provider and what
// it answers, played against the real client over real TLS.
//
// A recording is a YAML file (testdata/google.yaml): a connector, and steps. Each step is one call of broker.Upstream, the
// one request that must go out with exactly these parameters, the answer as the provider documents it, and what the call
// must make of it. A call that sends another request, or a second one, fails.
//
// Tests only.
package providertest
