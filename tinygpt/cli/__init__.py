"""The command line. A command is imported when it is called, so that `tinygpt --help` starts fast."""

from tinygpt.cli.app import main

__all__ = ["main"]
