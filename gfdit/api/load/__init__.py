"""Drives a running server with requests in an open loop, and measures what its clients get. An HTTP client only."""
