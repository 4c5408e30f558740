"""`python -m clipsam` is the same as `clipsam`."""

from clipsam.cli import main

main()
