"""What can be wrong with a profile, a model or a call; every message is one line that says what to do."""

import difflib
from collections.abc import Iterable


class PruningError(Exception):
    """Anything that this package refuses; catch it to catch all of the classes below."""


class ProfileError(PruningError):
    """A profile, schedule or ranker that cannot be used: the message names file, key and remedy."""


class UnsupportedModelError(PruningError):
    """A model whose structure this package does not know."""


class UnsupportedCallError(PruningError):
    """A call of a pruned model that would give wrong results, and is refused instead."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one if there is any, and all of them.

    >>> suggestion("fastw", ["fastv", "vtw"])
    "; did you mean 'fastv'? (known: fastv, vtw)"
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"{hint} (known: {', '.join(names)})"
