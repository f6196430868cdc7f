package awskms_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"tokenbroker/vault/kek"
	"tokenbroker/vault/kek/awskms"
	"tokenbroker/vault/kek/kektest"
)

const arn = "arn:aws:kms:eu-central-1:123456789012:key/0f6e2b6c-8d43-4b3e-9a55-5b7ce8a3d9aa"

func process(env, files map[string]string) kek.Process {
	p := kek.Process{Now: time.Now, Timeout: time.Second}
	p.Getenv, p.ReadFile = kektest.Process(env, files)
	return p
}

func TestWraps(t *testing.T) {
	s := kektest.Start(t)
	key, err := awskms.New("aws-kms://"+arn, process(map[string]string{"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI", "AWS_ENDPOINT_URL_KMS": s.URL()}, nil))
	if err != nil {
		t.Fatal(err)
	}
	kektest.Wraps(t, key)
	kektest.Fails(t, s, key)
}

// TestRefusals: what AWS names a refusal, and which of them passes by itself.
func TestRefusals(t *testing.T) {
	s := kektest.Start(t)
	key, err := awskms.New("aws-kms:"+arn, process(map[string]string{"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI", "AWS_ENDPOINT_URL": s.URL()}, nil))
	if err != nil {
		t.Fatal(err)
	}
	for body, want := range map[string]string{
		`{"__type":"ThrottlingException","message":"Rate exceeded"}`:              "can't be asked now",
		`{"__type":"com.amazonaws.kms#KeyUnavailableException"}`:                  "can't be asked now",
		`{"__type":"AccessDeniedException","Message":"User: arn:... canary"}`:     "kms:Decrypt",
		`{"__type":"DisabledException"}`:                                          "disabled",
		`{"__type":"Weird canary <b>"}`:                                           "status 400)",
		`{"__type":"com.amazonaws.kms#IncorrectKeyException","message":"canary"}`: "another key",
	} {
		answer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(400)
			_, _ = io.WriteString(w, body)
		})
		s.Answer.Store(&answer)
		if _, err := key.Decrypt([]byte("x"), nil); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", body, err)
		}
	}
}

// TestCredentials runs each source against what it answers, by the shapes of its reference.
func TestCredentials(t *testing.T) {
	const id, secret, session = "ASIAEXAMPLE", "secretkeycanary", "session-token-canary"
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPost && r.FormValue("Action") == "AssumeRoleWithWebIdentity" && r.FormValue("WebIdentityToken") == "jwt.jwt.jwt" && r.FormValue("RoleArn") == "arn:aws:iam::1:role/tb":
			_, _ = io.WriteString(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials><SessionToken>`+session+`</SessionToken><SecretAccessKey>`+secret+`</SecretAccessKey><Expiration>2026-11-30T12:00:00Z</Expiration><AccessKeyId>`+id+`</AccessKeyId></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`)
		case r.URL.Path == "/v1/credentials" && r.Header.Get("Authorization") == "agent-token":
			_, _ = io.WriteString(w, `{"AccessKeyId":"`+id+`","SecretAccessKey":"`+secret+`","Token":"`+session+`","Expiration":"2026-11-30T12:00:00Z"}`)
		case r.Method == http.MethodPut && r.URL.Path == "/latest/api/token" && r.Header.Get("X-Aws-Ec2-Metadata-Token-Ttl-Seconds") != "":
			_, _ = io.WriteString(w, "imds-token")
		case r.Header.Get("X-Aws-Ec2-Metadata-Token") != "imds-token":
			w.WriteHeader(401)
		case r.URL.Path == "/latest/meta-data/iam/security-credentials/":
			_, _ = io.WriteString(w, "tb-role\n")
		case r.URL.Path == "/latest/meta-data/iam/security-credentials/tb-role":
			_, _ = io.WriteString(w, `{"Code":"Success","AccessKeyId":"`+id+`","SecretAccessKey":"`+secret+`","Token":"`+session+`"}`)
		default:
			w.WriteHeader(404)
		}
	}))
	defer source.Close()
	s := kektest.Start(t)
	seen := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.Header.Get("Authorization"), "Credential="+id+"/") || r.Header.Get("X-Amz-Security-Token") != session || !strings.Contains(r.Header.Get("Authorization"), "x-amz-security-token") {
			w.WriteHeader(403)
			return
		}
		_, _ = io.WriteString(w, `{"Plaintext":"a2V5"}`)
	})
	s.Answer.Store(&seen)
	for name, env := range map[string]map[string]string{
		"environment": {"AWS_ACCESS_KEY_ID": id, "AWS_SECRET_ACCESS_KEY": secret, "AWS_SESSION_TOKEN": session},
		"pod":         {"AWS_WEB_IDENTITY_TOKEN_FILE": "/jwt", "AWS_ROLE_ARN": "arn:aws:iam::1:role/tb", "AWS_ENDPOINT_URL_STS": source.URL},
		"container":   {"AWS_CONTAINER_CREDENTIALS_FULL_URI": source.URL + "/v1/credentials", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "/agent"},
		"instance":    {"AWS_EC2_METADATA_SERVICE_ENDPOINT": source.URL + "/"},
	} {
		t.Run(name, func(t *testing.T) {
			env["AWS_ENDPOINT_URL_KMS"] = s.URL()
			key, err := awskms.New("aws-kms://"+arn, process(env, map[string]string{"/jwt": "jwt.jwt.jwt\n", "/agent": "agent-token\n"}))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := key.Decrypt([]byte("x"), []byte("ad")); err != nil || string(got) != "key" {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	for name, env := range map[string]map[string]string{
		"bad secret":     {"AWS_ACCESS_KEY_ID": id, "AWS_SECRET_ACCESS_KEY": "with\nnewline-canary"},
		"nothing":        {"AWS_EC2_METADATA_DISABLED": "true"},
		"role missing":   {"AWS_WEB_IDENTITY_TOKEN_FILE": "/jwt"},
		"agent anywhere": {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://evil.example.com/v1"},
		"odd endpoint":   {"AWS_ACCESS_KEY_ID": id, "AWS_SECRET_ACCESS_KEY": secret, "AWS_ENDPOINT_URL_KMS": "http://kms.example.com"},
	} {
		if _, err := awskms.New("aws-kms://"+arn, process(env, nil)); err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestURIs(t *testing.T) {
	env := process(map[string]string{"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI"}, nil)
	for _, uri := range []string{"aws-kms://" + arn, "aws-kms:" + arn, "aws-kms://arn:aws-cn:kms:cn-north-1:123456789012:alias/tokenbroker/prod", "aws-kms://arn:aws-us-gov:kms:us-gov-west-1:123456789012:key/mrk-1234"} {
		if _, err := awskms.New(uri, env); err != nil {
			t.Errorf("%s: %v", uri, err)
		}
	}
	for _, uri := range []string{"aws-kms:", "aws-kms://key", "aws-kms://alias/x", "aws-kms://arn:aws:s3:eu-central-1:123456789012:key/x", "aws-kms://arn:aws:kms:evil.com/:123456789012:key/x", "aws-kms://arn:aws:kms:eu-central-1:12:key/x", "aws-kms://arn:aws-iso:kms:us-iso-east-1:123456789012:key/x"} {
		if _, err := awskms.New(uri, env); err == nil {
			t.Errorf("%s is taken", uri)
		}
	}
}
