"""``python -m distilwhisper``: the command line, for torchrun and other launchers."""

from distilwhisper.cli import main

main()
