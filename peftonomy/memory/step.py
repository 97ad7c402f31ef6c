"""One training step of a program, run on tensors that have only sizes.

Names and scopes are as in Python: a tensor is let go when no name holds it and autograd does not keep it. The forward
pass writes a tape, the backward pass reads it. Nothing here knows a model, and nothing knows a method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from .._errors import DataError, FormulaError, Problem, near
from .._formula import Formula
from .._inventory import Module
from .language import Function, Line, compiled
from .program import BLOCKS, Hook, Part, Program, Slice, padded
from .rules import INPUTS, Rule
from .tape import Record, Tape
from .tensor import Storage, Tensor

__all__ = ["Flags", "Step"]

HALF, SINGLE = 2, 4
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


class Group:
    """Layers that are run, and others like them that only count: on the way back their gradients are there at once."""

    def __init__(self, step: Step, more: int):
        self.more = more
        self.before = step.tape.now, step.tape.flops, step.tape.left
        self.first = len(step.held)
        self.trained: Any = 0
        self.kept: Any = 0
        self.left: Any = 0
        self.flops: Any = 0
        self.held: list[Storage] = []
        if more:
            step.tape.records.append(lambda: self.counted(step.tape))

    def end(self, step: Step) -> None:
        """The group is through the forward pass."""
        if not self.more:
            return
        tape, (now, flops, left) = step.tape, self.before
        self.kept, self.left = tape.now - now, tape.left - left
        self.held = step.held[self.first :]
        tape.now += self.more * self.kept
        tape.left += self.more * self.left
        tape.flops += self.more * (tape.flops - flops)
        tape.records.append(lambda: self.begin(tape))
        step.groups.append(self)

    def forget(self, step: Step) -> None:
        """What was held to the end of the forward pass and is not kept counts no longer."""
        gone = sum(storage.bytes for storage in self.held if not storage.holders)
        self.kept -= gone
        self.left -= gone
        step.tape.now -= self.more * gone
        step.tape.left -= self.more * gone

    def begin(self, tape: Tape) -> None:
        """The way back reaches the group, which is run when most is alive: as its last layer, or as its first."""
        self.flops = tape.flops
        if self.trained > self.kept:
            self.passed(tape)

    def counted(self, tape: Tape) -> None:
        """The way back has left the group."""
        tape.flops += self.more * (tape.flops - self.flops)
        if not self.trained > self.kept:
            self.passed(tape)

    def passed(self, tape: Tape) -> None:
        """The layers that only count have let go of what they kept, and their gradients are there."""
        tape.now += self.more * (self.trained - self.kept)
        tape.left -= self.more * self.left
        tape.grads += self.more * self.trained


class Step:
    """A forward and a backward pass."""

    def __init__(self, program: Program, flags: Flags):
        self.program, self.model, self.flags = program, program.model, flags
        self.language = self.model.language
        self.tape = Tape()
        self.scopes: list[dict[str, Value]] = []
        self.stack, self.number, self.block = "", -1, ""
        self.inside: dict[Any, Tensor] = {}  # parameters of the layer at hand
        self.outside: dict[Any, Tensor] = {}  # all others
        self.sequences: dict[str, list[tuple[list[int], int]]] = {}
        self.held: list[Storage] = []  # to the end of the forward pass
        self.groups: list[Group] = []
        self.casts: dict[int, tuple[Tensor, Tensor]] = {}
        self.shared: dict[str, Value] = {}
        self.autocast = flags.autocast
        self.hook: Hook | None = None
        self.module: Module | None = None  # whose forward pass runs
        self.copy: int | None = None
        self.depth, self.used = 0, dict[str, Value]()  # scopes outside of the layer, and what it reads from there
        self.recording, self.done, self.last, self.limit = True, 0, 0, -1  # see _checkpointed
        flagged = {
            "batch": flags.batch, "seq": flags.seq, "eager": int(flags.eager), "sdpa": int(not flags.eager),
            "checkpointing": int(flags.checkpointing), "autocast": int(flags.autocast), "width": flags.width,
        }  # fmt: skip
        self.every = {stack: {**names, **flagged} for stack, names in self.model.names.items()}
        self.names: Mapping[str, Any] = self.every[""]
        self.base = self.names

    def run(self) -> Tensor:
        """The forward pass of the task; the loss, held once."""
        task = self.model.inventory.task
        if task not in self.model.functions:
            raise self._wrong(task, f"no function {task}", "a function for each task that is trained")
        (loss,) = self.call(self.model.functions[task], [])
        for storage in self.held:
            self.tape.free(storage)
        for group in self.groups:
            group.forget(self)
        self.held, self.casts = [], {}
        return tensor(loss)

    def back(self, loss: Tensor) -> None:
        """The backward pass, during which the caller holds the loss and torch its gradient."""
        self.tape.forward = False
        loss.grad = self.tape.new(SINGLE)
        loss.grad.holders += 1
        self.tape.back()

    # Functions

    def call(self, function: Function, values: Sequence[Value]) -> list[Value]:
        """Run a function: what it named is let go, its results are held once."""
        scope: dict[str, Value] = dict(zip(function.inputs, values, strict=False))
        for value in scope.values():
            if isinstance(value, Tensor):
                value.storage.holders += 1
        self.scopes.append(scope)
        results: list[Value] = []
        named = True  # whether the results at hand have names, which hold them
        for line in function.lines:
            if line.condition is not None and not self._number(line.condition, function, line):
                continue
            if not named:
                self._let_go(results)
            results, named = self._line(line, function), bool(line.targets)
            if named:
                self._name(scope, line, results, function)
            if line.kind == "return":
                break
        if named:
            self._hold_all(results)
        self.scopes.pop()
        for value in scope.values():
            if isinstance(value, Tensor):
                self.tape.free(value.storage)
        return results

    def _name(self, scope: dict[str, Value], line: Line, results: list[Value], function: Function) -> None:
        """Give results their names; what had them before is let go."""
        if len(results) != len(line.targets):
            raise self._wrong(line.text, f"{len(results)} results", f"{len(line.targets)}", function)
        for target, value in zip(line.targets, results, strict=True):
            old = scope.get(target)
            scope[target] = value
            if isinstance(old, Tensor):
                self.tape.free(old.storage)

    def act(self, hook: Hook, values: Sequence[Value]) -> list[Value]:
        """Run a function of the method, with its own tensors and names at hand."""
        before = self.hook, self.names, self.copy
        self.hook, self.names, self.copy = hook, {**self.base, **hook.names}, None
        results = self.call(hook.function, values)
        self.hook, self.names, self.copy = before
        return results

    def _let_go(self, values: Sequence[Value]) -> None:
        for value in values:
            if isinstance(value, Tensor):
                self.tape.free(value.storage)

    def _share(self, line: Line, function: Function) -> list[Value]:
        """`share s x`: put a tensor aside under a name of its own, for other functions and later layers."""
        value = self._value(line.arguments[1], line, function)
        self._hold_all([value])
        self._let_go([self.shared.get(str(line.arguments[0]))])
        self.shared[str(line.arguments[0])] = value
        return []

    def _line(self, line: Line, function: Function) -> list[Value]:
        kind = line.kind
        if kind == "each":
            return self._layers(line, function)
        if kind == "share":
            return self._share(line, function)
        values = [self._value(word, line, function) for word in line.arguments]
        borrowed = [v for w, v in zip(line.arguments, values, strict=True) if w in (".weight", ".bias", ".bias?")]
        if borrowed:
            results = self.apply(kind, values, line, function)
            self._let_go(borrowed)
            return results
        if kind == "return":
            return [self.tape.hold(v) if isinstance(v, Tensor) else v for v in values]
        if kind == "loop":
            return self._loop(line, function, values)
        if kind == "detached":
            return self._detached(line, function, values)
        if kind == "none":
            return [None]
        if kind == "reads":  # by name only: a layer is called with it, so that a checkpoint holds it
            return []
        if self.tape.log is not None:
            self.tape.origin = f"{self.stack}{self.number if self.stack else ''} {function.name}: {line.text}"
        return self.apply(kind, values, line, function)

    def apply(self, kind: str, values: list[Value], line: Line, function: Function) -> list[Value]:
        """One operation, or a function that is called as if it were one; results are held once."""
        if self.hook is not None and kind in self.hook.functions:
            return self.call(self.hook.functions[kind], values)
        if kind in self.language.points:
            return self._point(kind, values)
        found = self.model.functions.get(kind)
        if found is not None:
            if self.hook is not None:  # a function of the model's, with the model's own names
                before = self.hook, self.names
                self.hook, self.names = None, self.base
                results = self._called(found, kind, values)
                self.hook, self.names = before
                return results
            return self._called(found, kind, values)
        rule = self.language.rules.get(kind)
        if rule is None:
            known = [*self.language.rules, *self.model.functions]
            hint = f"; did you mean {' or '.join(matches)}?" if (matches := near(kind, known)) else ""
            raise self._wrong(line.text, f"unknown operation {kind}{hint}", "a rule or a function", function)
        return self._operation(kind, rule, values, line, function)

    def _called(self, function: Function, kind: str, values: list[Value]) -> list[Value]:
        """A function of the model's, with what the method does around a module or a block."""
        inputs = function.inputs
        if inputs and inputs[-1] == "W" and isinstance(values[len(inputs) - 1], Module):
            module = values[len(inputs) - 1]
            if module is self.module:  # one function of a module calls another
                return self.call(function, values)
            outer, self.module = self.module, module
            hooks = self.program.at(module.stack, module.path, self.number)
            results = self._around(lambda v: self.call(function, v), values, hooks)
            self.module = outer
            return results
        if self.stack and kind in BLOCKS:
            before, self.block = self.block, kind
            hooks = self.program.at(self.stack, kind, self.number)
            results = self._around(lambda v: self.call(function, v), values, hooks)
            self.block = before
            return results
        return self.call(function, values)

    def _around(self, run: Callable[[list[Value]], list[Value]], values: list[Value], hooks: list[Hook]) -> list[Value]:
        """What runs, with what the method does before and after it."""
        if not hooks:
            return run(values)
        x = values[0]
        self._hold_all([x])
        for hook in hooks:
            if hook.name == "before":
                x = self._typed(self.act(hook, [x, *values[1:]])[0], tensor(x))
        y, *others = run([x, *values[1:]])
        for hook in hooks:
            if hook.name == "after":
                y = self._after(hook, x, y)
        self._let_go([x])
        return [y, *others]

    def _typed(self, new: Tensor, old: Tensor) -> Tensor:
        """In the type of what it stands for, which is let go."""
        (y,) = self.operate("as", self.language.rules["as"], [new, old], [])
        self.tape.free(new.storage)
        self.tape.free(old.storage)
        return y

    def _after(self, hook: Hook, x: Value, y: Tensor) -> Tensor:
        """What a module gives out after a hook, which may change a slice of it; y is let go."""
        if hook.part is None:
            return self._typed(self.act(hook, [x, y])[0], y)
        part = self._piece(y, hook.part.stop - hook.part.start, hook.part)
        changed = self._typed(self.act(hook, [x, part])[0], part)
        width = y.shape[2]
        left = self._piece(y, hook.part.start, None)
        right = self._piece(y, width - hook.part.stop, None)
        (whole,) = self.operate("join", self.language.rules["join"], [left, changed, right], [])
        for piece in (left, changed, right, y):
            self.tape.free(piece.storage)
        return whole

    def _piece(self, y: Tensor, width: Any, part: Slice | None) -> Tensor:
        (piece,) = self.operate("narrow", self.language.rules["narrow"], [y], [width])
        if part is not None and part.groups > 1:  # spread over groups, so that it is copied together
            (whole,) = self.operate("copy", self.language.rules["copy"], [piece], [])
            self.tape.free(piece.storage)
            return whole
        return piece

    def _point(self, name: str, values: list[Value]) -> list[Value]:
        """What the method's parts do here, one after the other; the values themselves where none does anything."""
        results = [self.tape.hold(v) if isinstance(v, Tensor) else v for v in values]
        for hook in self.program.point(self.stack, self.block, name, self.number):
            changed = self.act(hook, results)
            self._let_go(results)
            results = changed
        return results

    def _detached(self, line: Line, function: Function, values: list[Value]) -> list[Value]:
        """`y = detached f x ...`: f runs, and what autograd kept of it goes at once, as nothing is left to ask for it."""
        name, *given = values
        mark = len(self.tape.records)
        results = self.apply(str(name), given, line, function)
        for record in self.tape.records[mark:]:
            if isinstance(record, Record):
                for storage in record.kept:
                    self.tape.free(storage)
        del self.tape.records[mark:]
        return [Tensor(y.shape, y.width, False, y.storage) if isinstance(y, Tensor) else y for y in results]

    def _loop(self, line: Line, function: Function, values: list[Value]) -> list[Value]:
        """`y = loop n f y ...`: f runs n times on what it gave before, each time with the next copy of each tensor."""
        count, name, *given = values
        results = [self.tape.hold(v) if isinstance(v, Tensor) else v for v in given]
        before = self.copy
        for number in range(int(count)):
            self.copy = number
            changed = self.apply(str(name), results, line, function)
            rest = results[len(changed) :]
            self._let_go(results[: len(changed)])
            results = changed + rest
        self.copy = before
        wanted = max(1, len(line.targets))
        self._let_go(results[wanted:])
        return results[:wanted]

    # Values

    def _value(self, word: str | Formula, line: Line, function: Function) -> Value:
        if isinstance(word, Formula):
            return self._number(word, function, line)
        if word[0] == ".":
            return self._own(word[1:], line, function)
        if word[0] == "$" and word[1:] in self.shared:
            return self.shared[word[1:]]
        for depth in range(len(self.scopes) - 1, -1, -1):
            scope = self.scopes[depth]
            if word in scope:
                if depth < self.depth:
                    self.used[word] = scope[word]
                return scope[word]
        module = self.model.module(self.stack, self.number, word)
        if module is not None:
            return module
        part = self.model.part(self.stack, self.number, word) if "." in word else None
        if part is not None:
            return part
        if word in self.names:
            return self.names[word]
        if line.kind in ("loop", "detached"):
            return word
        known = {name for scope in self.scopes for name in scope} | {name for _, name in self.model.modules}
        hint = f"; did you mean {' or '.join(matches)}?" if (matches := near(word, known | {*self.names})) else ""
        raise self._wrong(line.text, f"unknown name {word}{hint}", "a variable, a role, or a size", function)

    def _number(self, formula: Formula, function: Function, line: Line) -> Any:
        try:
            return evaluated(formula)(self.names)[0]
        except KeyError:
            try:
                formula.check(self.names)
            except FormulaError as error:
                raise self._wrong(line.text, error.message, "sizes of the model", function) from None
            raise

    def _own(self, word: str, line: Line, function: Function) -> Tensor | None:
        name, optional = word.removesuffix("?"), word.endswith("?")
        if name in ("weight", "bias") and self.hook is not None and self.hook.module is not None:
            module, part = self.hook.module, self.hook.part
            return self.weight(module if part is None else Part(module, part), name)
        found = self.hook.tensors.get(name, []) if self.hook is not None else []
        own = next((o for o in found if o.layers is None or self.number in o.layers), None)
        if own is None:
            if optional:
                return None
            known = ", ".join(self.hook.tensors) if self.hook is not None else "none"
            raise self._wrong(line.text, f"no tensor .{name} here", f"one of {known}", function)
        shape, key = own.shape, (own.key, self.copy)
        if own.copies > 1 and self.copy is None:
            shape = (own.copies * shape[0], *shape[1:])
        return self._parameter(key, shape, own.trained, own.layers is not None)

    def _parameter(self, key: Any, shape: Any, trained: bool, layered: bool) -> Tensor:
        known = self.inside if layered else self.outside
        if key not in known:
            width = self.flags.trained if trained else self.flags.width
            known[key] = Tensor(shape, width, trained, key=key)
        return known[key]

    def weight(self, module: Module | Part, suffix: str = "") -> Tensor | None:
        """A parameter of a module or of a part of it, held once: its weight, or what a method makes of it."""
        if isinstance(module, Part):
            whole, (start, stop, _) = self.weight(module.module, suffix), module.slice
            if whole is None:
                return None
            kind = "narrow" if suffix == "bias" else "positions"
            (made,) = self.operate(kind, self.language.rules[kind], [whole], [stop - start])
            self.tape.free(whole.storage)
            return made
        owner = self.model.owner(module)
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
        value = self.tape.hold(self._parameter((owner.path, name), padded(shape), trained, layered))
        for hook in self.program.at(owner.stack, owner.path, self.number):
            if hook.suffix and hook.suffix != name:
                continue
            value.hooked = value.hooked or hook.name == "gradient"
            if hook.name == name or (hook.name == "weight" and name not in ("weight", "bias")):
                (made,) = self.act(hook, [value])
                self.tape.free(value.storage)
                value = made
        return value

    # Operations

    def _operation(self, kind: str, rule: Rule, values: list[Value], line: Line, function: Function) -> list[Value]:
        if values and values[0] is None:
            return [None]
        inputs: list[Tensor] = []
        numbers: list[Any] = []
        weights: list[Tensor] = []
        for value in values:
            if isinstance(value, Tensor):
                inputs.append(value)
            elif isinstance(value, Module | Part):
                kinds = value.module if isinstance(value, Part) else value
                for suffix in ("", "bias") if rule.bias and kinds.kind != "parameter" else ("",):
                    made = self.weight(value, suffix)
                    if made is not None:
                        inputs.append(made)
                        weights.append(made)
            elif value is not None:
                numbers.append(value)
        wanted = len(line.targets) if rule.parts else len(rule.numbers)
        if len(numbers) != wanted and not wanted - rule.optional <= len(numbers) < wanted:
            raise self._wrong(line.text, f"{len(numbers)} numbers", f"{wanted}: {' '.join(rule.numbers)}", function)
        numbers += [0] * (wanted - len(numbers))
        if not inputs and rule.through:
            raise self._wrong(line.text, "no tensor", "at least one", function)
        for letter, name in rule.live.items():
            at = INPUTS.index(letter)
            if at < len(inputs) and inputs[at].live:
                return self._instead(name, rule, inputs)
        if rule.alone and len(inputs) == 1:
            return [self.tape.hold(inputs[0])]
        shape = None
        if line.shape is not None:
            shape = self._sizes(line.shape, inputs, line, function)
        results = self.operate(kind, rule, inputs, numbers, shape)
        self._let_go(weights)
        return list(results)

    def _instead(self, name: str, rule: Rule, inputs: list[Tensor]) -> list[Value]:
        """A function in place of an operation, inside of which autocast does nothing."""
        type_ = self._autocast(rule)
        given = [self._cast(x, type_) if type_ else self.tape.hold(x) for x in inputs]
        before, self.autocast = self.autocast, False
        results = self.call(self.model.functions[name], given)
        self.autocast = before
        self._let_go(given)
        return results

    def _autocast(self, rule: Rule) -> int:
        """Bytes of a number of the type that autocast gives an operation's inputs, 0 where it does nothing."""
        if not self.autocast:
            return 0
        type_ = rule.cuda if self.flags.device == "cuda" else rule.cpu
        return 0 if type_ is None else HALF if type_ == "half" else SINGLE

    def _sizes(self, shape: Sequence[Formula], inputs: list[Tensor], line: Line, function: Function) -> Any:
        given = {f"{letter}{i}": x.shape[i] for letter, x in zip("abcd", inputs, strict=False) for i in range(3)}
        before, self.names = self.names, {**self.names, **given}
        found = tuple(self._number(size, function, line) for size in shape)
        self.names = before
        return found

    def operate(
        self, kind: str, rule: Rule, inputs: list[Tensor], numbers: list[Any], shape: Any = None
    ) -> list[Tensor]:
        """An operation under autocast or not; its outputs, each held once."""
        width = self._autocast(rule)
        if not width:
            return self._done(kind, rule, inputs, numbers, shape)
        cast = [self._cast(x, width) for x in inputs]
        results = self._done(kind, rule, cast, numbers, shape)
        self._let_go(cast)
        return results

    def _cast(self, x: Tensor, width: int) -> Tensor:
        """Under autocast: a copy in another type, of a trained parameter one for all of the forward pass."""
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
        """An operation: its outputs, and a place on the tape if a gradient comes there."""
        tape, names = self.tape, self.names
        special = SPECIAL.get(kind)
        if special is not None:
            return [special(self, inputs[0])]
        width = self._width(kind, rule, inputs, numbers)
        if kind in CASTS and inputs[0].width == width:
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
        live = any(x.live for x in inputs[: rule.through])
        outputs = []
        for one in shapes:
            y = Tensor(one, width, live, inputs[0].storage if rule.view else UNBORN)
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
        """What the backward pass needs; inputs are kept before the operation runs, and outputs after."""
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
        return max(x.width for x in inputs[: rule.through or 1])

    # Layers

    def _layers(self, line: Line, function: Function) -> list[Value]:
        """`h = each decoder h`: all layers of a stack, one after the other, each on what the one before gave."""
        stack = str(line.arguments[0])
        if stack not in self.model.inventory.stacks or stack not in self.model.functions:
            known = ", ".join(self.model.inventory.stacks)
            raise self._wrong(line.text, f"unknown stack {stack}", f"one of {known}, with a function", function)
        values = [self._value(word, line, function) for word in line.arguments[1:]]
        self._hold_all(values)
        outer = self.stack, self.number, self.inside, self.base, self.names
        for numbers, more in self.sequence(stack):
            group = Group(self, more)
            for number in numbers:
                self._enter(stack, number)
                hooks = self.program.at(stack, "layer", number)
                results = self._around(self._checkpointed if self.flags.checkpointing else self._one, values, hooks)
                group.trained += sum(p.bytes for p in self.inside.values() if p.live)
                self._let_go(values[: len(results)])
                values = results + values[len(results) :]
            group.end(self)
        self.stack, self.number, self.inside, self.base, self.names = outer
        wanted = max(1, len(line.targets))
        self._let_go(values[wanted:])
        return values[:wanted]

    def sequence(self, stack: str) -> list[tuple[list[int], int]]:
        """The layers of a stack, in groups: which are run, and how often more they count."""
        if stack not in self.sequences:
            self.sequences[stack] = (
                [([n], 0) for n in range(self.model.inventory.backbone.layers[stack])] if self.flags.whole
                else self.program.sequence(stack, self.every[stack])
            )  # fmt: skip
        return self.sequences[stack]

    def _enter(self, stack: str, number: int) -> None:
        """Names and parameters of a layer."""
        self.stack, self.number, self.inside = stack, number, {}
        roles = {
            f"has_{name.replace('.', '_')}": 1
            for (where, name), modules in self.model.modules.items()
            if where == stack and any(not m.layers or number in m.layers for m in modules)
        }
        self.base = self.names = {**self.every[stack], **roles, **self.program.layered(number)}

    def _one(self, values: list[Value]) -> list[Value]:
        self.depth, self.used = len(self.scopes), {}
        results = self.call(self.model.functions[self.stack], values)
        self.depth = 0
        return results

    def _checkpointed(self, values: list[Value]) -> list[Value]:
        """A layer of which only what it is given is kept."""
        self.recording, self.done, self.last = False, 0, 0
        results = self._one(values)
        self.recording = True
        ys = [y for y in results if isinstance(y, Tensor) and y.live]
        if ys:
            given = [v for v in (*values, *self.used.values()) if isinstance(v, Tensor)]
            self._hold_all(given)
            state = self.stack, self.number, self.inside, self.base, dict(self.used), self.last
            self.tape.records.append(lambda: self._again(list(values), results, given, state))
        return results

    def _again(self, values: list[Value], results: list[Value], given: list[Tensor], state: Any) -> None:
        """Forward once more, until all is there that the backward pass needs, and back."""
        storages = [x.storage for x in given]
        grads = [(i, y.grad) for i, y in enumerate(results) if isinstance(y, Tensor) and y.grad is not None]
        if grads:
            records, self.tape.records = self.tape.records, []
            self.stack, self.number, self.inside, self.base, used, last = state
            self.names, self.scopes = self.base, [used]
            self.done, self.limit = 0, last
            again = self._one(values)
            self.limit = -1
            for i, grad in grads:
                results[i].grad = None  # before the next line, since it may be the same tensor
                again[i].grad = grad
            self._let_go(again)
            kept = next((r.kept for r in self.tape.records if isinstance(r, Record) and r.kept), None)
            if kept is not None:
                kept.extend(storages)  # let go with the last of what is kept
                storages = []
            self.tape.back()
            self.tape.records, self.stack, self.number, self.scopes = records, "", -1, []
        for storage in storages:
            self.tape.free(storage)

    def _hold_all(self, values: Sequence[Value]) -> None:
        for value in values:
            if isinstance(value, Tensor):
                self.tape.hold(value)

    def leaf(self, x: Tensor) -> Tensor:
        """A leaf that wants a gradient, which autograd holds to the end."""
        y = x if x.live else self.tape.hold(Tensor(x.shape, x.width, True, x.storage))
        return self.tape.hold(y)

    def keep(self, x: Tensor) -> Tensor:
        """Held from outside of the model, to the end of the forward pass."""
        if self.limit < 0:
            self.held.append(self.tape.hold(x).storage)
        return self.tape.hold(x)

    def stay(self, x: Tensor) -> Tensor:
        """Held by what called the stack at hand, until that is through."""
        scope = self.scopes[min(1, len(self.scopes) - 1)]
        scope[f"held {len(scope)}"] = self.tape.hold(x)
        return self.tape.hold(x)

    def _wrong(self, text: str, found: str, expected: str, function: Function | None = None) -> DataError:
        where = f"operations of {self.model.family.model_type}"
        if self.hook is not None:
            where = f"operations of {self.program.plan.method.id} in {self.model.family.model_type}"
        head = f"{function.name}: {text}" if function is not None else text
        return DataError([Problem(where, 0, head, found, expected)])


CASTS = ("cast", "as", "float")
UNBORN = Storage(0, False)
SPECIAL: dict[str, Callable[[Step, Tensor], Tensor]] = {
    "leaf": Step.leaf, "hold": Step.keep, "stay": Step.stay, "same": lambda step, x: step.tape.hold(x),
}  # fmt: skip
_evaluated: dict[Formula, Callable[[Mapping[str, Any]], tuple[Any, ...]]] = {}


def evaluated(formula: Formula) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    """A formula as a function of names; equal formulas share one."""
    found = _evaluated.get(formula)
    if found is None:
        found = _evaluated[formula] = compiled(formula)
    return found


def tensor(value: Value) -> Tensor:
    """A value that is a tensor."""
    assert isinstance(value, Tensor)
    return value
