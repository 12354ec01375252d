"""The searches by name: the keys of `SEARCHES` are the `method`s of a spec."""

from typing import Any

from studies.searches.base import Search, SearchOptions
from studies.searches.fastv import FastVOptions, FastVSearch
from studies.searches.g_search import GSearch, GSearchOptions
from studies.searches.p_sigmoid import PSigmoidOptions, PSigmoidSearch
from studies.searches.pareto import ParetoOptions, ParetoSearch
from studies.searches.pdrop import PyramidDropOptions, PyramidDropSearch
from studies.searches.random import RandomOptions, RandomSearch
from studies.searches.topv import TopvOptions, TopvSearch
from studies.searches.vtw import VTWOptions, VTWSearch

__all__ = ["OPTIONS", "SEARCHES", "Search", "SearchOptions", "make_search"]

SEARCHES: dict[str, type[Search[Any]]] = {
    search.name: search
    for search in (
        GSearch,
        PSigmoidSearch,
        TopvSearch,
        FastVSearch,
        PyramidDropSearch,
        VTWSearch,
        RandomSearch,
        ParetoSearch,
    )
}

#: every search's options, told apart by `method`
OPTIONS = (
    GSearchOptions
    | PSigmoidOptions
    | TopvOptions
    | FastVOptions
    | PyramidDropOptions
    | VTWOptions
    | RandomOptions
    | ParetoOptions
)


def make_search(options: SearchOptions) -> Search[Any]:
    """Return the search that these options belong to."""
    return SEARCHES[options.method](options)
