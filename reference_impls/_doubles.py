"""Copies of the backbone's parameters: each lives beside the parameter that it doubles."""

from __future__ import annotations

from torch import nn

from . import _kit as kit

__all__ = ["Double"]


class Double(kit.Child):
    """One parameter of a method's own network, beside the backbone's parameter that it doubles."""

    def __init__(self, name: str, parameter: nn.Parameter):
        super().__init__()
        self.register_parameter(name, parameter)
