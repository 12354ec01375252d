"""Where benches print."""

from rich.console import Console


def console(width: int = 120) -> Console:
    """Return one as wide as the terminal, or `width` where there is none: what a README shows."""
    return Console(width=None if Console().is_terminal else width)
