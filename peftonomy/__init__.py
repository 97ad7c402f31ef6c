"""peftonomy: a knowledge base of parameter-efficient fine-tuning methods that is checked by running it.

    >>> import peftonomy as pf
    >>> kb = pf.load()
    >>> kb["lora"].cost("llama_2_7b", r=8, targets=["attn.q", "attn.v"]).trained
    4194304
"""

from ._adapter import Adapter, Extra, Reported
from ._backbone import Backbone
from ._costs import Cost, TensorCost
from ._errors import ConfigError, DataError, FormulaError, PeftonomyError, Problem, UnknownName, UsageError
from ._export import Configuration
from ._formula import Formula
from ._kb import KnowledgeBase, Method, load
from ._plan import Place
from ._rules import check

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
