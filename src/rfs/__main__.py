"""``python -m rfs`` is the command ``rfs``."""

from rfs.cli import main

main()
