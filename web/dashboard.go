package web

import (
	"net/http"

	"github.com/labstack/echo/v4"
)

// dashboardOff says what to do where no login token is configured.
func (w *Web) dashboardOff(c echo.Context) error {
	v := offPage{frame: w.frame(c, areaDashboard)}
	v.Title = "The dashboard is not enabled"
	return w.render(c, http.StatusNotFound, "off", v)
}

type offPage struct{ frame }
