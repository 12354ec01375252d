"""`searchsvc.child` with workers that only sleep: a study with all its trials, without a model or Ray."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from napping import nap

from searchsvc import child

if __name__ == "__main__":
    nap()
    child.main()
