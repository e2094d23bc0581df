"""What perpbt raises. Every message names the place (file, column, row or key), the value and the allowed
range.
"""

from __future__ import annotations


class PerpbtError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line returns."""

    exit_code = 1


class InputError(PerpbtError, ValueError):
    """Something the user gave is wrong: a file, a column, a value, a key, an account, a strategy, a venue."""

    exit_code = 2


class RunError(PerpbtError, RuntimeError):
    """A run that started could not be finished correctly, for example a broken conservation law."""

    exit_code = 1
