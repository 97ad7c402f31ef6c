"""List the modules of a model: a family's formulas with the values of a config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ..schema.family import Family, Linear, ModuleSpec, Sizes
from .modules import Module

__all__ = ["built"]


def built(
    family: Family,
    sizes: Sizes,
    task: str,
    layers: Mapping[str, int],
    stack_dims: Mapping[str, Sizes],
) -> Iterator[Module]:
    """Yield every module that exists in the task, starting with those outside the stacks.

    sizes: the values of the config, and `num_labels`. layers: the number of layers of each stack of the task.
    stack_dims: the dimensions of each stack, if they differ from the family's.
    """
    prefix = family.tasks[task].prefix
    for spec in family.modules:
        if _exists(spec, task, sizes):
            yield _module(spec, "" if spec.outside else prefix, "", (), sizes)
    for name, n_layers in layers.items():
        stack, own = family.stacks[name], {**sizes, **stack_dims[name]}
        for spec in stack.modules:
            at = tuple(n for n in range(n_layers) if spec.where is None or spec.where(_at(n, family.layered, own)))
            if at and _exists(spec, task, own):
                yield _module(spec, f"{prefix}{stack.path}.", name, at, own)


def _at(layer: int, layered: Sequence[str], sizes: Sizes) -> Sizes:
    """Return the values for a formula at one layer."""
    return {**sizes, "layer": layer, **{name: layer in sizes[name] for name in layered}}


def _exists(spec: ModuleSpec, task: str, sizes: Sizes) -> bool:
    return (spec.tasks is None or task in spec.tasks) and bool(spec.when(sizes))


def _module(spec: ModuleSpec, prefix: str, stack: str, layers: tuple[int, ...], sizes: Sizes) -> Module:
    tensors = spec.tensors(sizes)
    tied = spec.tied_to is not None and spec.tied_when(sizes)
    d_in, d_out = spec.width(sizes)
    return Module(
        path=(prefix + spec.module_path).removesuffix("."),  # a tensor may belong directly to the layer or the model
        role=spec.role,
        stack=stack,
        layers=layers,
        kind=spec.kind,
        d_in=d_in,
        d_out=d_out,
        bias=any(name == "bias" for name, _ in tensors),
        parameters=tuple(t for t in tensors if not (tied and (spec.ties is None or t[0] in spec.ties))),
        slices=tuple(_slices(spec, sizes)) if isinstance(spec, Linear) else (),
        groups=spec.groups(sizes) if isinstance(spec, Linear) else 1,
        head=spec.new,
        pretrained=spec.pretrained and not spec.new,
    )


def _slices(spec: Linear, sizes: Sizes) -> Iterator[tuple[str, int, int]]:
    start = 0
    for role, size in spec.slices.items():
        stop = start + size(sizes)
        yield role, start, stop
        start = stop
