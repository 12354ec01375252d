"""Fills a database with as many studies and evaluations as a bench wants, as the service writes them.

A few are written by the service's own functions; the database multiplies them.
"""

import json
import math
import random
from collections.abc import Iterator

import optuna
from optuna_dashboard import save_plotly_graph_object
from sqlalchemy import text

from db import results, studies
from db.models import Base, EvaluationRow, FrontRow, StudyRow
from db.owners import current_owner
from db.queue import claim, finish
from db.session import Database
from db.values import DatasetRef, ModelRef, NewEvaluation, NewFront, SampleSet
from pruners.rankers import UniformRanker
from searchsvc.figures import front_figure
from searchsvc.points import measured_in
from searchsvc.storage import optuna_storage
from studies.main_study import DIRECTIONS
from studies.measured import Costs, asked_attrs
from studies.searches.base import with_rates
from studies.spec import StudySpec

#: evaluations and trials of the study that is multiplied
PATTERNS = 64
LAYERS, VISUAL = 24, 576
#: rows that are written in one transaction
CHUNK = 50_000

MODEL = ModelRef(fingerprint="f" * 64, reference="llava-7b", architecture="LlavaForConditionalGeneration")
DATASET = DatasetRef(sha256="d" * 64, path="/data/heldout.jsonl", samples=1536)


def fill(database: Database, count: int, number: int, samples: int) -> Iterator[str]:
    """Make `number` studies with `count` evaluations and trials in all, `samples` scores each.

    Yields what has been filled in, so that the room it takes can be looked at: "evaluations", "trials".
    """
    rng = random.Random(0)
    _pattern(database, rng, samples)
    per_study = math.ceil(count / number)
    _multiply(database, number, *OUR_STUDIES)
    _multiply(database, count, *OUR_EVALUATIONS, per_study=per_study)
    yield "evaluations"
    _multiply(database, number, *OPTUNA_STUDIES)
    _multiply(database, count, *OPTUNA_TRIALS, per_study=per_study)
    yield "trials"


def _copied(table: type[Base], *without: str) -> str:
    """The names of a table's columns but some, as SQL lists them."""
    return ", ".join(column.name for column in table.__table__.columns if column.name not in without)


NUMBERS = """
    WITH RECURSIVE numbers(n) AS
        (SELECT CAST(:first AS INTEGER) UNION ALL SELECT n + 1 FROM numbers WHERE n < :last)
"""
#: What is inserted for every number n from :first to :last. The pattern's own rows are numbered from 1.
OUR_STUDIES = (
    f"""
    INSERT INTO ss_studies (id, name, {_copied(StudyRow, "id", "name")})
    SELECT n + 2, 'study-' || n, {_copied(StudyRow, "id", "name")} FROM numbers JOIN ss_studies ON id = 1
    """,
    f"""
    INSERT INTO ss_fronts (id, study_id, {_copied(FrontRow, "id", "study_id")})
    SELECT n + 2, n + 2, {_copied(FrontRow, "id", "study_id")} FROM numbers JOIN ss_fronts ON id = 1
    """,
)
OUR_EVALUATIONS = (
    f"""
    INSERT INTO ss_evaluations (id, key, {_copied(EvaluationRow, "id", "key")})
    SELECT n + 1 + {PATTERNS}, '{"e" * 54}' || (1000000000 + n), {_copied(EvaluationRow, "id", "key")}
    FROM numbers JOIN ss_evaluations ON id = 1 + n % {PATTERNS}
    """,
    f"""
    INSERT INTO ss_study_evaluations (study_id, evaluation_id, cached)
    SELECT n / :per_study + 2, n + 1 + {PATTERNS}, cached
    FROM numbers JOIN ss_study_evaluations ON evaluation_id = 1
    """,
)
OPTUNA_STUDIES = (
    "INSERT INTO studies (study_id, study_name) SELECT n + 2, 'study-' || n FROM numbers",
    """
    INSERT INTO study_directions (direction, study_id, objective)
    SELECT direction, n + 2, objective FROM numbers JOIN study_directions ON study_id = 1
    """,
    """
    INSERT INTO study_system_attributes (study_id, key, value_json)
    SELECT n + 2, key, value_json FROM numbers JOIN study_system_attributes ON study_id = 1
    """,
)
OPTUNA_TRIALS = (
    f"""
    INSERT INTO trials (trial_id, number, study_id, state, datetime_start, datetime_complete)
    SELECT n + 1 + {PATTERNS}, n % :per_study, n / :per_study + 2, state, datetime_start, datetime_complete
    FROM numbers JOIN trials ON trial_id = 1 + n % {PATTERNS}
    """,
    *(
        f"""
        INSERT INTO {table} (trial_id, {columns}) SELECT n + 1 + {PATTERNS}, {columns}
        FROM numbers JOIN {table} ON trial_id = 1 + n % {PATTERNS}
        """
        for table, columns in (
            ("trial_values", "objective, value, value_type"),
            ("trial_params", "param_name, param_value, distribution_json"),
            ("trial_user_attributes", "key, value_json"),
        )
    ),
)


def _multiply(database: Database, count: int, *inserts: str, **values: int) -> None:
    """Run the inserts for the numbers from 0 to `count` - 1, in chunks."""
    for first in range(0, count, CHUNK):
        bounds = {"first": first, "last": min(count, first + CHUNK) - 1}
        for insert in inserts:
            into, select = insert.split("SELECT", 1)
            used = {name: value for name, value in values.items() if f":{name}" in insert}
            with database.begin() as session:
                session.execute(text(f"{into} {NUMBERS} SELECT {select}"), bounds | used)


def study_name(number: int) -> str:
    """Return the name of the study of that number, from 0."""
    return f"study-{number}"


def _pattern(database: Database, rng: random.Random, samples: int) -> None:
    """One study as the service makes it, with `PATTERNS` evaluations."""
    spec = StudySpec.parse(
        {
            "name": "pattern",
            "model": {"id": MODEL.reference},
            "data": {"path": DATASET.path, "metric": "anls", "split": {"search": samples, "test": 1024}},
            "search": {"method": "pareto", "trials": PATTERNS},
        },
        "bench",
    )
    studies.create_study(database, spec.name, spec.model_dump(mode="json"), model=MODEL, dataset=DATASET)
    lease = claim(database, spec.name, owner=current_owner(), seconds=3600)
    trials = [_trial(rng, samples, pruned=number > 0) for number in range(PATTERNS)]
    split = SampleSet(
        ids=tuple(f"search-{n:05}" for n in range(samples)),
        visual_tokens=(VISUAL,) * samples,
        text_tokens=tuple(rng.randint(20, 90) for _ in range(samples)),
    )
    for trial in trials:
        results.save_evaluation(database, _evaluation(rng, trial, split), lease=lease)
    study = optuna.create_study(
        study_name=spec.name, storage=optuna_storage(database), directions=list(DIRECTIONS)
    )
    study.add_trials(trials)
    points = measured_in(study)
    save_plotly_graph_object(study, front_figure(points, "front"), graph_object_id="front")
    members = tuple(
        {"trial": p.number, "accuracy": p.accuracy, "flops_ratio": p.flops_ratio} for p in points[:20]
    )
    front = NewFront(
        split="search", reason="study ended", points=members, hypervolume=0.5, reference=(1.0, 0.0)
    )
    results.save_front(database, lease, front)
    finish(database, lease, "done")


def _trial(rng: random.Random, samples: int, *, pruned: bool) -> optuna.trial.FrozenTrial:
    rates = sorted((rng.uniform(0.1, 1.0) if pruned else 1.0 for _ in range(LAYERS)), reverse=True)
    pruning = with_rates(UniformRanker(), rates) if pruned else None
    share = sum(rates) / LAYERS
    costs = Costs(
        decoder_ratio=share,
        kv_ratio=share,
        vision_token_ratio=share,
        tokens_per_layer=[VISUAL * r for r in rates],
    )
    params = {"flops": share, "depth": rng.random(), "steepness": rng.random()}
    attrs = asked_attrs(
        "pareto", "pareto: flops", f"{rng.getrandbits(256):064x}", pruning, costs, samples, "search"
    )
    return optuna.create_trial(
        values=[1 - math.exp(-9 * share * rng.uniform(0.8, 1.0)), share],
        params=params,
        distributions={name: optuna.distributions.FloatDistribution(0.0, 1.0) for name in params},
        user_attrs=attrs,
    )


def _evaluation(rng: random.Random, trial: optuna.trial.FrozenTrial, split: SampleSet) -> NewEvaluation:
    schedule = trial.user_attrs["schedule"]
    return NewEvaluation(
        key=trial.user_attrs["key"],
        model=MODEL,
        dataset=DATASET,
        split="search",
        metric="anls",
        pruning=json.loads(schedule["pruning"] or "null"),
        tokens_per_layer=tuple(schedule["tokens_per_layer"]),
        accuracy=trial.values[0],
        # as scores are: right, wrong, or nearly right
        scores=tuple(rng.choice((0.0, 1.0, 1.0, 1.0, round(rng.uniform(0.5, 1.0), 3))) for _ in split.ids),
        divergences=tuple(rng.expovariate(9.0) for _ in split.ids),
        predictions=tuple(f"{rng.randint(0, 9999)}.{rng.randint(0, 99):02}" for _ in split.ids),
        cost={
            name: schedule.get(name, trial.values[1])
            for name in ("decoder_ratio", "kv_ratio", "vision_token_ratio")
        },
        seconds=rng.uniform(5, 60),
        worker="8 workers on gpu-1",
        samples=split,
    )
