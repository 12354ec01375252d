"""Warm starts: what an earlier study found best is tried first, where it fits."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from here_cluster import HereCluster
from synthetic_study import VISUAL, make_context, search, sub_study
from tiny_vlm import save_tiny_vlm

from db import studies
from db.session import Database
from searchsvc import executor
from searchsvc.cli.app import run
from searchsvc.controller import run_study
from searchsvc.warm_start import best_of
from studies.searches import SEARCHES
from studies.searches.g_search import GSearchOptions
from studies.searches.pareto import ParetoOptions


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("g-search", {"trials": 6, "stride": 2}),
        ("p-sigmoid", {"trials": 4, "budgets": (0.25, 0.5)}),
        ("topv", {"trials": 4}),
        ("pareto", {"trials": 12}),
    ],
)
def test_the_best_of_an_earlier_study_is_tried_first(method: str, options: dict[str, Any]) -> None:
    made = SEARCHES[method].Options(**options)
    earlier = search(made)
    found = best_of(earlier.storage, "study", method)
    assert found
    later = search(
        made.model_copy(update={"seed": 1}), storage=earlier.storage, name="later", try_first=found, seed=1
    )
    for suffix, params in found.items():
        if method == "pareto":
            front = {m.key for m in earlier.main if m.method == method and m.params in params}
            published = 5
            tried = [t.user_attrs["key"] for t in later.main.trials_of(method)][: published + len(params)]
            assert front <= set(tried)
        else:
            study = optuna.load_study(study_name=f"later/{suffix}", storage=later.storage)
            assert params[0] in [trial.params for trial in study.trials][: 2 + len(params)]


def test_the_first_few_of_a_front_are_spread_over_it() -> None:
    earlier = search(ParetoOptions(trials=40))
    (members,) = best_of(earlier.storage, "study", "pareto").values()
    assert len(members) >= 5
    dearest_first = sorted((member["flops"] for member in members), reverse=True)
    middle = dearest_first[(len(members) - 1) // 2]
    assert [member["flops"] for member in members[:3]] == [dearest_first[0], dearest_first[-1], middle]


def test_what_does_not_fit_is_passed_over() -> None:
    options = GSearchOptions(trials=4, stride=3)
    first = {"layer-02": [{"n": VISUAL + 1}, {"m": 3}, {"n": 17}], "layer-09": [{"n": 1}]}
    context = search(options, try_first=first)
    tried = [trial.params["n"] for trial in sub_study(context, "layer-02").trials]
    assert tried[:3] == [VISUAL, 0, 17]
    assert len(tried) == 4


def test_nothing_of_an_earlier_study_is_nothing_to_try() -> None:
    context = make_context()
    assert best_of(context.storage, "study", "pareto") == {}
    assert best_of(context.storage, "no study", "pareto") == {}


def test_a_study_is_created_from_an_earlier_one_of_its_model_and_method(
    tmp_path: Path,
    tiny_model: Path,
    tiny_manifest: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(executor, "Cluster", HereCluster)
    db = str(tmp_path / "x.db")

    def create(name: str, model: Path, *more: str, method: str = "p-sigmoid") -> int:
        given = [
            "--model",
            str(model),
            "--data",
            str(tiny_manifest),
            "--metric",
            "fidelity",
            "--batch-size",
            "4",
        ]
        return run(["study", "create", name, *given, "--method", method, *more, "--db", db])

    search_ = ["-O", "budgets=[0.5]", "-O", "trials=3"]
    assert create("early", tiny_model, *search_) == 0
    assert create("none", tiny_model, *search_, "--warm-start", "early") == 2
    assert "--warm-start early: it has found nothing yet" in capsys.readouterr().err
    with Database.open(f"sqlite:///{db}") as database:
        run_study(database, "early")
    assert create("late", tiny_model, *search_, "--warm-start", "early") == 0
    with Database.open(f"sqlite:///{db}") as database:
        run_study(database, "late")
        spec = studies.get_study(database, "late").spec
    (params,) = spec["search"]["try_first"]["k@b=0.5"]
    assert set(params) == {"k"}
    assert create("x", tiny_model, "--warm-start", "early", method="fastv") == 2
    assert "it is a p-sigmoid study, and this one searches by fastv" in capsys.readouterr().err
    assert create("x", save_tiny_vlm(tmp_path / "wide", layers=8, width=48), "--warm-start", "early") == 2
    assert "it searches another model" in capsys.readouterr().err
    assert create("x", tiny_model, "--warm-start", "earyl") == 2
    assert "early" in capsys.readouterr().err


def test_a_spec_may_say_what_to_try_first() -> None:
    options = ParetoOptions.model_validate({"method": "pareto", "try_first": {"pareto": [{"flops": 0.5}]}})
    assert options.try_first["pareto"] == [{"flops": 0.5}]
