"""``make demo``: the story of a lost reply, run against real servers and printed.

``story`` has the acts, with ``payments`` and ``doubt``. ``stage`` prints them and counts the promises. ``scene`` has
what the acts share. They use ``calls``, ``proxy``, ``process``, ``places``, ``provider`` and ``ledger``; ``till`` is a
server of its own.
"""
