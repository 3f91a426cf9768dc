"""The one exception that users are meant to read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake of the user: shown as one message, without a traceback.

    The message says what was given, what is allowed and what to do next.
    """


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the nearest allowed word, or an empty string."""
    near = difflib.get_close_matches(given, list(allowed), n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""


def require_choice(key: str, given: str, allowed: Iterable[str]) -> None:
    """Raise `UserError` unless the value of an option is one of those allowed."""
    names = list(allowed)
    if given not in names:
        near = did_you_mean(given, names)
        raise UserError(f"{key}: got '{given}', expected one of {', '.join(names)}.{near}")


def first_line(error: BaseException) -> str:
    """Return an exception's type and the first line of its message, ``TypeError: …``."""
    return f"{type(error).__name__}: {error}".partition("\n")[0]
