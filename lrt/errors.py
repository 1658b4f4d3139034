"""What a user can fix, as distinct from faults of the program.

The command line prints a `UserError` without a traceback. Everything else keeps its traceback.
"""

from __future__ import annotations


class UserError(Exception):
    """Something that the user can fix: the message says what is wrong, what is allowed and what to do."""


class InvalidValue(UserError, ValueError):
    """A setting, an argument or a file's content that cannot be used."""
