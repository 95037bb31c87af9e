"""What measures: how fast a server is behind the interceptor, as a ratio to the same server without it."""
