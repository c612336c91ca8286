"""The scheduler: pure, clockless, deterministic. Imports only units, errors and numpy."""
