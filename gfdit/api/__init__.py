"""HTTP in front of a running system: OpenAI-compatible, one error shape. Knows neither workers nor the scheduler."""
