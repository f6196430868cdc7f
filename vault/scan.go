package vault

import "math"

// scan reads a stored form from its begin on. What it returns shares the memory of the text. Behind something that can't be read it
// is bad and reads nothing more.
type scan struct {
	rest string
	bad  bool
}

func (r *scan) fail() {
	r.rest, r.bad = "", true
}

func (r *scan) byte() byte {
	if len(r.rest) == 0 {
		r.fail()
		return 0
	}
	b := r.rest[0]
	r.rest = r.rest[1:]
	return b
}

func (r *scan) uvarint() uint64 {
	var v uint64
	for shift := 0; shift < 64; shift += 7 {
		b := r.byte()
		if shift == 63 && b > 1 {
			break // more than 64 bits
		}
		v |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return v
		}
	}
	r.fail()
	return 0
}

func (r *scan) varint() int64 {
	u := r.uvarint()
	v := int64(u >> 1)
	if u&1 != 0 {
		v = ^v
	}
	return v
}

func (r *scan) text() string { return r.next(r.uvarint()) }

// next reads so many bytes.
func (r *scan) next(n uint64) string {
	if n > uint64(len(r.rest)) {
		r.fail()
		return ""
	}
	text := r.rest[:n]
	r.rest = r.rest[n:]
	return text
}

// count reads how many there are of something that takes at least so many bytes each.
func (r *scan) count(least int) int {
	n := r.uvarint()
	if n > math.MaxInt32 || int(n)*least > len(r.rest) {
		r.fail()
		return 0
	}
	return int(n)
}

// texts reads what appendTexts wrote behind before; nil if there are none.
func (r *scan) texts(before string) []string {
	n := r.count(2)
	if n == 0 {
		return nil
	}
	out := make([]string, n)
	for i := range out {
		out[i] = r.behind(before)
		before = out[i]
	}
	return out
}

// behind reads what appendBehind wrote.
func (r *scan) behind(before string) string {
	same, rest := r.uvarint(), r.text()
	if same > uint64(len(before)) {
		r.fail()
		return ""
	}
	if same == 0 {
		return rest
	}
	return before[:same] + rest
}

// texted reads what appendMap wrote.
func (r *scan) texted() map[string]string {
	n := r.count(2)
	out := make(map[string]string, n)
	for range n {
		key := r.text()
		out[key] = r.text()
	}
	return out
}
