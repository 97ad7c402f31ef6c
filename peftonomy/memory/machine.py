"""Run single operations of a step: parameters, types, and what autograd keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from ..backbones.modules import Module
from ..errors import DataError, FormulaError, PeftonomyError, Problem, UsageError, near
from ..formula import Formula
from ..schema.programs import Function, Line
from .program import Hook, Own, Part, Program, padded
from .rules import Rule
from .tape import Anew, Record, Tape
from .tensor import Storage, Tensor

__all__ = ["HALF", "SINGLE", "Flags", "Machine", "Value", "tensor"]

HALF, SINGLE = 2, 4
CASTS = ("cast", "as", "float")
EVERY = "every"
"""Begins the key of a tensor that joins others of a method."""
NAMING = ("loop", "stacked", "detached", "sized", "observed")
"""Lines that name a function."""
UNBORN = Storage(0, False)
Value = Any
"""A tensor, a module, a number, or None for a tensor that is missing."""


class Flags(NamedTuple):
    """How a step is run. width: bytes of a number; trained: of one that is trained; device: whose rules autocast has.

    whole: whether every layer is run, and none counted.
    """

    batch: int
    seq: int
    width: int
    trained: int
    autocast: bool = False
    eager: bool = False
    checkpointing: bool = False
    device: str = "cpu"
    whole: bool = False


class Machine:
    """The state of a step, and its single operations."""

    def __init__(self, program: Program, flags: Flags):
        forward_only = program.evaluations > 0
        if forward_only:  # in evaluation mode, where transformers has no checkpoints
            flags = flags._replace(checkpointing=False)
        self.program, self.model, self.flags = program, program.model, flags
        self.language = self.model.language
        self.tape = Tape()
        self.scopes: list[dict[str, Value]] = []
        self.stack, self.number, self.block = "", -1, ""
        self.inside: dict[Any, Tensor] = {}  # parameters of the layer at hand
        self.outside: dict[Any, Tensor] = {}  # all others
        self.held: list[Storage] = []  # to the end of the forward pass
        self.lasting: list[Storage] = []  # to the end of the step
        self.stayed: list[Storage] = []  # until what called their stack is through
        self.leaves: list[Tensor] = []  # that autograd holds to the end
        self.casts: dict[int, tuple[Tensor, Tensor]] = {}
        self.shared: dict[str, Value] = {}
        self.autocast = flags.autocast
        self.hook: Hook | None = None
        self.floor = 0  # scopes of the model below those of the method's function, whose own names come first
        self.module: Module | None = None  # whose forward pass runs
        self.copy: int | None = None
        self.owns: Mapping[tuple[str, str], Own] = {}  # parameters of a method that stand in place of the model's
        self.parts: dict[Any, dict[Any, tuple[int, ...]]] = {}  # of tensors that are several parameters
        self.depth, self.used = 0, dict[str, Value]()  # scopes outside of the layer, and what it reads from there
        self.early: Mapping[str, Value] = {}  # what was put aside before the layer
        self.recording, self.done, self.last, self.limit = not forward_only, 0, 0, -1  # see `Step`
        flagged = {
            "batch": flags.batch, "eager": int(flags.eager), "sdpa": int(not flags.eager),
            "checkpointing": int(flags.checkpointing), "autocast": int(flags.autocast), "width": flags.width,
            "evaluating": int(forward_only), **self._length(),
        }  # fmt: skip
        self.every = {stack: {**names, **flagged} for stack, names in self.model.names.items()}
        self.names: Mapping[str, Any] = self.every[""]
        self.base = self.names

    def _length(self) -> dict[str, int]:
        """Return `seq`, the positions of an input: its tokens, or else those that the model gives to images or speech.

        There is no such name where layers differ in their positions.
        """
        if self.model.inventory.reads_tokens:
            return {"seq": self.flags.seq}
        own = self.model.names[""].get("max_positions")
        return {"seq": own} if own else {}

    def act(self, hook: Hook, values: Sequence[Value]) -> list[Value]:
        """Run a function of the method."""
        raise NotImplementedError

    def _let_go(self, values: Sequence[Value]) -> None:
        for value in values:
            if isinstance(value, Tensor):
                self.tape.free(value.storage)

    def _hold_all(self, values: Sequence[Value]) -> None:
        for value in values:
            if isinstance(value, Tensor):
                self.tape.hold(value)

    # Values

    def _value(self, word: str | Formula, line: Line, function: Function) -> Value:
        if isinstance(word, Formula):
            return self._number(word, function, line)
        own = self.hook.names if self.hook is not None else {}
        depth = len(self.scopes)
        for scope in reversed(self.scopes):
            depth -= 1
            if depth < self.floor and word in own:
                break
            if word in scope:
                if depth < self.depth:
                    self.used[word] = scope[word]
                return scope[word]
        if word in own:
            return own[word]
        if word[0] == ".":
            return self._own(word[1:], line, function)
        if word[0] == "$" and word[1:] in self.shared:
            shared = self.shared[word[1:]]
            if self.depth and self.early.get(word[1:]) is shared:
                self.used[word] = shared
            return shared
        module = self.model.module(self.stack, self.number, word)
        if module is not None:
            return module
        part = self.model.part(self.stack, self.number, word) if "." in word else None
        if part is not None:
            return part
        if word in self.names:
            return self.names[word]
        if line.kind in NAMING:
            return word
        known = {name for scope in self.scopes for name in scope} | {name for _, name in self.model.modules}
        hint = f"; did you mean {' or '.join(matches)}?" if (matches := near(word, known | {*self.names})) else ""
        raise self._wrong(line.text, f"unknown name {word}{hint}", "a variable, a role, or a size", function)

    def _number(self, formula: Formula, function: Function, line: Line) -> Any:
        try:
            return formula(self.names)
        except FormulaError as error:
            raise self._wrong(line.text, error.message, "sizes of the model", function) from None

    def _own(self, word: str, line: Line, function: Function) -> Tensor | None:
        name = word.removesuffix("?")
        if name in ("weight", "bias") and self.hook is not None and self.hook.module is not None:
            module, part = self.hook.module, self.hook.part
            return self.weight(module if part is None else Part(module, part), name)
        own = self._mine(word, line, function)
        if own is None:
            return None
        shape, key = own.shape, (own.key, self.copy if own.copies > 1 else None)
        if own.copies > 1 and self.copy is None:
            shape = (own.copies * shape[0], *shape[1:])
        value = self._parameter(key, shape, own.trained, own.layers is not None)
        hooked = self.hook.functions.get(f"gradient_{name}") if self.hook is not None else None
        if hooked is not None and value.live and self.hook is not None:
            value.hooked = partial(self._arrived, replace(self.hook, function=hooked), self.number, value)
        return value

    def _arrived(self, hook: Hook, number: int, x: Tensor, grad: Storage) -> Storage:
        """Return what the method makes of a gradient that arrives in a layer, and release the gradient. Autocast is
        off, and autograd records nothing."""
        before = self.autocast, self.number, self.recording
        self.autocast, self.number, self.recording = False, number, False
        (made,) = self.act(hook, [Tensor(x.shape, x.width, False, grad)])
        self.autocast, self.number, self.recording = before
        self.tape.free(grad)
        return tensor(made).storage

    def _mine(self, word: str, line: Line, function: Function) -> Own | None:
        """Return the method's tensor of a name; None if it is optional and missing. `xattn.A` is that of the block
        `xattn` of the current layer."""
        name = word.removesuffix("?")
        block, _, last = name.rpartition(".")
        found: Sequence[Own] = []
        if self.hook is not None and block:
            found = self.hook.places.get(last, {}).get(("block", self.stack, block), [])
        elif self.hook is not None:
            found = self.hook.tensors.get(name, [])
        own = next((o for o in found if o.layers is None or self.number in o.layers), None)
        if own is None and not word.endswith("?"):
            known = ", ".join(self.hook.tensors) if self.hook is not None else "none"
            raise self._wrong(line.text, f"no tensor .{name} here", f"one of {known}", function)
        return own

    def _parts(self, line: Line, function: Function) -> list[Value]:
        """`w = part .F 0 rows numbers`: one of several parameters that the entry declares as one tensor; behind these
        may stand which of its copies is meant."""
        word, *rest = line.arguments
        numbers = [self._value(one, line, function) for one in rest]
        if not str(word).startswith(".") or len(numbers) not in (3, 4):
            raise self._wrong(line.text, "no such part", "a tensor of the method's own, a number and sizes", function)
        own = self._mine(str(word)[1:], line, function)
        if own is None:
            return [None]
        number, *shape = numbers[:3]
        copy = numbers[3] if len(numbers) > 3 else self.copy
        self.parts.setdefault(own.key, {})[number] = tuple(shape)
        key = own.key, copy, number
        part = self._parameter(key, padded(shape), own.trained, own.layers is not None)
        return [self.tape.hold(part)]

    def _parameter(
        self, key: Any, shape: Any, trained: bool, layered: bool, single: bool = False, wide: bool = False
    ) -> Tensor:
        """Return a parameter. wide: whether it has the type of a trained one, since it is trained in another turn."""
        known = self.inside if layered else self.outside
        if key not in known:
            width = SINGLE if single else self.flags.trained if trained or wide else self.flags.width
            known[key] = Tensor(shape, width, trained, key=key)
        return known[key]

    def weight(self, module: Module | Part, suffix: str = "") -> Tensor | None:
        """Return a parameter of a module or of a part of it, held once, as the method makes it."""
        if isinstance(module, Part):
            start, stop, groups = module.slice
            if groups > 1:
                method, path = self.program.plan.id, module.module.path
                raise UsageError(f"memory: {method} reads a part of {path} whose outputs lie apart, head by head")
            whole = self.weight(module.module, suffix)
            if whole is None:
                return None
            kind = "narrow" if suffix == "bias" else "positions"
            (made,) = self.operate(kind, self.language.rules[kind], [whole], [stop - start])
            self.tape.free(whole.storage)
            return made
        owner = self.model.owner(module, suffix)
        found = dict(owner.parameters)
        if not found:
            return None
        name = suffix or ("weight" if "weight" in found else next(iter(found)))
        if name not in found:
            return None
        layered = bool(owner.layers)
        trained = self.program.trains(owner, name, self.number if layered else -1)
        shape = found[name]
        if owner.kind == "conv1d" and name == "weight":
            shape = shape[::-1]
        single = owner.role in self.model.operations.float32
        own = self.owns.get((owner.path, name))
        if own is not None:
            return self.tape.hold(self._parameter((own.key, None), own.shape, own.trained, layered, single))
        wide = self.program.whole.trains(owner, name, self.number if layered else -1)
        value = self.tape.hold(self._parameter((owner.path, name), padded(shape), trained, layered, single, wide))
        for hook in self.program.at(owner.stack, owner.path, self.number):
            if hook.suffix and hook.suffix != name:
                continue
            if hook.name == "gradient" and value.live:
                value.hooked = partial(self._arrived, hook, self.number, value)
            if hook.name == name or (hook.name == "weight" and name not in ("weight", "bias")):
                made = self._made(hook, value)
                self.tape.free(value.storage)
                value = made
        return value

    def _made(self, hook: Hook, value: Tensor) -> Tensor:
        """Return what a method makes of a parameter. If the method says so, the backward pass makes it `anew`."""
        tape = self.tape
        before, outer = tape.now, tape.watch()
        made = tensor(self.act(hook, [value])[0])
        if made.anew:
            made.anew = max(tape.watched() - before, made.bytes)
        tape.unwatch(outer)
        return made

    # Operations

    def operate(
        self, kind: str, rule: Rule, inputs: list[Tensor], numbers: list[Any], shape: Any = None
    ) -> list[Tensor]:
        """Run an operation, under autocast or not, and return its outputs, each held once."""
        width = self._autocast(rule)
        if not width:
            return self._done(kind, rule, inputs, numbers, shape)
        cast = [self._cast(x, width) for x in inputs]
        results = self._done(kind, rule, cast, numbers, shape)
        self._let_go(cast)
        return results

    def _autocast(self, rule: Rule) -> int:
        """Return the bytes per entry of the type to which autocast casts the inputs; 0 if it casts nothing."""
        if not self.autocast:
            return 0
        type_ = rule.cuda if self.flags.device == "cuda" else rule.cpu
        return 0 if type_ is None else HALF if type_ == "half" else SINGLE

    def _cast(self, x: Tensor, width: int) -> Tensor:
        """Return autocast's copy of a tensor in another type. A trained parameter has one copy per forward pass."""
        if x.width == width or x.width not in (HALF, SINGLE):
            return self.tape.hold(x)
        if x.key is None or not x.live:
            return self._done("cast", self.language.rules["cast"], [x], [width])[0]
        if id(x) not in self.casts:
            (made,) = self._done("cast", self.language.rules["cast"], [x], [width])
            self.casts[id(x)] = x, made
            self.held.append(made.storage)
        return self.tape.hold(self.casts[id(x)][1])

    def _done(self, kind: str, rule: Rule, inputs: list[Tensor], numbers: list[Any], shape: Any = None) -> list[Tensor]:
        """Run an operation and return its outputs. Put it on the tape if a gradient reaches it."""
        tape, names = self.tape, self.names
        if rule.single and inputs[0].width < SINGLE:
            method = self.program.plan.id
            raise UsageError(
                f"memory: {method} needs {kind}, which torch lacks for bfloat16; expected float32 or mixed"
            )
        special = SPECIAL.get(kind)
        if special is not None:
            return [special(self, inputs[0])]
        width = self._width(kind, rule, inputs, numbers)
        if kind in CASTS and inputs[0].width == width:
            return [tape.hold(inputs[0])]
        if rule.lays and len(inputs) == 1 and inputs[0].laid:
            return [tape.hold(inputs[0])]
        if "skip" in rule.sizes and rule.sizes["skip"](names, inputs, None, numbers)[0]:
            return [tape.hold(inputs[0])]
        if rule.parts:
            shapes = [(*inputs[0].shape[:2], number) for number in numbers]
        elif shape is not None:
            shapes = [shape]
        elif "shape" in rule.sizes:
            shapes = [rule.sizes["shape"](names, inputs, None, numbers)]
        elif len(inputs) == 1:
            shapes = [inputs[0].shape]
        else:
            shapes = [tuple(map(max, *(x.shape for x in inputs)))]
        self.done += 1
        gone = 0 <= self.limit < self.done
        live = False
        for x in inputs[: rule.through]:
            live = live or x.live
        outputs = []
        for one in shapes:
            y = Tensor(one, width, live, inputs[0].storage if rule.view else UNBORN)
            y.laid = rule.lays
            y.storage = tape.hold(inputs[0]).storage if rule.view else tape.new(0 if gone or rule.free else y.bytes)
            outputs.append(y)
        y = outputs[0]
        if "during" in rule.sizes and not gone:
            tape.see(tape.now + rule.sizes["during"](names, inputs, y, numbers)[0])
        if "flops" in rule.sizes and not gone:
            tape.flops += rule.sizes["flops"](names, inputs, y, numbers)[0]
        if live:
            self._keep(rule, inputs, numbers, outputs)
        return outputs

    def _keep(self, rule: Rule, inputs: list[Tensor], numbers: list[Any], outputs: list[Tensor]) -> None:
        """Keep what the backward pass needs: inputs before the operation runs, outputs after it."""
        kept: list[Tensor | None] = []
        y = outputs[0]
        for what, need in rule.needs:
            if what == -2:
                kept.append(None)
            elif what < len(inputs) and (need is None or (need < len(inputs) and inputs[need].live)):
                kept.append(y if what == -1 else inputs[what])
        if kept:
            before = all(k is not None and k is not y for k in kept)
            self.last = self.done - before
        if self.recording:
            storages = [
                self.tape.new(rule.sizes["own"](self.names, inputs, y, numbers)[0]) if k is None
                else Anew(k.bytes, k.anew) if k.anew
                else self.tape.hold(k).storage
                for k in kept
            ]  # fmt: skip
            self.tape.records.append(Record(rule, list(inputs), numbers, outputs, self.names, storages))

    def _width(self, kind: str, rule: Rule, inputs: list[Tensor], numbers: list[Any]) -> int:
        if kind == "cast":
            return int(numbers[0]) or self.flags.width
        if rule.width is not None:
            return rule.width
        if rule.like is not None:
            return inputs[rule.like].width
        if not inputs:
            return self.flags.width
        width = inputs[0].width
        for x in inputs[1 : rule.through]:
            if x.width > width:
                width = x.width
        return width

    # Of a tensor itself

    def leaf(self, x: Tensor) -> Tensor:
        """Return a leaf that requires a gradient. Autograd holds it to the end, but not a checkpoint's second copy."""
        y = x if x.live else Tensor(x.shape, x.width, True, x.storage)
        if not x.live and self.limit < 0:
            self.leaves.append(self.tape.hold(y))
        return self.tape.hold(y)

    def keep(self, x: Tensor) -> Tensor:
        """Hold a tensor from outside the model, to the end of the step, as a module does that keeps its last draw."""
        if self.limit < 0:
            self.lasting.append(self.tape.hold(x).storage)
        return self.tape.hold(x)

    def stay(self, x: Tensor) -> Tensor:
        """Hold a tensor until the caller of the current stack returns."""
        if self.limit < 0:
            self.stayed.append(x.storage)
        scope = self.scopes[min(1, len(self.scopes) - 1)]
        scope[f"held {len(scope)}"] = self.tape.hold(x)
        return self.tape.hold(x)

    def again(self, x: Tensor) -> Tensor:
        """Return a frozen tensor that autograd does not keep, because the backward pass makes it again."""
        y = self.tape.hold(Tensor(x.shape, x.width, False, x.storage))
        y.anew = y.bytes
        return y

    def remain(self, x: Tensor) -> Tensor:
        """Hold a tensor until the caller of the current function returns."""
        scope = self.scopes[-2]
        scope[f"held {len(scope)}"] = self.tape.hold(x)
        return self.tape.hold(x)

    def linger(self, x: Tensor) -> Tensor:
        """Hold a tensor until the current layer returns."""
        scope = self.scopes[self.depth]
        scope[f"held {len(scope)}"] = self.tape.hold(x)
        return self.tape.hold(x)

    def mark(self, x: Tensor) -> Tensor:
        """Mark a parameter whose gradient a hook replaces."""

        def made(grad: Storage) -> Storage:
            new = self.tape.new(x.bytes)
            self.tape.free(grad)
            return new

        x.hooked = made
        return self.tape.hold(x)

    def _wrong(self, text: str, found: str, expected: str, function: Function | None = None) -> PeftonomyError:
        """Return the error for a line. A method's functions may fit other models, so that one is a UsageError."""
        head = f"{function.name}: {text}" if function is not None else text
        where = f"operations of {self.model.family.model_type}"
        if self.hook is None:
            return DataError([Problem(where, 0, head, found, expected)])
        where = f"operations of {self.program.plan.id} in {self.model.family.model_type}"
        return UsageError(str(Problem(where, 0, head, found, expected)))


SPECIAL: dict[str, Callable[[Machine, Tensor], Tensor]] = {
    "leaf": Machine.leaf, "hold": Machine.keep, "stay": Machine.stay, "remain": Machine.remain,
    "linger": Machine.linger, "hooked": Machine.mark, "anew": Machine.again,
    "same": lambda machine, x: machine.tape.hold(x),
}  # fmt: skip


def tensor(value: Value) -> Tensor:
    """Return a value that must be a tensor."""
    assert isinstance(value, Tensor)
    return value
