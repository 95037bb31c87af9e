"""Randomness that spreads load, and guards nothing.

It is apart from Python's shared generator: an embedder may seed that one, and every process of a fleet alike. The
delays of all of them would then fall together.
"""

import random

uniform = random.SystemRandom().uniform
"""Returns a random number between two bounds."""
