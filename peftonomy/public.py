"""The public names of peftonomy. `peftonomy/__init__.py` imports this module when one of them is first used."""

from .backbones.backbone import Backbone
from .costs.cost import Cost, TensorCost
from .costs.plan import Place
from .errors import ConfigError, DataError, FormulaError, PeftonomyError, Problem, UnknownName, UsageError
from .formula import Formula
from .knowledge.base import KnowledgeBase, Method, load
from .knowledge.check import check
from .libraries.adapter import Adapter, Extra, Reported
from .libraries.export import Configuration

__all__ = [
    "Adapter",
    "Backbone",
    "ConfigError",
    "Configuration",
    "Cost",
    "DataError",
    "Extra",
    "Formula",
    "FormulaError",
    "KnowledgeBase",
    "Method",
    "PeftonomyError",
    "Place",
    "Problem",
    "Reported",
    "TensorCost",
    "UnknownName",
    "UsageError",
    "check",
    "load",
]
