"""Samplers by name: Optuna's own, and scikit-optimize's Gaussian process with Expected Improvement."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import intersection_search_space
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from studies.errors import SpecError

SAMPLERS = ("skopt-ei", "tpe", "gp", "nsga2", "random", "brute-force")
#: Those that can look for a whole front; Expected Improvement of one value cannot.
MULTI_OBJECTIVE_SAMPLERS = ("tpe", "gp", "nsga2", "random")
#: Points at which Expected Improvement is compared: the best start the gradient search, and when its result
#: has been told already, the best of them that has not been told is proposed.
CANDIDATES = 1000


def make_sampler(
    name: str, seed: int, told: int = 0, n_startup: int = 10, multi_objective: bool = False
) -> BaseSampler:
    """Make a sampler for ONE ask; `seed` and `told` (finished trials so far) fix what it will propose.

    A sampler that lives through a whole study cannot be made anew after a crash, so none does: every ask
    gets a new one. The first `n_startup` trials are drawn uniformly (`nsga2`: the size of a generation).
    Raises SpecError for an unknown name, and for a single-objective sampler when `multi_objective`.
    """
    known = MULTI_OBJECTIVE_SAMPLERS if multi_objective else SAMPLERS
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        kind = "multi-objective sampler" if multi_objective else "sampler"
        raise SpecError(f"{name!r} is no {kind}: choose one of {', '.join(known)}{hint}")
    return _MAKERS[name](int(np.random.SeedSequence([seed, told]).generate_state(1)[0]), n_startup)


def _brute_force(seed: int, _: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.BruteForceSampler(seed=seed)


class SkoptSampler(BaseSampler):
    """A Gaussian process (Matern 5/2) with Expected Improvement, from scikit-optimize; single-objective.

        study = optuna.create_study(sampler=SkoptSampler(seed=0))

    Keeps no history: every proposal fits a new process to the study's finished trials. Points told already
    are not proposed again while the space holds others: a deterministic objective says nothing new there.
    """

    def __init__(self, seed: int | None = None, n_startup: int = 10) -> None:
        self._rng = np.random.RandomState(seed)
        self._uniform = RandomSampler(seed=seed)
        self._n_startup = n_startup

    def reseed_rng(self) -> None:
        self._rng.seed()
        self._uniform.reseed_rng()

    def infer_relative_search_space(
        self,
        study: Study,
        trial: FrozenTrial,  # noqa: ARG002
    ) -> dict[str, BaseDistribution]:
        space = intersection_search_space(study.get_trials(deepcopy=False))
        return {name: distribution for name, distribution in space.items() if not distribution.single()}

    def sample_relative(
        self,
        study: Study,
        trial: FrozenTrial,  # noqa: ARG002
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        self._raise_error_if_multi_objective(study)
        trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        told = [t for t in trials if t.value is not None and np.isfinite(t.value)]
        if not search_space or len(told) < max(self._n_startup, 1):
            return {}
        axes = {name: _Axis(distribution) for name, distribution in search_space.items()}
        usable = [t for t in told if all(name in t.params for name in axes)]
        sign = 1.0 if study.direction == StudyDirection.MINIMIZE else -1.0
        values = [sign * float(t.value) for t in usable if t.value is not None]
        return self._propose(axes, [t.params for t in usable], values) if usable else {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        self._raise_error_if_multi_objective(study)
        return self._uniform.sample_independent(study, trial, param_name, param_distribution)

    def _propose(
        self, axes: Mapping[str, "_Axis"], told: Sequence[Mapping[str, Any]], values: Sequence[float]
    ) -> dict[str, Any]:
        import skopt
        from skopt.acquisition import gaussian_ei

        points = [[axis.to_skopt(params[name]) for name, axis in axes.items()] for params in told]
        optimizer = skopt.Optimizer(
            [axis.dimension for axis in axes.values()],
            "GP",
            n_initial_points=1,
            acq_func="EI",
            acq_optimizer_kwargs={"n_points": CANDIDATES},
            random_state=self._rng.randint(2**31 - 1),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "evaluated at this point before": dealt with here
            optimizer.tell(points, list(values))
            candidates = [optimizer.ask()]
            if self._is_told(axes, candidates[0], told):
                drawn = optimizer.space.rvs(CANDIDATES, random_state=self._rng)
                candidates = [p for p in drawn if not self._is_told(axes, p, told)] or candidates
            transformed = optimizer.space.transform(candidates)
            gains = gaussian_ei(transformed, optimizer.models[-1], min(values))
        return _to_params(axes, candidates[int(np.argmax(gains))])

    @staticmethod
    def _is_told(
        axes: Mapping[str, "_Axis"], point: Sequence[Any], told: Sequence[Mapping[str, Any]]
    ) -> bool:
        params = _to_params(axes, point)
        return any(all(old[name] == value for name, value in params.items()) for old in told)


class _Axis:
    """One parameter as a scikit-optimize dimension; categories and stepped numbers become indices from 0."""

    def __init__(self, distribution: BaseDistribution) -> None:
        from skopt.space import Categorical, Integer, Real

        self._choices: Sequence[Any] = ()
        self._low = self._high = self._step = 0.0
        self._whole = isinstance(distribution, IntDistribution)
        if isinstance(distribution, CategoricalDistribution):
            self._choices = distribution.choices
            self.dimension = Categorical(list(range(len(self._choices))))
            return
        if not isinstance(distribution, (FloatDistribution, IntDistribution)):
            raise ValueError(f"skopt-ei cannot sample from {distribution}")
        self._low, self._high = distribution.low, distribution.high
        if distribution.log:
            # Half a step on either side, so that the first and last integers are as likely as the others.
            margin = 0.5 if self._whole else 0.0
            self.dimension = Real(self._low - margin, self._high + margin, prior="log-uniform")
        elif distribution.step is None:
            self.dimension = Real(self._low, self._high)
        else:
            self._step = distribution.step
            self.dimension = Integer(0, round((self._high - self._low) / self._step))

    def to_skopt(self, value: Any) -> float | int:
        if self._choices:
            return self._choices.index(value)
        return round((value - self._low) / self._step) if self._step else float(value)

    def to_param(self, point: Any) -> Any:
        """Return the point as the plain Python value that Optuna stores; it may be a numpy scalar."""
        if self._choices:
            return self._choices[int(point)]
        value = self._low + int(point) * self._step if self._step else float(point)
        value = min(max(value, self._low), self._high)
        return round(value) if self._whole else float(value)


def _to_params(axes: Mapping[str, _Axis], point: Sequence[Any]) -> dict[str, Any]:
    return {name: axis.to_param(value) for (name, axis), value in zip(axes.items(), point, strict=True)}


_MAKERS: dict[str, Callable[[int, int], BaseSampler]] = {
    "skopt-ei": lambda seed, n_startup: SkoptSampler(seed, n_startup),
    "tpe": lambda seed, n_startup: optuna.samplers.TPESampler(seed=seed, n_startup_trials=n_startup),
    "gp": lambda seed, n_startup: optuna.samplers.GPSampler(
        # parameters that only some trials have are drawn uniformly; that is meant
        seed=seed,
        n_startup_trials=n_startup,
        warn_independent_sampling=False,
    ),
    "nsga2": lambda seed, n_startup: optuna.samplers.NSGAIISampler(
        seed=seed, population_size=max(n_startup, 4)
    ),
    "random": lambda seed, _: RandomSampler(seed=seed),
    "brute-force": _brute_force,
}
