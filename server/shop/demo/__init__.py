"""``make demo``: the story of a lost reply, played against a real server and printed for a person to see.

``story`` holds the acts; ``stage`` prints them and keeps count of the promises; ``calls``, ``proxy``, ``process`` and
``ledger`` are what the acts are played with.
"""
