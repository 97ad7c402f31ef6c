"""Run reference implementations on live models: apply, merge, save, load, remove.

This room may import: catalogue and the rooms below it.
"""
