"""`searchsvc.child` with workers that only sleep, in threads: a study with all its trials, without a model or Ray."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from here_cluster import HereCluster

from bench.simulated import SimulatedEvaluations
from searchsvc import child, controller, executor


class Naps(SimulatedEvaluations):
    """Two batches of 20 ms."""

    seconds, batches = 0.02, 2


if __name__ == "__main__":
    executor.Cluster = HereCluster
    controller.Evaluations = Naps
    child.main()
