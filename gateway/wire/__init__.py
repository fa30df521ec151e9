"""Wire formats, sans-IO: bytes in, requests, events and usage out. No await, no clock, no policy."""
