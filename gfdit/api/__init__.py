"""HTTP in front of a running system: OpenAI-compatible, one error shape, no knowledge of workers or of the scheduler's insides."""
