"""The policy of each method, from settings, from its proto and from its name."""
