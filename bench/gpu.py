"""The prefill bench with the sizes of published models, random bfloat16 weights, on the GPU at hand.

    python -m bench.gpu                                   # every model that fits, batch 1 and 8
    python -m bench.gpu --model InternVL2-2B --batch 1
    python -m bench.gpu --tiny --out somewhere            # runs to its end on any CPU, in seconds; no figures

Writes bench/results/<device>.json and prints tables. SDPA always; FlashAttention 2 where it is installed.
"""

import argparse
import gc
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers.utils import is_flash_attn_2_available

from bench.measurement import Row, Setting, bench, record, show
from bench.models import PUBLISHED, Shape, random_inputs, random_model
from bench.schedules import prunings
from searchsvc.speed import device_name

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Measure every model and write the file."""
    given = _arguments()
    if not given.tiny and not torch.cuda.is_available():
        raise SystemExit(
            "bench.gpu: no CUDA device; --tiny runs anywhere, python -m bench.prefill is for CPUs"
        )
    device, dtype = ("cpu", torch.float32) if given.tiny else ("cuda", torch.bfloat16)
    results = []
    for name in given.model:
        shape = PUBLISHED[name].smaller(6, 256, 4) if given.tiny else PUBLISHED[name]
        for attention in _implementations(device):
            results += list(_model(name, shape, device, dtype, attention, given))
            _free()
    _write(given.out, device_name(torch.device(device)), given, results)


def _implementations(device: str) -> list[str]:
    return ["sdpa"] + (["flash_attention_2"] if device == "cuda" and is_flash_attn_2_available() else [])


def _model(
    name: str, shape: Shape, device: str, dtype: torch.dtype, attention: str, given: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """One record per batch size; a model or a batch that does not fit is a record that says so."""
    try:
        model = random_model(shape, device, dtype, attention)
        for batch in given.batch:
            setting = Setting(model=model, shape=shape, inputs=random_inputs(model, shape, batch))
            plain, rows = bench(setting, prunings(shape.layers), given.rounds)
            show(f"{name}, {attention}, batch {batch}: unpruned prefill {plain:.1f} ms", rows)
            yield _record(name, shape, attention, batch, plain, rows)
    except torch.OutOfMemoryError as error:
        reason = str(error).splitlines()[0]
        print(f"{name}, {attention}: left out: {reason}")
        yield {"model": name, "attention": attention, "left_out": reason}


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _record(
    name: str, shape: Shape, attention: str, batch: int, plain: float, rows: list[Row]
) -> dict[str, Any]:
    return {
        "model": name,
        "shape": vars(shape),
        "attention": attention,
        "batch": batch,
        "unpruned_prefill_ms": plain,
        "rows": [record(row) for row in rows],
    }


def _write(folder: Path, device: str, given: argparse.Namespace, results: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{re.sub('[^A-Za-z0-9]+', '-', device).strip('-').lower()}.json"
    head = {"bench": "gpu", "device": device, "tiny": given.tiny, "torch": torch.__version__}
    document = head | {"cuda": torch.version.cuda, "rounds": given.rounds, "results": results}
    file.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    print(f"written: {file}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", nargs="+", choices=list(PUBLISHED), default=list(PUBLISHED))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=15, help="interleaved measurements of every way")
    parser.add_argument("--tiny", action="store_true", help="tiny layers on the CPU, to see that it runs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
