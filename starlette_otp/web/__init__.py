"""Whatever knows a request: who it is, who may pass, the forms and the pages."""
