"""What happened, told once per request: the Prometheus series and one JSON log line. Never prompt text, never a key."""
