"""Counts: lay a method out on a model, count its tensors, for one setting or for arrays of settings.

This room may import: backbones and the rooms below it.
"""
