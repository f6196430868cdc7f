package web

import "testing"

func TestCount(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0", 7: "7", 999: "999", 1000: "1,000", 123456: "123,456", 1234567: "1,234,567", 10000000: "10,000,000", 9876543210: "9,876,543,210", -999: "-999", -1234567: "-1,234,567",
	} {
		if got := count(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
