"""The kit: how an implementation finds the modules of a live `transformers` model and changes what they compute.

A method never replaces a module of the model. It looks up `sites` (linear modules by role), `blocks` or `weights`,
adds child modules with `attach`, and changes inputs and outputs through forward hooks. The model's class, parameter
names, masks and caches do not change.

A child that is attached to `...q_proj` as `lora` owns the parameter `...q_proj.lora.A`. If the site is one slice of a
fused module, its role becomes part of the name: `...c_attn.lora.attn_q.A`.
"""

from __future__ import annotations

import copy
import functools
import json
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

import peftonomy
from peftonomy import Backbone, UsageError
from peftonomy.backbones.backbone import Inventory
from peftonomy.backbones.modules import joined

__all__ = [
    "Block", "Child", "Site", "Weight", "at_sites", "attach", "attached", "blocks", "by_role", "detach", "drop",
    "fold", "freeze", "inventory", "layers", "on_input", "on_layer_output", "on_output", "share", "sites", "weights",
]


@dataclass(frozen=True, eq=False)
class Site:
    """One linear module of a live model, or the slice of a fused module's outputs that has one role."""

    module: nn.Linear           # or a Conv1D, which differs only in `transposed`
    path: str
    role: str
    stack: str
    layer: int | None
    d_in: int
    d_out: int
    start: int                  # the slice of the module's outputs
    stop: int
    whole: bool
    transposed: bool            # Conv1D keeps its weight as (d_in, d_out)
    groups: int = 1             # the slice has an equal part in each of these groups of outputs

    @property
    def weight(self) -> Tensor:
        """Return a view (d_out, d_in) of the live weight. Writing to it changes the model."""
        return self._rows(self.module.weight.T if self.transposed else self.module.weight)

    @property
    def bias(self) -> Tensor | None:
        """Return a view (d_out,) of the live bias, or None if there is no bias."""
        bias = cast(Tensor | None, self.module.bias)
        return None if bias is None else self._rows(bias)

    def _rows(self, parameter: Tensor) -> Tensor:
        if self.groups > 1 and not self.whole:
            raise UsageError(f"the outputs of {self.role} lie apart, head by head, in {self.path}: no view shows them")
        return parameter[self.start : self.stop]


class Sites(dict[str, Site]):
    """The sites of a block by role. Raises UsageError for a role that the block does not have."""

    def __missing__(self, role: str) -> Site:
        known = ", ".join(self) or "none"
        raise UsageError(f"this model has no module of role {role} there that can be taken hold of; it has {known}")


@dataclass(frozen=True, eq=False)
class Block:
    """One attention, feed-forward or layer block of a live model."""

    kind: str                   # attention | mlp | layer
    name: str                   # attn | xattn | mlp | layer
    path: str
    module: nn.Module           # the module at `path`; the whole model for an mlp, which is spread over its layer
    stack: str
    layer: int
    dims: dict[str, int]        # d_model, d_ff, n_heads, n_kv_heads, head_dim, d_attn, d_kv, n_layers of the stack
    sites: Sites                # the block's linear modules by role


@dataclass(frozen=True, eq=False)
class Weight:
    """One parameter of the backbone."""

    name: str
    value: nn.Parameter
    role: str
    kind: str                   # linear | conv1d | conv | embedding | norm | parameter
    stack: str
    layer: int | None
    pretrained: bool            # False for heads and poolers that transformers initialises at random


class Child(nn.Module):
    """A module that a method attaches to a model. `attach` sets the attributes.

    A class whose instances are attached only to sites declares `site: kit.Site`.
    """

    site: Site | None = None            # None if the host is not a site
    host: nn.Module                     # the module that owns the child; not a submodule of the child
    attached: str = ""                  # the child's name in the host; empty before `attach`
    handles: list[RemovableHandle]      # the hooks that `drop` removes


Kind = TypeVar("Kind", bound=Child)


@functools.cache
def _knowledge() -> peftonomy.KnowledgeBase:
    return peftonomy.load()     # cached, because it reads the families' files


_known: weakref.WeakKeyDictionary[nn.Module, tuple[dict[str, Any], Inventory]] = weakref.WeakKeyDictionary()
"""The inventory of each live model, with a copy of the settings that it was built from."""


def inventory(model: nn.Module) -> Inventory:
    """Return the modules of a live model by role, derived from its config and its class name.

    The inventory is built once for each model, and again after the config has changed. Models with equal configs
    share one inventory.
    """
    config = cast(Any, model).config
    settings, known = _known.get(model, ({}, None))
    if known is None or settings != vars(config):
        known = _inventory(type(model).__name__, json.dumps(config.to_dict(), sort_keys=True, default=str))
        _known[model] = copy.deepcopy(vars(config)), known
    return known


@functools.lru_cache(maxsize=64)
def _inventory(kind: str, described: str) -> Inventory:
    config = json.loads(described)
    backbone = Backbone.from_config(config, families=_knowledge().families)
    return backbone.inventory(backbone.family.task_of(kind), len(config.get("id2label") or (0, 1)))


def base(model: nn.Module) -> Any:
    """Return the model without its head, or the model itself if it has none.

    A class of `transformers` may hold it under another name than its `base_model_prefix`.
    """
    found = cast(Any, model).base_model
    return getattr(model, "model", found) if found is model else found


def pooled(stack: Any, h: Tensor) -> Tensor | None:
    """Return what a stack's pooler makes of the last states (batch, n, d_model); None without a pooler."""
    pooler = getattr(stack, "pooler", None)
    if isinstance(pooler, nn.Linear):           # of the first position, and the stack has the activation
        return cast(Tensor, stack.pooler_activation(pooler(h[:, 0])))
    return None if pooler is None else pooler(h)


def sites(model: nn.Module, targets: Sequence[str]) -> list[Site]:
    """Return the sites with one of the roles `targets`, such as "attn.q" or "decoder:xattn.*".

    Roles that the model does not have are ignored. Raises UsageError if it has none of them.
    """
    parts = inventory(model)
    return _sites(model, parts, [role for role in targets if parts.has_role(role)] or targets)


def by_role(model: nn.Module, targets: Sequence[str]) -> dict[str, list[Site]]:
    """Return the same sites by their roles, in the order of the layers.

    Where sites of a role have several shapes, each shape is a group of its own, with `shared_name` as its name.
    """
    chosen = sites(model, targets)
    shapes = {role: {(s.d_in, s.d_out) for s in chosen if s.role == role} for role in {s.role for s in chosen}}
    found: dict[str, list[Site]] = {}
    for site in chosen:
        name = site.role if len(shapes[site.role]) == 1 else shared_name(site.role, site.d_in, site.d_out)
        found.setdefault(name, []).append(site)
    return found


def shared_name(role: str, d_in: int, d_out: int) -> str:
    """Return the name of what all sites of a role with one shape share."""
    return f"{role}.{d_out}x{d_in}"


def _sites(model: nn.Module, parts: Inventory, roles: Sequence[str]) -> list[Site]:
    return [
        Site(
            module=cast(nn.Linear, model.get_submodule(path)), path=path, role=group.role, stack=group.stack,
            layer=layer, d_in=group.d_in, d_out=group.d_out, start=group.start, stop=group.stop,
            whole=group.whole, transposed=group.module.kind == "conv1d", groups=group.module.groups,
        )
        for group in parts.resolve_roles(roles)
        for layer, path in group.paths()
    ]  # fmt: skip


def blocks(model: nn.Module, kind: str) -> list[Block]:
    """Return the blocks of one kind: "attention" (self and cross), "mlp" or "layer"."""
    inside: dict[tuple[str, int | None], Sites] = {}
    parts = inventory(model)
    for site in _sites(model, parts, [role for role in ("attn.*", "xattn.*", "mlp.*") if parts.has_role(role)]):
        inside.setdefault((site.stack, site.layer), Sites())[site.role] = site
    return [
        Block(
            kind=kind, name=block.name, path=(path := block.path.replace("{layer}", str(layer))),
            module=model.get_submodule(path), stack=block.stack, layer=layer, dims=block.dims,
            sites=Sites({
                role: site
                for role, site in inside.get((block.stack, layer), Sites()).items()
                if kind == "layer" or role.startswith(f"{block.name}.")
            }),
        )
        for block in parts.blocks
        if block.kind == kind
        for layer in block.layers
    ]  # fmt: skip


def weights(model: nn.Module) -> list[Weight]:
    """Return every parameter of the backbone in the order of its inventory. Tied parameters appear once."""
    live = dict(model.named_parameters())
    return [
        Weight(name, live[name], module.role, module.kind, module.stack, layer, module.pretrained)
        for module in inventory(model).modules
        for layer, path in module.paths()
        for suffix, _ in module.parameters
        if (name := joined(path, suffix)) in live
    ]


def layers(model: nn.Module) -> dict[tuple[str, int], list[nn.Parameter]]:
    """Return the pretrained parameters of each layer, by its stack and number."""
    found: dict[tuple[str, int], list[nn.Parameter]] = {}
    for weight in weights(model):
        if weight.layer is not None and weight.pretrained:
            found.setdefault((weight.stack, weight.layer), []).append(weight.value)
    return found


def freeze(model: nn.Module) -> None:
    """Freeze every parameter of the model except those of attached children. The caller unfreezes a task head."""
    own = {id(p) for child in attached(model) for p in child.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in own:
            parameter.requires_grad_(False)


def share(child: nn.Module, **modules: nn.Module | None) -> None:
    """Set attributes that are modules but not submodules, for modules that several children use.

    The child's class declares the type of each attribute. In a deep copy of the model, the children share the copied
    module.
    """
    vars(child).update(modules)         # nn.Module.__setattr__ would make them submodules


def attach(host: Site | nn.Module, name: str, child: Child) -> list[RemovableHandle]:
    """Make `child` a submodule of the host under the name, which may have dots, and register its hooks.

    At a site, `child.before(x)` returns the new input and `child.after(x, y)` the new output slice, if the child
    defines them. Returns the list of hooks that `drop` removes; append the hooks that the method registers itself.
    Raises ValueError if the name is taken, because a method can be applied only once, TypeError for another module.
    """
    if not isinstance(child, Child):
        raise TypeError(f"{type(child).__name__} is attached, but is no kit.Child")
    site = host if isinstance(host, Site) else None
    module = host.module if isinstance(host, Site) else host
    path = name if site is None or site.whole else f"{name}.{site.role.replace('.', '_')}"
    *outer, last = path.split(".")
    owner: nn.Module = module
    for part in outer:
        if part not in owner._modules:
            owner.add_module(part, nn.Module())
        owner = owner.get_submodule(part)
    if hasattr(owner, last):
        raise ValueError(f"{path} is there already: the method has been applied to this model")
    like = module.weight if site is not None else next(p for p in module.parameters() if p.is_floating_point())
    # the child gets the host's dtype, device and training mode
    owner.add_module(last, child.to(cast(Tensor, like)).train(module.training))
    handles: list[RemovableHandle] = []
    acts = cast(Any, child)
    if site is not None and hasattr(child, "before"):
        handles.append(on_input(site, acts.before))
    if site is not None and hasattr(child, "after"):
        handles.append(on_output(site, acts.after))
    child.site, child.attached, child.handles = site, path, handles
    share(child, host=module)
    return handles


def attached(model: nn.Module, name: str = "") -> list[Child]:
    """Return the children that are attached under this name (by default, under any name), in the model's order."""
    children = [m for m in model.modules() if isinstance(m, Child) and m.attached]
    return [child for child in children if not name or f"{child.attached}.".startswith(f"{name}.")]


def at_sites(model: nn.Module, name: str, kind: type[Kind]) -> Iterator[tuple[Site, Kind]]:
    """Yield each attached child of one class with its site."""
    for child in attached(model, name):
        if isinstance(child, kind) and child.site is not None:
            yield child.site, child


def detach(model: nn.Module, name: str) -> list[Child]:
    """Remove all children that are attached under this name, and return them."""
    children = attached(model, name)
    for child in children:
        drop(child)
    return children


class _Additive(Protocol):
    """A child that adds a matrix to the weight of its site."""

    def delta(self) -> Tensor:
        """Return the change of the site's weight, (d_out, d_in)."""


@torch.no_grad()
def fold(model: nn.Module, name: str) -> nn.Module:
    """Add each child's `delta()` to the weight of its site, then remove all children under this name."""
    for site, child in at_sites(model, name, Child):
        site.weight.add_(cast(_Additive, child).delta())
    detach(model, name)
    return model


def drop(child: Child) -> None:
    """Remove one child, its hooks, and containers that are empty without it."""
    for handle in child.handles:
        handle.remove()
    _drop(child.host, child.attached)


def _drop(owner: nn.Module, path: str) -> None:
    head, _, rest = path.partition(".")
    if rest:
        _drop(owner.get_submodule(head), rest)
    inner = owner.get_submodule(head)
    if not rest or (type(inner) is nn.Module and not inner._modules):       # an empty container
        delattr(owner, head)


def on_input(site: Site, act: Callable[[Tensor], Tensor]) -> RemovableHandle:
    """Replace the input of the site's module by `act(input)`.

    `act` must be a bound method of a module, so that a deep copy of the model calls the copied module. The result is
    converted to the input's dtype, because a method's parameters may have a wider one. `on_output` does the same.
    """
    return site.module.register_forward_pre_hook(functools.partial(_before, act))


def on_output(site: Site, act: Callable[[Tensor, Tensor], Tensor]) -> RemovableHandle:
    """Replace the site's slice of its module's output by `act(input, slice)`."""
    part = None if site.whole else (site.groups, site.start // site.groups, site.stop // site.groups)
    return site.module.register_forward_hook(functools.partial(_after, act, part))


def on_layer_output(layer: nn.Module, act: Callable[[Tensor], Tensor]) -> RemovableHandle:
    """Replace the hidden states that `layer` returns by `act(hidden states)`. `act` is a bound method of a module.

    A layer returns the hidden states alone or, in T5, as the first item of a tuple.
    """
    return layer.register_forward_hook(functools.partial(_after_layer, act))


def _before(act: Callable[[Tensor], Tensor], module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return act(args[0]).to(args[0].dtype), *args[1:]


def _after(
    act: Callable[[Tensor, Tensor], Tensor], part: tuple[int, int, int] | None,
    module: nn.Module, args: tuple[Tensor, ...], output: Tensor,
) -> Tensor:
    if part is None:
        return act(args[0], output).to(output.dtype)
    groups, start, stop = part
    spread = output.unflatten(-1, (groups, -1))
    changed = act(args[0], spread[..., start:stop].flatten(-2)).to(output.dtype).unflatten(-1, (groups, -1))
    return torch.cat([spread[..., :start], changed, spread[..., stop:]], dim=-1).flatten(-2)


def _after_layer(act: Callable[[Tensor], Tensor], layer: nn.Module, args: Any, output: Any) -> Any:
    if isinstance(output, tuple):
        return act(output[0]).to(output[0].dtype), *output[1:]
    return act(output).to(output.dtype)
