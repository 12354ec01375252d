"""Snapshots keep within their memory: measured on whole processes, whose numbers are the same."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc"),
]

#: what an allocator may keep for itself
SLACK = 16e6

PROGRAM = """\
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from pruners.rankers import AttentionRanker
from searchsvc.demo.data import write
from searchsvc.locations import model_location
from studies.data import read_manifest, split
from studies.evaluator import PlainEvaluator, ReplayEvaluator
from studies.records import EvaluationSettings
from studies.models import load
from studies.searches.base import with_rates
from studies.spec import ModelSpec

folder, limit = Path(sys.argv[1]), int(sys.argv[2])
chosen, _ = split(read_manifest(write(folder, search=64, test=1)), 64, 1, seed=0)
model, processor, _ = load(ModelSpec(id=model_location("demo")))
given = model, processor, chosen.samples, chosen.metric, EvaluationSettings(max_new_tokens=1)
evaluator = ReplayEvaluator(*given, cache_memory=limit) if limit else PlainEvaluator(*given)
for batch in range(len(evaluator.batches)):  # images take their memory now, and leave it to the rest
    evaluator.run(batch, None)
Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
records, held = [], 0
for layer in (3, 7, 11):
    for kept in (144, 20):
        pruning = with_rates(AttentionRanker(), [1.0] * layer + [kept / 144] * (12 - layer))
        for batch in range(len(evaluator.batches)):
            records += [(r.id, r.prediction, r.score, r.kl) for r in evaluator.run(batch, pruning)]
        held = max(held, evaluator.snapshots.held) if limit else 0
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
peak = 1024 * int(status["VmHWM"].split()[0])
print(json.dumps({"records": records, "held": held, "peak": peak}))
"""


def run(folder: Path, limit: int) -> dict[str, Any]:
    program = [sys.executable, "-c", PROGRAM, str(folder), str(limit)]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_quarter_of_the_memory_gives_the_same_numbers_and_is_not_exceeded(tmp_path: Path) -> None:
    plain, whole = run(tmp_path / "plain", 0), run(tmp_path / "whole", 10**10)
    assert whole["held"] > 40e6
    limit = whole["held"] // 4
    quarter = run(tmp_path / "quarter", limit)
    assert quarter["records"] == whole["records"] == plain["records"]
    assert limit / 2 < quarter["held"] <= limit
    assert quarter["peak"] <= plain["peak"] + limit + SLACK
    assert whole["held"] > limit + SLACK  # so the line above says something
