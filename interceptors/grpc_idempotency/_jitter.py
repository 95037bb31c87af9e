"""Random numbers that spread load. They are not for security.

Python's shared generator is not used: an embedder may seed it, with the same seed in every process. The delays of all
these processes would then be the same.
"""

import random

_random = random.SystemRandom()

uniform = _random.uniform
"""Returns a random number between two bounds."""

choice = _random.choice
"""Returns a random element of a sequence."""
