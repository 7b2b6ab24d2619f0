"""Whatever opens a transaction; nothing in this room knows a request."""
