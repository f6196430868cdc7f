package web

// glyphs are the drawings for what a connector is for, by the categories of the catalogue. One that is not here has no drawing,
// but its letter.
var glyphs = map[string]string{
	"accounting": "money", "calendar": "calendar", "cms": "documents", "communication": "chat", "contacts": "people", "crm": "crm",
	"database": "database", "design": "design", "developer": "code", "documents": "documents", "ecommerce": "shop", "email": "email",
	"files": "files", "forms": "forms", "knowledge-base": "documents", "marketing": "marketing", "media": "media", "productivity": "grid",
	"project-management": "tasks", "sales": "sales", "social": "people", "support": "support",
}
