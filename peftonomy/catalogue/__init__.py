"""The records of a knowledge base, read on demand, and methods laid out on models.

This room may import: costs and the rooms below it.
"""
