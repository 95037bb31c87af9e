"""The failures of the command. Each is told in one line."""


class Failed(Exception):
    """The command could not do what it was asked for. Exit code 1."""


class Misused(Exception):
    """The command line asks for something that can't be. Exit code 2."""
