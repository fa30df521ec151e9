"""The HTTP edge: one file per endpoint. No policy, no arithmetic."""
