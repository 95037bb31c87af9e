"""The client's half: keys, and the interceptors that add them to calls."""
