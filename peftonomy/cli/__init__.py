"""The command line: one module for each group of commands.

This room may import: every room.
"""
