package web

import (
	"errors"

	"tokenbroker/broker"
)

// boardWords are what a page of the dashboard says instead of a user's words: whoever works here can read what the broker says of an
// error, which is safe to show, and knows where to look when its store is away.
type boardWords struct{ Title, Text, Next string }

// boardTrouble is an error in an operator's words; sent: a form was. What is not found stays as it is: its answer is always the same.
func boardTrouble(err error, o outcome, sent bool) boardWords {
	var public *broker.Error
	if !errors.As(err, &public) {
		public = &broker.Error{}
	}
	said := plainWhole(asSentence(public.Description))
	switch {
	case o.Key == busy.Key:
		words := boardWords{
			"The broker's store does not answer", "Redis can't be used, or is too slow: nothing can be shown or done without it.",
			"Ask /readyz at the ops_listen of a replica: it says what is wrong, and what mends it. It goes on by itself, and nothing needs a restart.",
		}
		if sent {
			words.Next += " Whether what you sent was done is not known: look before you send it again."
		}
		return words
	case said == "":
	case public.Code == broker.CodeAccessDenied:
		next := "Your roles are under Your sign-in, at the top right of each page."
		if sent {
			next = "Nothing was done. Load the page again and repeat it there; what your roles are is under Your sign-in."
		}
		return boardWords{"That was refused", said, next}
	case public.Code == broker.CodeInvalidRequest:
		return boardWords{"That can't be carried out", said, "Go back and correct it."}
	}
	return boardWords{}
}
