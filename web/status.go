package web

import (
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"tokenbroker/broker"
)

// maxWait is how long a request may wait for another status, in seconds.
const maxWait = 60

// linkStatus is GET /connect/LINK/status: how the consent goes on, for the chat's page, which has the link and no API key. It
// changes nothing, tells the consent's id and its status alone, and works after the link was used too. Pages of other origins
// than the client's can't read it, except that there is no such link.
func (w *Web) linkStatus(c echo.Context) error {
	r, h := c.Request(), c.Response().Header()
	h.Add("Vary", "Origin")
	query := r.URL.Query()
	wait, err := strconv.Atoi(query.Get("wait"))
	if query.Get("wait") != "" && err != nil || wait < 0 || wait > maxWait || len(query.Get("status")) > 32 {
		return w.show(c, areaStatus, badRequest)
	}
	limit := time.Duration(wait)*time.Second + w.cfg.PageTimeout
	ctx, cancel := w.begin(r.Context(), r, limit)
	defer cancel()
	// Longer than the server gives to others. It is the network's, so it is on the real clock; a writer without is a test's.
	_ = http.NewResponseController(c.Response()).SetWriteDeadline(time.Now().Add(limit))
	link := broker.NewSecret(c.Param("link"))
	var now broker.LinkStatus
	err = w.guess(c, func() (err error) {
		if !linkShape.MatchString(link.Reveal()) {
			return broker.Errorf(broker.CodeNotFound, "no such link")
		}
		now, err = w.cfg.Service.LinkStatus(ctx, link, broker.ConsentStatus(query.Get("status")), time.Duration(wait)*time.Second)
		return err
	})
	if origin := r.Header.Get("Origin"); readable(origin) && slices.Contains(now.Origins, origin) {
		h.Set("Access-Control-Allow-Origin", origin) // never with credentials: it depends on no cookie
	} else if broker.CodeOf(err) == broker.CodeNotFound {
		// A page must see this one, or it takes it for a network that fails and asks on, and each time counts as a miss of everybody who
		// shares its address. No client is known here, so whose page it is can't matter. It is the same answer for every link that is
		// not one, and says no more than any program is told: what keeps links from being guessed is their 192 secret bits, and the limiter,
		// which counted this miss before. Past its limit the answer is slow_down, which no page can read.
		h.Set("Access-Control-Allow-Origin", "*")
	}
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, statusAnswer{Consent: now.ConsentID, Status: now.Status})
}

// statusAnswer is all that a link tells.
type statusAnswer struct {
	Consent string               `json:"consent"`
	Status  broker.ConsentStatus `json:"status"`
}

// readable tells whether an origin is one that may be allowed: not what browsers send for pages without one.
func readable(origin string) bool { return origin != "" && origin != "null" && origin != "*" }

// errorAnswer is the shape of errors where no person reads them, as the API has it.
type errorAnswer struct {
	Error       broker.Code `json:"error"`
	Description string      `json:"error_description"`
	RequestID   string      `json:"request_id"`
}

// spoken are the errors where a program asks, by status: in words for developers.
var spoken = map[int]errorAnswer{
	http.StatusBadRequest:         {Error: broker.CodeInvalidRequest, Description: "wait must be an integer from 0 to 60, in seconds, and status the status that you know"},
	http.StatusForbidden:          {Error: broker.CodeAccessDenied, Description: "this request is not allowed here"},
	http.StatusNotFound:           {Error: broker.CodeNotFound, Description: "there is nothing here: a link can be asked about until an hour after its consent was over"},
	http.StatusMethodNotAllowed:   {Error: broker.CodeInvalidRequest, Description: "this address takes GET alone"},
	http.StatusTooManyRequests:    {Error: broker.CodeSlowDown, Description: "too many ask from here; come again later, or read without wait"},
	http.StatusServiceUnavailable: {Error: broker.CodeTemporarilyUnavailable, Description: "this can't be answered now; ask again"},
}

// showJSON answers with an outcome where a program asks.
func (w *Web) showJSON(c echo.Context, o outcome) error {
	a, ok := spoken[o.Status]
	if !ok {
		a = errorAnswer{Error: broker.CodeServerError, Description: "something went wrong here; ask again later"}
	}
	if w.cfg.RequestID != nil {
		a.RequestID = w.cfg.RequestID(c.Request())
	}
	return c.JSON(o.Status, a)
}
