"""`pruners` alone: a profile loads and prunes in a process that has none of the other packages."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

PROFILE = """\
schema: searchsvc/pruning-profile/v1
name: half
model: {id: tiny, architecture: LlavaForConditionalGeneration, num_layers: 6, hidden_size: 32}
ranker: {type: attention}
schedule: {keep_rates: [1, 1, 0.5, 0.5, 0.25, 0.25]}
"""

#: Begins a program in which none of the other packages, nor what they need, can be imported.
ALONE = """\
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"optuna", "ray", "sqlalchemy", "skopt", "studies", "db", "searchsvc"}:
            raise ImportError(f"{name} is not there")

sys.meta_path.insert(0, Absent())
"""

PROGRAM = """\
sys.path[:0] = [sys.argv[1], sys.argv[2]]
import pruners
assert "torch" not in sys.modules, "importing pruners alone loads torch"
import torch
from tiny_models import ONE, batch, tiny_llava

model = tiny_llava()
profile = pruners.PruningProfile.load(sys.argv[3])
with pruners.pruned(model, profile) as handle:
    model.generate(**batch(model, ONE), max_new_tokens=2, do_sample=False)
print([len(layer[0]) for layer in handle.trace.kept])
"""


def test_a_profile_prunes_without_the_other_packages(tmp_path: Path) -> None:
    path = tmp_path / "half.yaml"
    path.write_text(PROFILE)
    command = [sys.executable, "-c", ALONE + PROGRAM, str(ROOT), str(ROOT / "tests"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[25, 25, 17, 17, 13, 13]"
