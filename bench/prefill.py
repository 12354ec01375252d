"""Is the time saved the FLOPs saved? A random LLaVA decoder on this machine's CPU, pruned beside not pruned.

    python -m bench.prefill                    # 24 layers of 1024, 576 + 64 tokens, batch 1 and 8
    python -m bench.prefill --layers 4 --width 128 --side 8 --rounds 3

Prints a table and then one JSON line. Run it on idle cores; OMP_NUM_THREADS sets how many it takes.
"""

import argparse
import json

import torch

from bench.measurement import Setting, bench, record, show
from bench.models import CPU, random_inputs, random_model
from bench.schedules import prunings
from searchsvc.speed import device_name


def main() -> None:
    """Measure every batch size and print."""
    given = _arguments()
    shape = CPU.smaller(given.layers, given.width, given.side)
    model = random_model(shape, "cpu", torch.float32)
    cuts = {name: cut for name, cut in prunings(shape.layers).items() if not given.only or name in given.only}
    rows, plain = [], {}
    for batch in given.batch:
        setting = Setting(
            model=model, shape=shape, inputs=random_inputs(model, shape, batch), eager=batch in given.eager
        )
        plain[batch], found = bench(setting, cuts, given.rounds)
        rows += found
    device = device_name(model.device)
    unpruned = ", ".join(f"{ms:.0f} ms at batch {batch}" for batch, ms in plain.items())
    show(f"Ratios to no pruning on {device}; unpruned prefill {unpruned}; {given.rounds} rounds", rows)
    head = {"bench": "prefill", "device": device, "torch": torch.__version__, "rounds": given.rounds}
    shown = {"shape": vars(shape), "unpruned_prefill_ms": plain, "rows": [record(row) for row in rows]}
    print(json.dumps(head | shown, allow_nan=False))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--layers", type=int, default=CPU.layers)
    parser.add_argument("--width", type=int, default=CPU.width, help="hidden size; heads of 64")
    parser.add_argument("--side", type=int, default=CPU.side, help="visual tokens: the square of it")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument(
        "--eager", type=int, nargs="*", default=[1], help="batch sizes to pit eager attention at"
    )
    parser.add_argument("--rounds", type=int, default=15, help="interleaved measurements of every way")
    parser.add_argument("--only", nargs="+", choices=list(prunings(CPU.layers)), help="these prunings alone")
    return parser.parse_args()


if __name__ == "__main__":
    main()
