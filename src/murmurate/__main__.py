"""`python -m murmurate` is `murmurate`."""

from murmurate.cli import main

main()
