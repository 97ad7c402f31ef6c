"""Serve adapters: the memory of an engine, the cost of unmerged adapters, and merging into a quantised base.

This room may import: implementations, libraries, memory and the rooms below them.
"""
