"""Values that the tests of the database store, and the process that they kill."""

import subprocess
import sys
from pathlib import Path

from db.owners import current_owner
from db.queue import claim
from db.session import Database
from db.studies import create_study
from db.values import DatasetRef, Lease, ModelRef, NewEvaluation, NewLatency

MODEL = ModelRef(fingerprint="f" * 64, reference="demo", architecture="LlavaForConditionalGeneration")
DATASET = DatasetRef(sha256="d" * 64, path="/data/heldout.jsonl", samples=4)
REPOSITORY = Path(__file__).parents[1]
PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


def sqlite_url(folder: Path, name="memory.db"):
    return f"sqlite:///{folder / name}"


def evaluation(key="k1", **changes) -> NewEvaluation:
    values = {
        "key": key,
        "model": MODEL,
        "dataset": DATASET,
        "split": "search",
        "metric": "exact_match",
        "pruning": {"ranker": {"type": "random", "seed": 0}, "keep_rates": [1.0, 0.5]},
        "tokens_per_layer": (144.0, 72.0),
        "accuracy": 0.75,
        "scores": (1.0, 1.0, 0.0, 1.0),
        "cost": {"decoder_ratio": 0.5},
        "seconds": 1.5,
        "worker": "worker-0",
    }
    return NewEvaluation(**{**values, **changes})


def latency(key="k1", **changes) -> NewLatency:
    values = {
        "key": key,
        "device": "cpu, 1 threads",
        "batch_size": 4,
        "rounds": 15,
        "ratio": 0.625,
        "low": 0.5,
        "high": 0.75,
        "times": {"prefill_ms": 5.0, "baseline_prefill_ms": 8.0},
    }
    return NewLatency(**{**values, **changes})


def make_study(database: Database, name="one", *, priority=0, **spec):
    spec = {"search": {"method": "fastv"}, **spec}
    return create_study(database, name, spec, model=MODEL, dataset=DATASET, priority=priority)


def leased(database: Database, name="one", seconds=60.0) -> Lease:
    make_study(database, name)
    return claim(database, name, owner=current_owner(), seconds=seconds)


def python(code: str, *arguments: str) -> subprocess.Popen:
    """Start `code` in a new interpreter that finds our packages; its output is text."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, cwd=REPOSITORY, text=True, **PIPES)
