"""How a method looks, the same in every picture. Apart from the pictures: matplotlib takes long to import."""

from typing import NamedTuple


class Style(NamedTuple):
    """A colour, and matplotlib's name of a mark."""

    colour: str
    mark: str


_STYLES = {
    "baseline": Style("#111111", "*"),
    "random": Style("#9e9e9e", "x"),
    "uniform": Style("#5f7d95", "+"),
    "fastv": Style("#e07b39", "s"),
    "pdrop": Style("#b8860b", "D"),
    "vtw": Style("#8c564b", "v"),
    "topv": Style("#7b52ab", "P"),
    "p-sigmoid": Style("#2a7fb8", "o"),
    "g-search": Style("#c8324b", "^"),
    "pareto": Style("#2e8b57", "h"),
}


def style(method: str) -> Style:
    """Return the method's own, or one for methods that have none."""
    return _STYLES.get(method, Style("#555555", "."))
