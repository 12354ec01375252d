"""The command line. Importing it loads neither torch nor Ray, so that `--help` answers at once."""

from searchsvc.cli.app import main

__all__ = ["main"]
