"""Faults done on purpose to a real system under load, and what became of its requests: `gfdit bench faults`."""
