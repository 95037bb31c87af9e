"""Handlers that misbehave, on stores that fail: a campaign that composes them at random and checks what is promised.

``make misuse CASES=20000`` runs it; ``test_misuse.py`` is a short setting of it.
"""
