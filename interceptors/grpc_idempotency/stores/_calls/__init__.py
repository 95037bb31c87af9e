"""The calls of the contract, written once for asyncio and once for threads, over any engine that takes requests.

A store inherits its calls from ``aio`` or ``sync`` and adds its settings, ``open`` and ``close``. Its engine gets each
call as one of the values in ``requests``.
"""
