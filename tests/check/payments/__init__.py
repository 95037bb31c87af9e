"""Servers of one service, guarded in many ways, each in a process of its own."""
