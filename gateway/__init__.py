"""Paymaster: an LLM gateway that any agent SDK can be pointed at."""

__version__ = "0.1.0"
