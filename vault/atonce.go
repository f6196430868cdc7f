package vault

import "sync"

// fewAtOnce is how many pieces of background work go on at the same time: more would be felt by those who wait for an answer.
const fewAtOnce = 8

// atOnce does the pieces 0 to n-1, most of them at the same time, and returns the error of each when all are done.
func atOnce(n, most int, do func(i int) error) []error {
	errs := make([]error, n)
	places := make(chan struct{}, most)
	var group sync.WaitGroup
	for i := range n {
		places <- struct{}{}
		group.Go(func() {
			defer func() { <-places }()
			errs[i] = do(i)
		})
	}
	group.Wait()
	return errs
}
