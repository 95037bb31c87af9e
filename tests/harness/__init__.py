"""What tests of the interceptors share: real servers of every kind, clients that see whole replies, failing stores."""
