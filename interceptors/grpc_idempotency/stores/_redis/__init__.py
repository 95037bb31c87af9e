"""The Redis store (6.2): packed values, Lua scripts with the server's clock, and pipelined writers."""
