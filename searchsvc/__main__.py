"""`python -m searchsvc` is the `searchsvc` program."""

from searchsvc.cli import main

main()
