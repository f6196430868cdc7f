//go:build kms

package awskms_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"tokenbroker/vault/kek/awskms"
	"tokenbroker/vault/kek/kektest"
)

// TestLocalKMS asks an emulator of AWS KMS that others wrote.
func TestLocalKMS(t *testing.T) {
	url := kektest.StartProgram(t, "aws", t.TempDir())
	req, err := http.NewRequest(http.MethodPost, url+"/", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = http.Header{"Content-Type": {"application/x-amz-json-1.1"}, "X-Amz-Target": {"TrentService.CreateKey"}}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var made struct{ KeyMetadata struct{ Arn string } }
	if err := json.NewDecoder(resp.Body).Decode(&made); err != nil || made.KeyMetadata.Arn == "" {
		t.Fatalf("no key: %v", err)
	}
	env := map[string]string{"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI", "AWS_ENDPOINT_URL_KMS": url}
	key, err := awskms.New("aws-kms://"+made.KeyMetadata.Arn, process(env, nil))
	if err != nil {
		t.Fatal(err)
	}
	kektest.Wraps(t, key)
	absent, err := awskms.New("aws-kms://arn:aws:kms:eu-west-1:111122223333:key/00000000-0000-0000-0000-000000000000", process(env, nil))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := absent.Encrypt([]byte("x"), nil); err == nil || !strings.Contains(err.Error(), "no such key") {
		t.Errorf("a key that is not there: %v", err)
	}
}
