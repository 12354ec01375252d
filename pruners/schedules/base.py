"""What a schedule is: a name, a few parameters, and one function from depth to a keep rate per layer."""

import math
from abc import ABC, abstractmethod
from dataclasses import fields
from typing import Any, ClassVar

from pruners.errors import ProfileError


class Schedule(ABC):
    """A frozen dataclass that knows its keep rates at any depth.

    Its fields are what `parse_schedule` reads and `spec` writes: int, float, or a tuple of them.
    L is the number of decoder layers; layers are counted from 0.
    """

    #: what a spec begins with
    name: ClassVar[str]
    #: a complete spec, for error messages
    example: ClassVar[str]

    @abstractmethod
    def keep_rates(self, num_layers: int) -> tuple[float, ...]:
        """L rates in [0, 1] of a sample's visual tokens, which never rise.

        Raises:
            ProfileError: the schedule does not fit a model of this depth.
        """

    def spec(self) -> str:
        """The text that `parse_schedule` reads back to an equal schedule, such as `fastv:k=2,r=0.5`."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        options = ",".join(f"{key}={_text(value)}" for key, value in given.items() if value is not None)
        return f"{self.name}:{options}"

    def _check(self, key: str, value: float, low: float, high: float = math.inf) -> None:
        """Refuse a parameter outside of [low, high]; NaN is outside of everything."""
        if not low <= value <= high:
            allowed = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
            raise ProfileError(f"{self.name}: {key} must be {allowed}, not {value:g}")

    def _check_layer(self, key: str, layer: int, num_layers: int) -> None:
        """Refuse a layer that a model of this depth does not have; L itself means no layer at all."""
        if layer > num_layers:
            raise ProfileError(
                f"{self.name}: {key}={layer} is deeper than the model, which has {num_layers} layers"
            )


def _text(value: Any) -> str:
    """Numbers in full precision, lists joined by slashes."""
    return "/".join(map(_text, value)) if isinstance(value, tuple) else repr(value)
