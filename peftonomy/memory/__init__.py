"""The memory and the operations of a training step, and what fits into a GPU.

This room may import: catalogue and the rooms below it.
"""
