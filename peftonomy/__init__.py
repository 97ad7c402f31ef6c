"""peftonomy: a knowledge base of parameter-efficient fine-tuning methods that is checked by running it.

    >>> import peftonomy as pf
    >>> kb = pf.load()
    >>> kb["lora"].cost("llama_2_7b", r=8, targets=["attn.q", "attn.v"]).trained
    4194304
"""

from .backbones.backbone import Backbone
from .costs.cost import Cost, TensorCost
from .costs.plan import Place
from .errors import ConfigError, DataError, FormulaError, PeftonomyError, Problem, UnknownName, UsageError
from .formula import Formula
from .knowledge.base import KnowledgeBase, Method, load
from .knowledge.check import check
from .libraries.adapter import Adapter, Extra, Reported
from .libraries.export import Configuration

__version__ = "0.1.0"

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
