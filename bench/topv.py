"""Milliseconds that TopV, or another ranker, takes to choose half of an image's 576 visual tokens (24 by 24).

    python bench/topv.py                      # on CPU and, where there is one, on the GPU; float32 features
    python bench/topv.py --width 4096         # as wide as a 7B model; the width costs one matrix product
    python bench/topv.py --ranker divprune    # or knorm, dart, topv:epsilon=0.02

Prints a table and one JSON line. What is timed is `keep` alone, on features that are there already.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator

import torch

from pruners.rankers import Instruction, RankingInputs, parse_ranker

SIDE = 24
#: text tokens behind the image
TEXT = 64


def inputs(batch: int, width: int, device: str) -> RankingInputs:
    """One image per sample with random features."""
    generator = torch.Generator().manual_seed(0)
    tokens = SIDE * SIDE
    cells = torch.cartesian_prod(torch.arange(SIDE), torch.arange(SIDE)).float()
    features = torch.randn(2, batch, tokens, width, generator=generator).to(device)
    return RankingInputs(
        valid=torch.ones(batch, tokens, dtype=torch.bool, device=device),
        tokens=torch.arange(tokens, device=device).expand(batch, -1),
        visual_tokens=(tokens,) * batch,
        sources=features[0],
        targets=features[1],
        grid=cells.to(device).expand(batch, -1, -1),
        centre=torch.full((batch, tokens, 2), (SIDE - 1) / 2, device=device),
        image=torch.zeros(batch, tokens, dtype=torch.int64, device=device),
        states=features[0],
        key_norms=features[1].norm(dim=-1),
        instruction=Instruction(
            valid=torch.ones(batch, TEXT, dtype=torch.bool, device=device),
            states=features[1, :, :TEXT],
            key_norms=features[0, :, :TEXT].norm(dim=-1),
        ),
    )


def milliseconds(ranker: str, given: RankingInputs, device: str, seconds: float) -> Iterator[float]:
    """One call after the other for that long, at least five, behind a warm-up."""
    keep, half = parse_ranker(ranker).keep, given.valid.sum(1) // 2
    keep(given, half)
    end = time.perf_counter() + seconds
    calls = 0
    while calls < 5 or time.perf_counter() < end:
        _wait(device)
        start = time.perf_counter()
        keep(given, half)
        _wait(device)
        yield 1000 * (time.perf_counter() - start)
        calls += 1


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Measure every device and batch size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=1024, help="width of the decoder (default 1024)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], help="batch sizes (default 1 8)")
    parser.add_argument("--ranker", default="topv", help="a ranker that needs no attention (default topv)")
    parser.add_argument("--seconds", type=float, default=2.0, help="time per measurement (default 2)")
    options = parser.parse_args()
    rows = []
    print(
        f"{options.ranker}, N = {SIDE * SIDE}, width {options.width}, {torch.get_num_threads()} CPU threads"
    )
    print(f"{'device':30} {'batch':>5} {'median ms':>10} {'fastest ms':>10} {'calls':>6}")
    for device in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
        name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
        for batch in options.batch:
            with torch.no_grad():
                given = inputs(batch, options.width, device)
                times = list(milliseconds(options.ranker, given, device, options.seconds))
            row = {"device": name, "batch": batch, "calls": len(times), "fastest_ms": round(min(times), 3)}
            row["median_ms"] = round(statistics.median(times), 3)
            rows.append(row)
            print(f"{name:30} {batch:5} {row['median_ms']:10} {row['fastest_ms']:10} {len(times):6}")
    settings = {"bench": "topv", "ranker": options.ranker, "tokens": SIDE * SIDE, "width": options.width}
    versions = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    print(json.dumps(settings | versions | {"rows": rows}))


if __name__ == "__main__":
    main()
