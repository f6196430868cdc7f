package main

import "tokenbroker/web"

// theme reads how the pages look for a client's users. A logo is read and checked now: what is wrong with it should be said to the
// operator, not be seen by users.
func (o object) theme() web.Theme {
	n := o.get("theme")
	if n == nil {
		return web.Theme{}
	}
	t, ok := o.s.object(n, o.at("theme"), "logo", "accent")
	if !ok {
		return web.Theme{}
	}
	var theme web.Theme
	if _, text, given := t.scalar("accent"); given {
		var err error
		if theme.Accent, err = web.ParseAccent(text); err != nil {
			t.fail("accent", "", t.get("accent"), "%s", err)
		}
	} else if n := t.values["accent"]; n != nil && t.get("accent") == nil {
		t.fail("accent", "", n, "is empty; write the colour in quotes, for # begins a comment: accent: \"#2257c9\"")
	}
	if data, given := t.file("logo"); given {
		var err error
		if theme.Logo, err = web.ParseLogo(data); err != nil {
			t.fail("logo", ":", t.get("logo"), "the file %s", err)
		}
	}
	return theme
}
