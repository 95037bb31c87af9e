"""Benchmarks: the speed of a server with the interceptor, as a ratio to the same server without it."""
