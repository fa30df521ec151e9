"""Bytes to and from providers. Nothing is sent without a reservation."""
