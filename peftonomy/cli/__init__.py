"""The command line: one module for each group of commands.

This room may import: every room.
"""

INTERRUPTED = 130
"""The exit code that shells report for a process ended by Ctrl-C."""
