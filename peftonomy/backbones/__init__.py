"""Represent models as lists of modules: read a config.json, list the modules, select them by role or by name.

This room may import: schema and the rooms below it.
"""
