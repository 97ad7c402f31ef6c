"""Configurations of libraries such as peft: read them as methods, and write them.

This room may import: catalogue and the rooms below it.
"""
