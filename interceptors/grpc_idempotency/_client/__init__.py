"""The client's half: keys, and the interceptors that attach them."""
