"""The study spec: its defaults, its round trip, and one helpful line for everything wrong with it."""

import pytest
import yaml

from studies.errors import SpecError
from studies.searches import SEARCHES
from studies.searches.p_sigmoid import PSigmoidOptions
from studies.spec import StudySpec

TEXT = """\
name: digits
model: {id: demo}
data: {path: heldout.jsonl}
search: {method: p-sigmoid, budgets: [0.1, 0.25], trials: 30}
"""


def test_parsed_spec_holds_every_default():
    spec = StudySpec.from_yaml(TEXT)
    assert spec.search == PSigmoidOptions(budgets=(0.1, 0.25), trials=30)
    assert spec.search.initial == 10
    assert (spec.goal.max_drop, spec.limits.hours, spec.workers.batch_size) == (0.01, None, 16)
    assert spec.goal.max_latency_ratio is None, "nothing is timed unless it is asked for"
    assert (spec.data.split.search, spec.data.split.seed, spec.data.metric) == (None, 0, None)


@pytest.mark.parametrize("method", sorted(SEARCHES))
def test_every_method_round_trips_resolved(method):
    data = {
        **yaml.safe_load(TEXT),
        "search": {"method": method},
        "limits": {"hours": 1},
        "goal": {"max_latency_ratio": 0.7},
    }
    spec = StudySpec.parse(data, "flags")
    text = spec.to_yaml()
    assert StudySpec.from_yaml(text) == spec
    assert StudySpec.from_yaml(text).to_yaml() == text
    assert "seed: 0" in text
    assert type(spec.search) is SEARCHES[method].Options


def test_loads_a_file(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(TEXT)
    assert StudySpec.load(path) == StudySpec.from_yaml(TEXT)
    with pytest.raises(SpecError, match=r"none\.yaml: cannot be read"):
        StudySpec.load(tmp_path / "none.yaml")


def test_ranker_may_be_text():
    spec = StudySpec.from_yaml(TEXT.replace("trials: 30", "ranker: 'attention:queries=all'"))
    assert spec.search.ranker.queries == "all"
    assert StudySpec.from_yaml(spec.to_yaml()) == spec


@pytest.mark.parametrize(("trials", "initial"), [(1, 1), (5, 2), (25, 10), (100, 10)])
def test_initial_is_resolved_from_trials(trials, initial):
    assert PSigmoidOptions(trials=trials).initial == initial


WRONG = {
    "trails: 30": r"spec\.yaml:4: unknown key 'search\.trails'; did you mean 'trials'\?",
    "initial: 99": r"spec\.yaml:4: search\.initial must not exceed trials: 99 > 25",
    "trials: '30'": r"spec\.yaml:4: search\.trials must be a valid integer, not '30'",
    "sampler: nsga2": r"spec\.yaml:4: search\.sampler must be 'skopt-ei', 'tpe', 'gp' or 'random'",
    "k_max: .nan": r"spec\.yaml:4: search\.k_max must be a finite number",
    "ranker: {type: attention, query: all}": r"unknown key 'search\.ranker\.query'; did you mean 'queries'\?",
    "ranker: magic": r"search\.ranker:? (ranker )?'magic' is not known",
}


@pytest.mark.parametrize("option", WRONG)
def test_wrong_option_is_one_line_with_its_key(option):
    check(TEXT.replace("trials: 30", option), WRONG[option])


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("p-sigmoid", "p-sigmod", r"search\.method 'p-sigmod' is not known \(did you mean 'p-sigmoid'\?\)"),
        ("method: p-sigmoid", "method: [p-sigmoid]", r"search\.method must be a text, such as fastv"),
        ("method: p-sigmoid, ", "", r"'search\.method' is missing \(known: fastv, g-search"),
        (TEXT, "name: digits", r"'search\.method' is missing \(known: fastv, g-search"),
        ("name: digits", "name: a/b", r"spec\.yaml:1: name must match pattern"),
        ("search: {", "serch: {", r"unknown key 'serch'; did you mean 'search'\?"),
        ("{id: demo}", "{id: demo, dtyp: float16}", r"unknown key 'model\.dtyp'; did you mean 'dtype'\?"),
        ("heldout.jsonl", "x, metric: exact", r"data\.metric: unknown metric 'exact'"),
        ("name: digits\n", "", r"'name' is missing"),
        (
            "name: digits",
            "name: digits\nworkers: {batch_size: '8'}",
            r"workers\.batch_size must be a valid integer",
        ),
        (
            "p-sigmoid, budgets: [0.1, 0.25], trials",
            "fastv, trials",
            r"\(known: layers, method, ranker, ratios, seed\)",
        ),
        *(
            ("name: digits", f"name: digits\ngoal: {{{goal}}}", rf"spec\.yaml:2: {message}")
            for goal, message in {
                "max_latency_ratio: 0": r"goal\.max_latency_ratio must be greater than 0, not 0",
                "max_latency_ratio: 1.5": r"goal\.max_latency_ratio must be less than or equal to 1, not 1\.5",
                "max_latency_ratio: '0.7'": r"goal\.max_latency_ratio must be a valid number, not '0\.7'",
                "max_latency_ratio: .nan": r"goal\.max_latency_ratio must be a finite number",
                "max_latncy_ratio: 0.7": r"unknown key 'goal\.max_latncy_ratio'; did you mean 'max_latency_ratio'\?",
            }.items()
        ),
        ("[0.1, 0.25]", "[0.1, 1.5]", r"search\.budgets\[1\] must be less than or equal to 1, not 1\.5"),
        ("trials: 30", "trials: [", r"spec\.yaml:4: not valid YAML"),
        (TEXT, "- 1", r"holds no keys"),
    ],
)
def test_wrong_spec_is_one_line_with_its_key(right, wrong, message):
    check(TEXT.replace(right, wrong), message)


def check(text, message):
    with pytest.raises(SpecError, match=message) as caught:
        StudySpec.from_yaml(text, "spec.yaml")
    assert "\n" not in str(caught.value)


def test_plain_values_name_the_source_without_a_line():
    data = {**yaml.safe_load(TEXT), "search": {"method": "fastv", "layer": [2]}}
    with pytest.raises(SpecError, match=r"^flags: unknown key 'search\.layer'; did you mean 'layers'\?"):
        StudySpec.parse(data, "flags")
