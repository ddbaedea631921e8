"""The command line. Commands load when they are called, so that `tinygpt --help` answers at once."""

from tinygpt.cli.app import main

__all__ = ["main"]
