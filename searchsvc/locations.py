"""Where the embedded model lies, and what the name `demo` stands for."""

from pathlib import Path

from searchsvc.errors import ServiceError

#: The name that stands for the embedded model wherever a model is asked for.
DEMO = "demo"

DEMO_MODEL = Path(__file__).parent / "demo" / "model"


def model_location(model: str) -> str:
    """Return the folder or hub id that `model` names; `demo` is the embedded model.

    Raises:
        ServiceError: it is empty.
    """
    if not model:
        raise ServiceError("no model is named; give its folder, a hub id such as org/name, or demo")
    return str(DEMO_MODEL) if model == DEMO else model
