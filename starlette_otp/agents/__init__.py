"""Trusted browsers: what a request's browser is to its user, made and ended."""
