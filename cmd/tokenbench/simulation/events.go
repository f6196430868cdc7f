package simulation

// event is something that happens at a moment of virtual time, in milliseconds.
type event struct {
	at    int64
	order int64 // of two at the same moment the one that was planned first comes first
	kind  kind
	conn  int32
	stamp int32 // of an early refresh: the token that it was planned for
}

type kind uint8

const (
	ask   kind = iota // a caller asks for a token
	due               // a grant is due for an early refresh
	serve             // the provider takes the next one of its queue
)

// agenda is what will happen, a binary heap. container/heap would box each event; there are some millions.
type agenda struct {
	list  []event
	count int64
}

func before(a, b event) bool { return a.at < b.at || a.at == b.at && a.order < b.order }

func (a *agenda) add(e event) {
	a.count++
	e.order = a.count
	a.list = append(a.list, e)
	for i := len(a.list) - 1; i > 0; {
		parent := (i - 1) / 2
		if !before(a.list[i], a.list[parent]) {
			return
		}
		a.list[i], a.list[parent] = a.list[parent], a.list[i]
		i = parent
	}
}

// next removes the earliest; false: nothing is left.
func (a *agenda) next() (event, bool) {
	if len(a.list) == 0 {
		return event{}, false
	}
	first, last := a.list[0], len(a.list)-1
	a.list[0] = a.list[last]
	a.list = a.list[:last]
	for i := 0; ; {
		child := 2*i + 1
		if child >= last {
			break
		}
		if child+1 < last && before(a.list[child+1], a.list[child]) {
			child++
		}
		if !before(a.list[child], a.list[i]) {
			break
		}
		a.list[i], a.list[child] = a.list[child], a.list[i]
		i = child
	}
	return first, true
}
