"""The calls of the contract, written once for asyncio and once for threads, for any engine that takes requests.

A store inherits its calls from ``aio`` or ``sync`` and adds its settings, ``open`` and ``close``. Its engine receives
each call as one of the request types in ``requests``.
"""
