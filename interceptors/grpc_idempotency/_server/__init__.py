"""The server's half of the library, and the part that both wings share."""
