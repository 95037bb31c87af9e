"""Random numbers that spread load. They are not for security.

Python's shared generator is not used: an embedder may seed it, with the same seed in every process. The delays of all
these processes would then be the same.
"""

import random

uniform = random.SystemRandom().uniform
"""Returns a random number between two bounds."""
