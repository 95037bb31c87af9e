"""``make demo``: the story of a lost reply, run against real servers and printed.

``story`` has the acts; ``stage`` prints them and counts the promises; the acts use ``calls``, ``proxy``, ``process``,
``places`` and ``ledger``.
"""
