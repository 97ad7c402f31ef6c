"""Read configurations of libraries such as peft as methods, and write them.

This room may import: catalogue and the rooms below it.
"""
