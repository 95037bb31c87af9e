"""The server's half: what both kinds of server have in common."""
