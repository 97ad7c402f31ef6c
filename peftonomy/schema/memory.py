"""The schema of a method's computation in training, and of the tensors that training saves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Self

from pydantic import (
    Field,
    model_validator,
)

from ..formula import Formula
from .base import Entry, FormulaField, Functions, Line, Name, Role
from .tensors import Tensor

__all__ = [
    "Act", "Kept", "Memory",
]  # fmt: skip


class Kept(Entry):
    """Values saved for backward at every location of a scope."""

    per: Literal["site", "attention", "mlp", "layer", "model", "weight", "bias", "norm"]
    """`weight`, `bias`, `norm`: each of the backbone's own parameters of that kind, with `numel` entries."""
    roles: list[Role] | None = None
    if_: FormulaField | None = Field(default=None, alias="if")
    """`roles` and `if` restrict the locations as for a tensor."""
    input: bool = False
    """True if the module's input is saved. This applies to a site, the weight of a linear layer, a feed-forward
    block or an attention (there: the input of the queries). An input saved by several records counts once. For a
    layer: the layer's input, which a checkpoint saves anyway."""
    output: bool = False
    """True if a site's output is saved. If the targeted module is fused, its whole output is saved."""
    count: FormulaField = Field(default=0, validate_default=True)
    """Additional saved values. The formula may also use `seq` (the length of a sequence), `tokens` (of all sequences of
    a batch), `outputs` (of the language model's head; 0 without one) and `post_norm` (1 if norms follow the residual
    sums, else 0)."""
    bits: int | None = Field(default=None, ge=1, le=64)
    """Bits per value of `count`, if they do not have the type of the activations (8 for a dropout mask)."""
    live: bool = False
    """Only if a gradient flows into the module's input (for an attention or feed-forward block: into the input of its
    last module; for a layer: of its first). No gradient flows before the first trained tensor."""
    temporary: FormulaField = Field(default=0, validate_default=True)
    """Additional values that the backward pass needs temporarily at this location."""
    products: FormulaField = Field(default=0, validate_default=True)
    """Multiply-adds of the forward pass at this location, besides the products of the method's matrices (tensors with
    two axes) with all tokens. The backward pass needs twice as many."""
    frozen_products: FormulaField = Field(default=0, validate_default=True)
    """Multiply-adds of products in which one factor is frozen. The backward pass needs as many."""
    held: bool = False
    """True if the values persist between steps, as a mask over gradients or a copy of the initial values does. They
    then count as weights do and do not affect where gradients flow."""
    keys: FormulaField = Field(default=0, validate_default=True)
    """For an attention: the number of additional keys."""
    layers: FormulaField = Field(default=0, validate_default=True)
    """For the model: the number of additional layers that run beside it. They equal the layers of its last stack and
    are trained as a whole."""
    enters: Literal["embeddings", "inputs", "attention", "end", "norm"] = "end"
    """The point at which the trained tensors enter the block. Nothing before the first of them is saved. `inputs`:
    with the block's input. `attention`: between keys and queries, as additional keys. `end`: after the block.
    `norm`: after the norm of the block's residual sum. `embeddings`: at the model's embeddings."""

    @model_validator(mode="after")
    def _placed(self) -> Self:
        if self.per != "attention" and (self.keys.literal != 0 or self.enters == "attention"):
            raise ValueError(f"only an attention has keys; this is per {self.per}")
        if self.per != "model" and (self.layers.literal != 0 or self.enters == "embeddings"):
            raise ValueError(f"only the model has layers and embeddings; this is per {self.per}")
        if self.input and self.per in ("model", "bias", "norm"):
            raise ValueError(f"`input` needs a scope with an input; this is per {self.per}")
        return self

    def tensor(self) -> Tensor:
        """A dummy tensor, so that layout can place this record."""
        return _placed(self.per, self.roles, self.if_, self.count)


def _placed(per: str, roles: list[str] | None, condition: Formula | None, count: Formula) -> Tensor:
    """A dummy tensor with a location only. Layout places any record by it."""
    known: dict[str, Any] = {
        "per": per, "roles": roles, "if": condition, "count": count, "init": "computed: activations",
        "trained": False, "stored": "none", "served": "absent",
    }  # fmt: skip
    return Tensor(**known)


class Act(Entry):
    """The computation of a method at every location of a scope, as functions in the language of `peftonomy.memory`.

    `before x` changes the input of a module or block, and `after x y` its output. `weight w` and `bias b` replace a
    parameter. A point of the model (`embedded x`, `widen k v`) is called by its name. `gradient g` changes the gradient
    of a parameter of the model, and `gradient_A g` that of the tensor A.
    """

    per: Literal["site", "role", "attention", "mlp", "layer", "model", "weight", "bias", "norm"]
    """A record per `role` has no functions, only `holds`."""
    roles: list[Role] | None = None
    if_: FormulaField | None = Field(default=None, alias="if")
    """`roles` and `if` restrict the locations as for a tensor."""
    at: Literal["layer", "norm"] | None = None
    """Of a record per `site`: the functions act around its layer, or around the norm behind it, instead of the site."""
    like: Name | None = None
    """A pattern of `backbones/operations.yaml` whose functions this record uses."""
    names: dict[Name, str] = {}
    """Replacements for words of that pattern."""
    functions: Functions = {}
    """The record's functions, each by its head."""
    holds: FormulaField = Field(default=0, validate_default=True)
    """Bytes that persist between steps, besides the method's tensors. `width` is the bytes of one frozen parameter."""

    def tensor(self) -> Tensor:
        """A dummy tensor, so that layout can place this record."""
        return _placed(self.per, self.roles, self.if_, self.holds)


class Memory(Entry):
    """Memory that training needs beyond the declared tensors: the mechanism only, never a measured number.

    Without this record a method can be sized only if it trains nothing but parameters of the backbone.
    """

    operations: list[Act] | None = None
    """The method's computation. It will replace all fields below once every method declares it."""
    keeps: list[Kept] = []
    positions: FormulaField = Field(default=0, validate_default=True)
    """Sequence positions that the method adds to every input during training."""
    gradients: Literal["through", "side"] = "through"
    """`through`: gradients pass through the backbone. `side`: gradients pass only through the modules beside it."""
    composed: bool = False
    """True if the method multiplies tokens by a combination of its matrices and not by the matrices themselves. Then
    only `products` declares the number of multiplications."""
    note: Line | None = None

    def formulas(self) -> Iterator[tuple[tuple[str | int, ...], Formula, str]]:
        """Yield every formula with its location in the record and its scope."""
        yield ("positions",), self.positions, "model"
        for i, kept in enumerate(self.keeps):
            for keys, formula in kept.tensor().formulas():
                if keys != ("copies",):
                    yield ("keeps", i, *keys), formula, kept.per
            yield ("keeps", i, "temporary"), kept.temporary, kept.per
            yield ("keeps", i, "products"), kept.products, kept.per
            yield ("keeps", i, "frozen_products"), kept.frozen_products, kept.per
            yield ("keeps", i, "keys"), kept.keys, kept.per
            yield ("keeps", i, "layers"), kept.layers, kept.per
