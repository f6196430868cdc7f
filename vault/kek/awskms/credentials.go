package awskms

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strings"

	"tokenbroker/broker"
	"tokenbroker/vault/kek"
)

// credentials gets some that are valid now; it is asked anew each time, which is seldom.
type credentials func(ctx context.Context) (keys, error)

const (
	ecsHost  = "http://169.254.170.2"
	imdsHost = "http://169.254.169.254"
)

// newCredentials takes the first that is there, in the order of AWS's own programs, without their configuration files:
//
//   - AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN
//   - AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN: the service account of a pod (IRSA)
//   - AWS_CONTAINER_CREDENTIALS_FULL_URI or _RELATIVE_URI: EKS Pod Identity, ECS
//   - the role of the EC2 instance (IMDSv2), unless AWS_EC2_METADATA_DISABLED is true
func newCredentials(p kek.Process, region, domain string) (credentials, error) {
	client := kek.NewClient("AWS", p.Timeout, nil)
	switch {
	case p.Getenv("AWS_ACCESS_KEY_ID") != "":
		k := keys{id: p.Getenv("AWS_ACCESS_KEY_ID"), secret: broker.NewSecret(p.Getenv("AWS_SECRET_ACCESS_KEY")), session: broker.NewSecret(p.Getenv("AWS_SESSION_TOKEN"))}
		if err := k.check(); err != nil {
			return nil, fmt.Errorf("AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN: %w", err)
		}
		return func(context.Context) (keys, error) { return k, nil }, nil
	case p.Getenv("AWS_WEB_IDENTITY_TOKEN_FILE") != "":
		return webIdentity(p, client, region, domain)
	case p.Getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI") != "" || p.Getenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") != "":
		return container(p, client)
	case strings.EqualFold(p.Getenv("AWS_EC2_METADATA_DISABLED"), "true"):
		return nil, errors.New("nothing gives credentials for AWS: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the pod, task or instance a role")
	}
	return instance(p, client), nil
}

var (
	idForm     = regexp.MustCompile(`^[A-Za-z0-9_]{4,128}$`)
	secretForm = regexp.MustCompile(`^[!-~]+$`)
)

// check keeps what can't be a credential out of headers, whose errors would quote it.
func (k keys) check() error {
	if !idForm.MatchString(k.id) || !secretForm.MatchString(k.secret.Reveal()) || !k.session.IsZero() && !secretForm.MatchString(k.session.Reveal()) {
		return errors.New("these can't be credentials of AWS")
	}
	return nil
}

// webIdentity exchanges the token of a file for credentials of the role. The request is not signed: the token is its proof.
func webIdentity(p kek.Process, client *kek.Client, region, domain string) (credentials, error) {
	role, file, session := p.Getenv("AWS_ROLE_ARN"), p.Getenv("AWS_WEB_IDENTITY_TOKEN_FILE"), p.Getenv("AWS_ROLE_SESSION_NAME")
	if role == "" {
		return nil, errors.New("AWS_WEB_IDENTITY_TOKEN_FILE needs AWS_ROLE_ARN beside it")
	}
	if session == "" {
		session = "tokenbroker"
	}
	endpoint := "https://sts." + region + "." + domain
	if text := p.Getenv("AWS_ENDPOINT_URL_STS"); text != "" {
		base, err := kek.BaseURL(text)
		if err != nil {
			return nil, fmt.Errorf("the variable AWS_ENDPOINT_URL_STS: %w", err)
		}
		endpoint = base
	} else if domain == "" {
		return nil, errors.New("where the STS of this partition is must be said in AWS_ENDPOINT_URL_STS")
	}
	return func(ctx context.Context) (keys, error) {
		token, err := p.ReadFile(file)
		if err != nil {
			return keys{}, fmt.Errorf("AWS_WEB_IDENTITY_TOKEN_FILE: %w", err)
		}
		form := url.Values{"Action": {"AssumeRoleWithWebIdentity"}, "Version": {"2011-06-15"}, "RoleArn": {role}, "RoleSessionName": {session},
			"WebIdentityToken": {strings.TrimSpace(string(token))}}
		got, err := client.Ask(ctx, http.MethodPost, endpoint+"/", http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, []byte(form.Encode()))
		if err != nil {
			return keys{}, err
		}
		if !got.Fine() {
			return keys{}, fmt.Errorf("AWS STS refuses the pod's identity for the role (status %d): see the role's trust policy", got.Status)
		}
		var body struct {
			ID      string `xml:"AssumeRoleWithWebIdentityResult>Credentials>AccessKeyId"`
			Secret  string `xml:"AssumeRoleWithWebIdentityResult>Credentials>SecretAccessKey"`
			Session string `xml:"AssumeRoleWithWebIdentityResult>Credentials>SessionToken"`
		}
		if xml.Unmarshal(got.Body, &body) != nil {
			return keys{}, errors.New("AWS STS answers something that is not its XML")
		}
		return made(body.ID, body.Secret, body.Session)
	}, nil
}

func made(id, secret, session string) (keys, error) {
	k := keys{id: id, secret: broker.NewSecret(secret), session: broker.NewSecret(session)}
	return k, k.check()
}

// roleAnswer is the JSON that containers and instances get.
type roleAnswer struct {
	AccessKeyId, SecretAccessKey, Token string
}

func role(got kek.Answer, from string) (keys, error) {
	if !got.Fine() {
		return keys{}, fmt.Errorf("%s gives no credentials (status %d)", from, got.Status)
	}
	var body roleAnswer
	if err := got.Into(&body); err != nil {
		return keys{}, fmt.Errorf("%s gives no credentials", from)
	}
	return made(body.AccessKeyId, body.SecretAccessKey, body.Token)
}

// containerHosts may be asked by http: those of ECS and EKS, which are links to the machine itself.
var containerHosts = []string{"169.254.170.2", "169.254.170.23", "fd00:ec2::23"}

func container(p kek.Process, client *kek.Client) (credentials, error) {
	address := p.Getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI")
	if relative := p.Getenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"); relative != "" {
		address = ecsHost + "/" + strings.TrimPrefix(relative, "/")
	}
	u, err := url.Parse(address)
	if err != nil || u.User != nil || u.Scheme != "https" && !(u.Scheme == "http" && link(u.Hostname())) {
		return nil, errors.New("AWS_CONTAINER_CREDENTIALS_FULL_URI must be https, or an address of ECS, EKS or loopback")
	}
	return func(ctx context.Context) (keys, error) {
		header := http.Header{}
		token := p.Getenv("AWS_CONTAINER_AUTHORIZATION_TOKEN")
		if file := p.Getenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"); file != "" {
			text, err := p.ReadFile(file)
			if err != nil {
				return keys{}, fmt.Errorf("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE: %w", err)
			}
			token = strings.TrimSpace(string(text))
		}
		if token != "" {
			if strings.ContainsFunc(token, func(r rune) bool { return r < ' ' || r > '~' }) {
				return keys{}, errors.New("AWS_CONTAINER_AUTHORIZATION_TOKEN can't stand in a header")
			}
			header.Set("Authorization", token)
		}
		got, err := client.Ask(ctx, http.MethodGet, address, header, nil)
		if err != nil {
			return keys{}, err
		}
		return role(got, "the container's agent")
	}, nil
}

func link(host string) bool {
	for _, allowed := range containerHosts {
		if host == allowed {
			return true
		}
	}
	address, err := netip.ParseAddr(host)
	return err == nil && address.IsLoopback() || strings.EqualFold(host, "localhost")
}

var roleForm = regexp.MustCompile(`^[A-Za-z0-9+=,.@_-]{1,128}$`)

// instance asks the metadata service in its second version, which a forged request from elsewhere can't reach.
func instance(p kek.Process, client *kek.Client) credentials {
	base := imdsHost
	if text := p.Getenv("AWS_EC2_METADATA_SERVICE_ENDPOINT"); text != "" {
		base = strings.TrimRight(text, "/")
	}
	const path = "/latest/meta-data/iam/security-credentials/"
	return func(ctx context.Context) (keys, error) {
		got, err := client.Ask(ctx, http.MethodPut, base+"/latest/api/token", http.Header{"X-Aws-Ec2-Metadata-Token-Ttl-Seconds": {"60"}}, nil)
		if err != nil {
			return keys{}, err
		}
		token := string(got.Body)
		if !got.Fine() || !secretForm.MatchString(token) {
			return keys{}, fmt.Errorf("the instance's metadata service gives no token (status %d)", got.Status)
		}
		header := func() http.Header { return http.Header{"X-Aws-Ec2-Metadata-Token": {token}} }
		if got, err = client.Ask(ctx, http.MethodGet, base+path, header(), nil); err != nil {
			return keys{}, err
		}
		name, _, _ := strings.Cut(strings.TrimSpace(string(got.Body)), "\n")
		if !got.Fine() || !roleForm.MatchString(name) {
			return keys{}, errors.New("the instance has no role: give it one, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
		}
		if got, err = client.Ask(ctx, http.MethodGet, base+path+name, header(), nil); err != nil {
			return keys{}, err
		}
		return role(got, "the instance's metadata service")
	}
}
