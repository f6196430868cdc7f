package main

import (
	"strings"
	"testing"

	"tokenbroker/web"
)

func themed(t *testing.T, theme string, files map[string]string) (web.Theme, error) {
	t.Helper()
	cfg, err := load(t, minimal+"clients:\n  - id: acme-chat\n    tenant: acme\n    key_sha256: ["+goodDigest+"]\n    theme: "+theme+"\n", nil, files)
	if err != nil {
		return web.Theme{}, err
	}
	return cfg.Clients[0].Theme, nil
}

func TestThemeIsRead(t *testing.T) {
	const svg = `<svg xmlns="http://www.w3.org/2000/svg"/>`
	got, err := themed(t, `{logo: acme.svg, accent: "#7A3cc9"}`, map[string]string{"/etc/tb/acme.svg": svg})
	if err != nil {
		t.Fatal(err)
	}
	accent, err := web.ParseAccent("#7a3cc9")
	if err != nil || got.Accent != accent {
		t.Errorf("accent %+v, %v", got.Accent, err)
	}
	if got, err := themed(t, "{}", nil); err != nil || got.Accent != (web.Accent{}) {
		t.Errorf("an empty theme: %+v, %v", got, err)
	}
	for theme, says := range map[string]string{
		`{accent: "blue"}`:                  `config.yaml:8: clients[0].theme.accent must be a colour as #rrggbb, such as "#2257c9"`,
		"\n      accent: #2257c9":           "clients[0].theme.accent is empty; write the colour in quotes, for # begins a comment",
		`{logo: none.svg}`:                  "clients[0].theme.logo: the file cannot be read: file does not exist",
		`{logo: bad.svg}`:                   "clients[0].theme.logo: the file is an SVG with <script>",
		`{logo: big.png}`:                   "clients[0].theme.logo: the file has 30000 bytes, more than the 20480",
		`{logo: text}`:                      "clients[0].theme.logo: the file is none of PNG, WebP and SVG",
		`{color: "#2257c9"}`:                `unknown key "color" in clients[0].theme`,
		`acme`:                              "clients[0].theme must be a mapping",
		`{accent: ["#2257c9"]}`:             "clients[0].theme.accent must be a single value",
		`{accent: "#2257c9;}*{color:red}"}`: "clients[0].theme.accent must be a colour",
	} {
		_, err := themed(t, theme, map[string]string{
			"/etc/tb/bad.svg": strings.Replace(svg, "/>", "><script/></svg>", 1), "/etc/tb/big.png": strings.Repeat("x", 30000), "/etc/tb/text": "hello",
		})
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", theme, err)
		}
	}
}
