"""Tiny models of the families beyond the six that the conformance suite runs: only their shapes are wanted."""

from peftonomy.conformance import tiny

from . import families, families_decoders

tiny.SHAPES.update({**families.TINY, **families.OTHERS, **families_decoders.TINY})
