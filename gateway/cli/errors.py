"""What ends a command with a message instead of a traceback."""


class CommandError(Exception):
    """An expected failure; its text tells the user what is wrong and what to do about it."""
