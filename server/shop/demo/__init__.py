"""``make demo``: the story of a lost reply, run against a real server and printed.

``story`` has the acts; ``stage`` prints them and counts the promises; the acts use ``calls``, ``proxy``, ``process``
and ``ledger``.
"""
