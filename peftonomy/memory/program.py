"""A model with a method put into it: its functions, its parameters, and what the method does around them.

Parameters come from the inventory of the backbone and from the tensors that the entry declares; nothing here says them
again. A method acts through hooks: `before x` and `after x y` around a module or a block, `weight w` in place of a
parameter, and points of the model (`embedded x`, `widen k v`) that do nothing without a method.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from ..backbones.backbone import Inventory
from ..backbones.config import MISSING, lookup
from ..backbones.modules import INPUTS, Block, Module, SiteGroup
from ..costs.layout import Spot, spots
from ..costs.measure import Measure, measure
from ..costs.plan import EXACT
from ..errors import FormulaError, UsageError, described, shown
from ..formula import Formula
from ..schema.family import Family, Fixed
from ..schema.memory import Act
from ..schema.programs import Function, compiled, parse_all
from .rules import Language

if TYPE_CHECKING:
    from ..costs.plan import Plan, Row

__all__ = [
    "AROUND", "BLOCKS", "IN_PLACE", "Hook", "Model", "Own", "Part", "Program", "Slice", "Turn", "acts", "beside",
    "compressed", "family_functions", "fixed_options", "functions_of", "module_path",
]  # fmt: skip

BLOCKS = ("attn", "xattn", "mlp")
"""Names of blocks inside of a layer, which are those of the functions that compute them."""
AROUND = ("before", "after")
IN_PLACE = ("weight", "bias", "gradient")
"""Names of functions that stand in place of a parameter, or of its gradient."""
LONGEST_PATTERN = 8
"""Layers after which a pattern of unlike ones begins again, at most."""
ALIKE = 4
"""Runs of a pattern from which on those between the second and the last are counted and not run."""
Place = tuple[Any, ...]
Layers = frozenset[int] | None
Turn = frozenset[tuple[str, int]]
"""Layers that are trained at a time, each with its stack."""
MOST_TURNS = 400
"""Turns that are compared, at most."""


class Slice(NamedTuple):
    """A part of a fused module's outputs; in how many groups it is spread."""

    start: int
    stop: int
    groups: int


class Part(NamedTuple):
    """The part of a fused module that has one role."""

    module: Module
    slice: Slice


class Own(NamedTuple):
    """A tensor of a method at a place: its sizes, how many there are of it, whether it is trained, and in which layers
    (None: it is none of theirs)."""

    key: Place
    shape: tuple[int, int, int]
    copies: int
    trained: bool
    layers: Layers


class Acting(NamedTuple):
    """A record of a part of a method: the part's number, what decides where it acts, its functions, those that
    they may call, the formulas of these that differ from layer to layer, its spots, and what they act around if it is
    not the spot."""

    part: int
    measured: Measure
    functions: Mapping[str, Function]
    known: Mapping[str, Function]
    varying: Sequence[Formula]
    spots: Sequence[Spot]
    at: str | None


@dataclass(eq=False)
class Hook:
    """A function of a method at a place.

    names: what its formulas see besides the model's sizes. functions: what else its record defines, and the helpers of
    the entry's other records. tensors: the method's own by name, those of the nearest place first; places: at
    all of them. layers: those where it acts.
    """

    name: str
    function: Function
    functions: Mapping[str, Function]
    names: Mapping[str, Any]
    tensors: Mapping[str, list[Own]]
    places: Mapping[str, Mapping[Place, list[Own]]]
    layers: Layers
    part: Slice | None = None
    module: Module | None = None
    suffix: str = ""
    """Of a parameter's name, where the hook is at one."""
    varying: Sequence[Formula] = ()
    """Formulas of these functions that differ from layer to layer."""

    def everywhere(self, name: str) -> list[Own]:
        """Return the method's tensors of a name at all places."""
        return [own for several in self.places.get(name, {}).values() for own in several]

    def acts(self, layer: int) -> bool:
        """Return True if the function acts in a layer (-1: outside the layers)."""
        return self.layers is None or layer in self.layers


class Model:
    """The part of a program that does not depend on the method: an inventory with the functions of its family."""

    def __init__(self, inventory: Inventory, language: Language, families: Mapping[str, Family]):
        family = inventory.backbone.family
        if family.operations is None:
            raise UsageError(f"memory: family {family.model_type} does not say yet which operations it does")
        self.inventory, self.family, self.language = inventory, family, language
        self.operations = family.operations
        self.functions = language.shared | family_functions(family, families)
        self.config = inventory.backbone.config
        self._check(fixed_options(family, families, language))
        prefix = family.tasks[inventory.task].prefix
        self.modules: dict[tuple[str, str], list[Module]] = {}
        for module in inventory.modules:
            start = prefix + (inventory.stacks[module.stack].path + "." if module.stack else "")
            path = module.path.removeprefix(start)
            if module.kind == "parameter":
                path = ".".join(p for p in (path, module.parameters[0][0] if module.parameters else "") if p)
            for name in dict.fromkeys((module.role, path)):
                self.modules.setdefault((module.stack, name), []).append(module)
        starts = {s.path: "" if s.outside else prefix for s in family.modules}
        self.tied = {
            starts[s.path] + s.path: starts[s.tied_to] + s.tied_to for s in family.modules if s.tied_to is not None
        }  # fmt: skip
        self.paths = {m.path: m for m in inventory.modules}
        self._found: dict[tuple[str, int, str], Module | None] = {}

    def _check(self, fixed: Fixed) -> None:
        """Raise UsageError if an option of the config changes the computation in a way that no function declares."""
        backbone = self.inventory.backbone
        for key, allowed in fixed.items():
            found = lookup(backbone.id, backbone.raw, key)
            if found is not MISSING and found not in allowed:
                wanted = " or ".join(described(value) for value in allowed)
                what = f"{key}: found {described(found)}; expected {wanted}"
                raise UsageError(f"memory of {backbone.id}: {what}, as the operations of {self.family.name} assume")

    @cached_property
    def names(self) -> dict[str, dict[str, Any]]:
        """What formulas see, by the stack ("" outside of them): the config, sizes, and which roles there are."""
        backbone = self.inventory.backbone
        roles = [*sorted(INPUTS), *(spec.role for _, spec in self.family.specs())]
        flags = {f"has_{flat(role)}": 0 for role in roles}
        flags |= {f"has_{flat(m.role)}": 1 for m in self.inventory.modules if not m.stack}
        every = {**flags, **self.config, **self.inventory.dims, "num_labels": self.inventory.num_labels}
        every["post_norm"] = int(bool(self.operations.post_norm(self.config)))
        every |= {"in_encoder": 0, "in_decoder": 0, "layer": -1, **{f"in_{name}": 0 for name in self.family.stacks}}

        def inside(stack: str) -> dict[str, Any]:
            here = {f"in_{stack.partition('_')[0]}": 1, f"in_{stack}": 1, "n_layers": backbone.layers[stack]}
            return {**every, **backbone.dims, **backbone.stack_dims[stack], **here}

        return {"": every} | {name: inside(name) for name in self.inventory.stacks}

    @cached_property
    def differing(self) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
        """Return a function from names to the values of all formulas of the model that differ between layers."""
        formulas = dict.fromkeys(self.varying(self.functions))
        return compiled(*formulas) if formulas else lambda names: ()

    def varying(self, functions: Mapping[str, Function]) -> tuple[Formula, ...]:
        """Return the formulas of functions that may differ between layers."""
        about = {"layer", *self.family.layered}
        lines = (line for function in functions.values() for line in function.lines)
        return tuple(f for line in lines for f in line.formulas() if f.names & about)

    def module(self, stack: str, layer: int, name: str) -> Module | None:
        """Return the module of a role or path, first from the current layer. Raises UsageError if it means several."""
        key = stack, layer, name
        if key not in self._found:
            self._found[key] = self._module(stack, layer, name)
        return self._found[key]

    def _module(self, stack: str, layer: int, name: str) -> Module | None:
        for where in (stack, "") if stack else ("",):
            found = [m for m in self.modules.get((where, name), ()) if not m.layers or layer in m.layers]
            owners = {self.owner(m).path: m for m in found}
            if len(owners) > 1 and len({m.path for m in found}) > 1:
                paths = ", ".join(m.path for m in found)
                raise UsageError(f"memory of {self.family.model_type}: {name} means {paths}; name one by its path")
            if found:
                return found[0]
        return None

    def part(self, stack: str, layer: int, role: str) -> Part | None:
        """Return the part of the current layer's fused module that has a role."""
        for module in self.inventory.modules:
            if module.stack == stack and (not module.layers or layer in module.layers):
                for name, start, stop in module.slices:
                    if name == role:
                        return Part(module, Slice(start, stop, module.groups))
        return None

    def owner(self, module: Module, suffix: str = "") -> Module:
        """Return the module that holds a parameter: the module itself, or the one to which it is tied."""
        tied, own = self.tied.get(module.path), dict(module.parameters)
        return module if tied is None or (own and (suffix or "weight" in own)) else self.paths[tied]


class Program:
    """A method with hyperparameters in a model. width: bytes of one frozen parameter. Raises UsageError."""

    def __init__(self, plan: Plan, model: Model, values: Mapping[str, Any], rows: Sequence[Row], width: int):
        self.plan, self.model, self.rows, self.width = plan, model, rows, width
        self.trained: dict[tuple[str, str], list[Layers]] = {}
        self.own: dict[tuple[int, str], dict[Place, list[Own]]] = {}
        self.hooks: dict[tuple[str, str], list[Hook]] = {}
        self.points: dict[tuple[str, str, str], list[Hook]] = {}
        self.holds = 0
        self.whole = self
        """The same program with all that is ever trained. It differs if layers are trained in turns."""
        for row in rows:
            self._row(row)
        for module in model.inventory.modules:
            if not module.pretrained:
                for suffix, _ in module.parameters:
                    self.trained.setdefault((module.path, suffix), []).append(None)
        arguments = plan.arguments(dict(values))
        for acting in self._acting():
            self._act(acting, arguments[acting.part])
        self.evaluations, self.together, self.drops = self._recipe(arguments)
        kinds = {model.language.points.get(name) for _, _, name in self.points}
        self.eager = bool(kinds & {"eager", "inside"})
        """Whether attention has to be written out."""
        if "inside" in kinds and not model.operations.interface:
            raise UsageError(
                f"memory of {plan.id}: it adds keys, values or terms to attention, and that of {model.family.name} "
                "does not go through the interface of transformers"
            )

    def _recipe(self, arguments: Sequence[tuple[Any, ...]]) -> tuple[int, int | None, bool]:
        """Return how many forward passes replace a backward pass, how many layers are trained at a time (None: all),
        and whether the others have no optimizer states."""
        evaluations, together, drops = 0, None, True
        for index, part in enumerate(self.plan.parts):
            memory = part.entry.memory
            if memory is None or (memory.turns is None and not memory.forward_only):
                continue
            names = {**self.plan.common, **dict(zip(part.entry.hyperparameters, arguments[index], strict=True))}
            evaluations = max(evaluations, int(memory.evaluations(names)))
            if memory.turns is not None:
                if together is not None:
                    raise UsageError(f"{self.plan.id}: two of its parts train layers in turns")
                together, drops = int(memory.turns.layers(names)), bool(memory.turns.drops(names))
        if not 0 <= evaluations <= EXACT:
            raise UsageError(f"{self.plan.id}: found {evaluations} evaluations; expected a count from 0 to 2**53")
        if together is not None and together < 1:
            raise UsageError(f"{self.plan.id}: found {together} layers at a time; expected at least 1")
        return evaluations, together, drops

    # What the method brings

    def _row(self, row: Row) -> None:
        tensor, index = row.piece.tensor, row.piece.part
        name = row.piece.name.removeprefix(self.plan.parts[index].prefix)
        for _, spot in row.piece.group.spots:
            layers = frozenset(spot.layers) if row.layers is None else row.layers.intersection(spot.layers)
            if spot.layers and not layers:
                continue
            there: Layers = layers if spot.layers else None
            if tensor.selecting:
                if row.learns:
                    self.trained.setdefault((module_path(spot), spot.suffix), []).append(there)
                continue
            shape = self.shape(row, spot) or beside(row, spot)
            place = _place(tensor.per, spot)
            own = Own(self.key(row, spot), padded(shape), row.copies, row.learns, there)
            self.own.setdefault((index, name), {}).setdefault(place, []).append(own)

    def shape(self, row: Row, spot: Spot) -> Sequence[int] | None:
        """Return the declared shape of a row's tensors at a spot; None if none is declared."""
        return self.plan.shape(row, spot)

    def key(self, row: Row, spot: Spot) -> Place:
        """Return the key of a tensor at a place."""
        return self.key_of(*self.named(row), row.piece.tensor.per, spot)

    def named(self, row: Row) -> tuple[int, str]:
        """Return the number of the part that declares a row's tensor, and the tensor's name in it."""
        index = row.piece.part
        return index, row.piece.name.removeprefix(self.plan.parts[index].prefix)

    @staticmethod
    def key_of(part: int, name: str, per: str, spot: Spot) -> Place:
        """Return the key of a part's tensor at a place."""
        return part, name, *_place(per, spot)

    def _hooks(self, name: str) -> bool:
        """Return True if a function of this name is a hook, and not a helper that other functions call."""
        return name in AROUND or name in IN_PLACE or name in self.model.language.points

    def _acting(self) -> Sequence[Acting]:
        """Return the records of the method's entries. They are the same for all hyperparameters."""
        plan = self.plan
        if "acting" not in plan.memo:
            made = []
            for index, part in enumerate(plan.parts):
                found = [(act, self._functions(act)) for act in acts(part.entry)]
                helpers = {name: f for _, functions in found for name, f in functions.items() if not self._hooks(name)}
                for act, functions in found:
                    measured = measure(act.tensor(), tuple(part.entry.hyperparameters))
                    targeted = plan.sites[index]
                    if act.per == "site" and part.entry.targets is None:
                        roles = [role for role in act.roles or () if plan.inventory.has_role(role)]
                        targeted = plan.inventory.resolve_roles(roles)
                    places = tuple(spots(measured, plan.inventory, targeted))
                    called = {**helpers, **functions}
                    made.append(Acting(index, measured, functions, called, self.model.varying(called), places, act.at))
            plan.memo["acting"] = made
        known: Sequence[Acting] = plan.memo["acting"]
        return known

    def _act(self, acting: Acting, args: tuple[Any, ...]) -> None:
        index, measured, _, _, _, places, _ = acting
        common = self.plan.common | {"post_norm": self.model.names[""]["post_norm"], "width": self.width}
        own = dict(zip(self.plan.parts[index].entry.hyperparameters, args, strict=True))
        for spot in places:
            layers: Layers = frozenset(spot.layers) if spot.layers else None
            if measured.layered:
                layers = frozenset(n for n in spot.layers if measured.there(common, spot.dims, n, *args)[0])
            found = measured.sizes(common, spot.dims, *args)
            if found is None or (spot.layers and not layers):
                continue
            if spot.suffix == "bias" and "weight" in acting.functions and "bias" not in acting.functions:
                continue  # what stands in place of a weight does nothing to a bias
            if not abs(found[0]) <= EXACT:
                raise UsageError(f"{self.plan.id}: memory holds {found[0]} bytes; expected at most 2**53")
            self.holds += found[0] * (len(layers) if layers else spot.n)
            self._hook(acting, {**spot.dims, **own}, spot, layers)

    def _functions(self, act: Act) -> dict[str, Function]:
        return functions_of(act, self.model.language)

    def _hook(self, acting: Acting, names: Mapping[str, Any], spot: Spot, layers: Layers) -> None:
        own = {name: places for (part, name), places in self.own.items() if part == acting.part}
        tensors = {name: self._nearest(places, spot) for name, places in own.items()}
        declared = self.plan.parts[acting.part].entry.tensors
        names = {**names, **{f"with_{name}": int(bool(tensors.get(name))) for name in declared}}
        source, piece = spot.source, None
        if isinstance(source, SiteGroup) and not source.whole and acting.at is None:
            piece = Slice(source.start, source.stop, source.module.groups)
        stack = "" if source is None else source.stack
        for name, function in acting.functions.items():
            module = source.module if isinstance(source, SiteGroup) else source if isinstance(source, Module) else None
            hook = Hook(
                name, function, acting.known, names, tensors, own, layers, piece, module, spot.suffix, acting.varying
            )
            if name in AROUND and isinstance(source, Module) and spot.suffix != source.parameters[0][0]:
                continue  # a module once, whatever it has besides its weight
            if name in AROUND or name in IN_PLACE:
                key = (stack, source.name if isinstance(source, Block) else self._path(stack, spot, acting.at))
                self.hooks.setdefault(key, []).append(hook)
            elif name in self.model.language.points:
                block = source.name if isinstance(source, Block) else ""
                self.points.setdefault((stack, block, name), []).append(hook)

    def _path(self, stack: str, spot: Spot, at: str | None) -> str:
        """Return the path around which a function at a spot acts: the spot, its layer, or the norm after it."""
        if at != "norm":
            return at or module_path(spot)
        role = f"norm.{spot.role.partition('.')[0]}"
        found = self.model.module(stack, min(spot.layers, default=-1), role)
        if found is None:
            raise UsageError(f"memory: {self.plan.id} acts around the norm behind {spot.role}, and there is none")
        return found.path

    def _nearest(self, places: Mapping[Place, list[Own]], spot: Spot) -> list[Own]:
        """Return a tensor's instances at a spot, or else those of its block, its layer, or the model."""
        return next((places[place] for place in _around(spot) if place in places), [])

    def bare(self) -> Program:
        """Return the same program without the method."""
        found = copy(self)
        found.hooks, found.points = {}, {}
        return found

    def during(self, turn: Turn) -> Program:
        """Return the same program while, of all layers, only those of a turn are trained."""
        found = copy(self)
        found.trained = {}
        for (path, suffix), several in self.trained.items():
            stack = self.model.paths[path].stack
            here = frozenset(layer for where, layer in turn if where == stack)
            left = [layers if layers is None else layers & here for layers in several]
            found.trained[path, suffix] = [layers for layers in left if layers is None or layers]
        return found

    def turns(self, every: Mapping[str, Mapping[str, Any]]) -> list[Turn]:
        """Return the turns of which one takes the most memory; an empty list if everything is trained at a time.

        Of layers that are alike, a turn has the first ones, the last ones, or some of both. Trained layers near the
        start make the layers behind them save more, and the gradients of those near the end come early. Any other
        turn takes at most as much at every moment of the step. every: the names for formulas in each stack.
        """
        if self.together is None:
            return []
        alike: dict[Any, list[tuple[str, int]]] = {}
        for stack in self.model.inventory.stacks:
            for layer, key in enumerate(self.keys(stack, every[stack])):
                alike.setdefault((stack, key), []).append((stack, layer))
        together = min(self.together, sum(map(len, alike.values())))
        found: dict[Turn, None] = dict.fromkeys([frozenset()])
        for several in alike.values():
            more: dict[Turn, None] = {}
            for turn in found:
                for number in range(min(len(several), together - len(turn)) + 1):
                    for low in range(number + 1):
                        more[turn | {*several[:low], *several[len(several) - number + low :]}] = None
            found = more
            if len(found) > MOST_TURNS:
                raise UsageError(
                    f"memory: {self.plan.id} trains {together} layers at a time, of {len(alike)} kinds; "
                    f"expected fewer, so that at most {MOST_TURNS} choices can be the largest"
                )
        return [turn for turn in found if len(turn) == together]

    # Questions

    def trains(self, module: Module, suffix: str, layer: int) -> bool:
        """Return True if a parameter of the backbone is trained in a layer."""
        for layers in self.trained.get((module.path, suffix), ()):  # noqa: SIM110 (it is asked often)
            if layers is None or layer in layers:
                return True
        return False

    def at(self, stack: str, path: str, layer: int) -> list[Hook]:
        """Return the hooks around a module or block."""
        found = self.hooks.get((stack, path))
        return [hook for hook in found if hook.acts(layer)] if found else []

    def point(self, stack: str, block: str, name: str, layer: int) -> list[Hook]:
        """Return the method's functions at a point of the model, in order."""
        found = self.points.get((stack, block, name), [])
        if block not in ("", "layer"):
            found = found + self.points.get((stack, "layer", name), [])
        everywhere = self.points.get(("", "", name), []) if stack else []
        return [hook for hook in (*found, *everywhere) if hook.acts(layer) or hook.layers is None]

    def sequence(self, stack: str, names: Mapping[str, Any]) -> list[tuple[list[int], int]]:
        """Return the layers of a stack in groups: which layers to run, and how many further times to count them."""
        return compressed(self.keys(stack, names))

    def keys(self, stack: str, names: Mapping[str, Any]) -> list[Any]:
        """Return a key for each layer of a stack. Layers with equal keys are alike."""
        layers = range(self.model.inventory.backbone.layers[stack])
        sets = {frozenset(m.layers) for m in self.model.inventory.modules if m.stack == stack}
        inside = {m.path for m in self.model.inventory.modules if m.stack == stack}
        sets |= {s for (path, _), several in self.trained.items() if path in inside for s in several if s is not None}
        for places in self.own.values():
            sets |= {own.layers for several in places.values() for own in several if own.layers is not None}
        for (where, *_), hooks in [*self.hooks.items(), *self.points.items()]:
            sets |= {hook.layers for hook in hooks if where == stack and hook.layers is not None}
        both = [*self.hooks.items(), *self.points.items()]
        hooks = [hook for (where, *_), found in both if where in (stack, "") for hook in found if hook.varying]
        own = {
            (f, *(hook.names.get(name) for name in f.names)): (f, {**names, **hook.names})
            for hook in hooks for f in hook.varying
        }  # fmt: skip
        values = []
        for n in layers:
            seen = self.layered(n)
            methods = (_value(f, {**known, **seen}, n) for f, known in own.values())
            values.append((*self.model.differing({**names, **seen}), *methods))
        return [(*(n in s for s in sets), *values[n]) for n in layers]

    def layered(self, layer: int) -> dict[str, Any]:
        """Return the names that formulas may use for one layer."""
        return {"layer": layer, **{name: int(layer in self.model.config[name]) for name in self.model.family.layered}}


def _value(formula: Formula, names: Mapping[str, Any], layer: int) -> Any:
    """Return the value of a formula in a layer; the layer itself if the formula also needs sizes of tensors."""
    try:
        return compiled(formula)(names)[0]
    except FormulaError:
        return ("layer", layer)


def family_functions(family: Family, families: Mapping[str, Family]) -> dict[str, Function]:
    """Return a family's functions: the inherited ones, replaced by its own."""
    operations = family.operations
    if operations is None:
        return {}
    inherited = {} if operations.like is None else family_functions(families[operations.like], families)
    return inherited | parse_all(operations.functions)


def functions_of(act: Act, language: Language) -> dict[str, Function]:
    """Return the functions of a record: those of its pattern, replaced by its own. Raises UsageError."""
    if act.like is None:
        return parse_all(act.functions)
    if act.like not in language.patterns:
        raise UsageError(f"memory: unknown pattern {shown(act.like)!r}; known: {', '.join(language.patterns)}")
    shared = {head: renamed(body, act.names) for head, body in language.patterns[act.like].functions.items()}
    return parse_all(shared) | parse_all(act.functions)


def fixed_options(family: Family, families: Mapping[str, Family], language: Language) -> Fixed:
    """Return the options that a family's functions assume, its own, inherited and shared ones."""
    operations = family.operations
    if operations is None:
        return {}
    like = operations.like
    inherited = language.fixed if like is None else fixed_options(families[like], families, language)
    return inherited | operations.fixed


def acts(entry: Any) -> Sequence[Act]:
    """Return the operations of an entry. Raises UsageError if it needs some and declares none."""
    if entry.memory is not None and entry.memory.operations is not None:
        found: Sequence[Act] = entry.memory.operations
        return found
    if entry.memory is None and all(t.selecting and isinstance(t.trained, bool) for t in entry.tensors.values()):
        return ()
    raise UsageError(f"{entry.id} does not say yet which operations it does, so its memory is not known")


def compressed(keys: Sequence[Any]) -> list[tuple[list[int], int]]:
    """Group layer numbers, each group with how many further times it counts. Of a repeated pattern, three repetitions
    remain: the first, the second (for all in between) and the last."""
    groups: list[tuple[list[int], int]] = []
    i = 0
    while i < len(keys):
        best = (0, 0)
        for period in range(1, LONGEST_PATTERN + 1):
            runs = 1
            while keys[i + runs * period : i + (runs + 1) * period] == keys[i : i + period]:
                runs += 1
            if runs >= ALIKE and runs * period > best[0]:
                best = (runs * period, period)
        length, period = best
        if not length:
            groups.append(([i], 0))
            i += 1
            continue
        first, last = list(range(i, i + period)), list(range(i + length - period, i + length))
        groups += [(first, 0), ([n + period for n in first], length // period - 3), (last, 0)]
        i += length
    return groups


def padded(shape: Sequence[int]) -> tuple[int, int, int]:
    """Return three sizes: multiply the first ones if there are more, and put ones in front if there are fewer."""
    whole = [1, 1, 1, *shape]
    *first, b, c = whole
    a = 1
    for size in first:
        a *= size
    return a, b, c


def renamed(body: str, names: Mapping[str, str]) -> str:
    """Return lines with some words replaced."""
    return re.sub(r"\w+", lambda word: names.get(word[0], word[0]), body) if names else body


def flat(role: str) -> str:
    """Return a role as a name in formulas: `has_attn_q` asks for `attn.q`."""
    return role.replace(".", "_")


def beside(row: Row, spot: Spot) -> tuple[int, ...]:
    """Return the sizes of a tensor that is not dense, or that has an entry for each entry of a parameter."""
    if isinstance(spot.source, Module) and spot.dims["numel"] == row.count:
        shape = dict(spot.source.parameters)[spot.suffix]
        return shape[::-1] if spot.source.kind == "conv1d" else shape
    return (row.count,)


def module_path(spot: Spot) -> str:
    """Return the path of a spot's module or block; "" if the spot belongs to the whole model."""
    if spot.source is None:
        return ""
    return spot.source.module.path if isinstance(spot.source, SiteGroup) else spot.source.path


def _place(per: str, spot: Spot) -> Place:
    source = spot.source
    if per == "role":
        return "role", spot.role, spot.dims["d_in"], spot.dims["d_out"]
    if source is None:
        return ("model",)
    if isinstance(source, SiteGroup):
        return "site", source.module.path, source.start, source.stop
    if isinstance(source, Block):
        return "block", source.stack, source.name
    return "parameter", source.path, spot.suffix


def _around(spot: Spot) -> Iterator[Place]:
    """Yield the places to which a spot belongs, nearest first. A layer's places include its blocks."""
    source = spot.source
    if source is not None:
        yield _place("", spot)
        role = spot.role
        if isinstance(source, SiteGroup):
            yield "role", role, source.d_in, source.d_out
        elif isinstance(source, Module):
            yield "parameter", source.path, "weight"
        yield "block", source.stack, role.removeprefix("norm.").partition(".")[0]
        yield "block", source.stack, "layer"
        if role == "layer":
            yield from (("block", source.stack, block) for block in BLOCKS)
    yield ("model",)
