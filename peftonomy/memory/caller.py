"""Run functions: their lines in order, with scopes as in Python, and a method's hooks around modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

from ..backbones.modules import Module
from ..errors import PeftonomyError, near
from ..formula import Formula
from ..schema.programs import Function, Line
from .machine import EVERY, Machine, Value, tensor
from .program import AROUND, BLOCKS, IN_PLACE, Hook, Own, Part, Slice
from .rules import INPUTS, Rule
from .tape import Record
from .tensor import Storage, Tensor

__all__ = ["Caller"]

PARAMETERISED = (Module, Part)
UNREAD = frozenset({"each", "share", "part", "unadapted", "doubled", "another", "nth", "every"})
"""The kinds of lines whose arguments are not all values."""
OWN = frozenset({"return", "loop", "stacked", "detached", "sized", "observed", "only", "none", "either", "reads"})
"""The other kinds that are no operations."""
NOWHERE: Mapping[str, Value] = {}
BROKEN = (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""The errors that Python raises for lines that are no computation."""


class Caller(Machine):
    """A machine that runs functions."""

    def layers(self, line: Line, function: Function) -> list[Value]:
        """Run all layers of a stack."""
        raise NotImplementedError

    def unadapted(self, function: Function | None, wanted: int) -> list[Value]:
        """Run the whole model, or one function of it, without the method and without gradients."""
        raise NotImplementedError

    def doubled(self, function: Function, layers: int, owns: Mapping[tuple[str, str], Own]) -> list[Value]:
        """Run a function of the model, with fewer layers and with other parameters."""
        raise NotImplementedError

    def another(self, values: list[Value], owns: Mapping[tuple[str, str], Own]) -> list[Value]:
        """Run the current layer once more, with other parameters."""
        raise NotImplementedError

    def call(self, function: Function, values: Sequence[Value]) -> list[Value]:
        """Run a function. Release what it named; hold its results once."""
        scope: dict[str, Value] = dict(zip(function.inputs, values, strict=False))
        for value in scope.values():
            if isinstance(value, Tensor):
                value.storage.holders += 1
        self.scopes.append(scope)
        results: list[Value] = []
        named = True  # whether the results at hand have names, which hold them
        line = function.lines[0]
        try:
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
        except PeftonomyError:
            raise
        except BROKEN as error:  # fewer arguments than the line needs, or others
            raise self._wrong(line.text, f"no operation: {error}", "an operation on tensors", function) from error
        if named:
            self._hold_all(results)
        self.scopes.pop()
        for value in scope.values():
            if isinstance(value, Tensor):
                self.tape.free(value.storage)
        return results

    def _name(self, scope: dict[str, Value], line: Line, results: list[Value], function: Function) -> None:
        """Give results their names, and release the previous holders of these names."""
        if len(results) != len(line.targets):
            raise self._wrong(line.text, f"{len(results)} results", f"{len(line.targets)}", function)
        for target, value in zip(line.targets, results, strict=True):
            old = scope.get(target)
            scope[target] = value
            if isinstance(old, Tensor):
                self.tape.free(old.storage)

    def act(self, hook: Hook, values: Sequence[Value]) -> list[Value]:
        """Run a function of the method, with its own tensors and names at hand."""
        before = self.hook, self.names, self.copy, self.floor
        self.hook, self.names, self.copy, self.floor = hook, {**self.base, **hook.names}, None, len(self.scopes)
        results = self.call(hook.function, values)
        if not results and hook.name in (*AROUND, *IN_PLACE):
            raise self._wrong(hook.function.lines[-1].text, "no result", "a tensor", hook.function)
        self.hook, self.names, self.copy, self.floor = before
        return results

    def _line(self, line: Line, function: Function) -> list[Value]:
        kind = line.kind
        if kind in UNREAD:
            return self._unread(kind, line, function)
        scope = self.scopes[-1] if len(self.scopes) > max(self.floor, self.depth) else NOWHERE
        values = [
            scope[word] if word.__class__ is str and word in scope else self._value(word, line, function)
            for word in line.arguments
        ]
        if line.borrows and self.hook is not None and self.hook.module is not None:
            borrowed = [v for w, v in zip(line.arguments, values, strict=True) if w in (".weight", ".bias", ".bias?")]
            results = self.apply(kind, values, line, function)
            self._let_go(borrowed)
            return results
        if kind in OWN:
            return self._own_kind(kind, line, function, values)
        if self.tape.log is not None:
            self.tape.origin = f"{self.stack}{self.number if self.stack else ''} {function.name}: {line.text}"
        return self.apply(kind, values, line, function)

    def _unread(self, kind: str, line: Line, function: Function) -> list[Value]:
        """Run a line whose arguments are not all values."""
        if kind == "each":
            return self.layers(line, function)
        if kind == "share":
            return self._share(line, function)
        if kind == "part":
            return self._parts(line, function)
        if kind == "unadapted":
            named = None if not line.arguments else self._model_function(line.arguments[0], line, function)
            return self.unadapted(named, len(line.targets))
        if kind == "doubled":
            return self._double(line, function)
        if kind == "another":
            return self._another(line, function)
        if kind == "nth":
            return self._nth(line, function)
        return self._every(line, function)

    def _own_kind(self, kind: str, line: Line, function: Function, values: list[Value]) -> list[Value]:
        """Run a line that is no operation."""
        if kind == "return":
            return [self.tape.hold(v) if isinstance(v, Tensor) else v for v in values]
        if kind == "loop":
            return self._loop(line, function, values)
        if kind == "stacked":
            return self._stacked(line, function, values)
        if kind == "detached":
            return self._detached(line, function, values)
        if kind == "sized":
            return self._sized(line, function, values)
        if kind == "observed":
            return self._observed(values)
        if kind == "only":
            return self._only(values)
        if kind == "none":
            return [None]
        if kind == "either":  # the first that is there
            first = next((v for v in values if v is not None), None)
            self._hold_all([first])
            return [first]
        return []  # `reads`: by name only; a layer is called with it, so that a checkpoint holds it

    def apply(self, kind: str, values: list[Value], line: Line, function: Function) -> list[Value]:
        """Run an operation, or a function that is called like one. Hold the results once."""
        if self.hook is not None and kind in self.hook.functions:
            self._unsized(kind, line, function)
            return self.call(self.hook.functions[kind], values)
        if kind in self.language.points:
            return self._point(kind, values)
        rule = self.language.rules.get(kind)
        # A method means the rule, even if the family has a function of that name.
        found = None if self.hook is not None and rule is not None else self.model.functions.get(kind)
        if found is not None:
            self._unsized(kind, line, function)
            if self.hook is not None:  # a function of the model's, with the model's own names
                before = self.hook, self.names
                self.hook, self.names = None, self.base
                results = self._called(found, kind, values)
                self.hook, self.names = before
                return results
            return self._called(found, kind, values)
        if rule is None:
            known = [*self.language.rules, *self.model.functions]
            hint = f"; did you mean {' or '.join(matches)}?" if (matches := near(kind, known)) else ""
            raise self._wrong(line.text, f"unknown operation {kind}{hint}", "a rule or a function", function)
        return self._operation(kind, rule, values, line, function)

    def _unsized(self, kind: str, line: Line, function: Function) -> None:
        """Refuse sizes of what a function gives, which has its own."""
        if line.shape is not None and kind == line.kind:
            raise self._wrong(line.text, f"sizes for the function {kind}", "sizes for operations only", function)

    def _operation(self, kind: str, rule: Rule, values: list[Value], line: Line, function: Function) -> list[Value]:
        if values and values[0] is None:
            return [None]
        inputs: list[Tensor] = []
        numbers: list[Any] = []
        weights: list[Tensor] = []
        for value in values:
            if isinstance(value, Tensor):
                inputs.append(value)
            elif isinstance(value, PARAMETERISED):
                kinds = value.module if isinstance(value, Part) else value
                for suffix in ("", "bias") if rule.bias and kinds.kind != "parameter" else ("",):
                    mark = len(self.tape.records)
                    made = self.weight(value, suffix)
                    if len(inputs) >= rule.through:  # no gradient gets there, so that what made it goes at once
                        self._forget(mark)
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
        """Run a function in place of an operation. Autocast does nothing inside it."""
        type_ = self._autocast(rule)
        given = [self._cast(x, type_) if type_ else self.tape.hold(x) for x in inputs]
        before, self.autocast = self.autocast, False
        results = self.call(self.model.functions[name], given)
        self.autocast = before
        self._let_go(given)
        return results

    def _sizes(self, shape: Sequence[Formula], inputs: list[Tensor], line: Line, function: Function) -> Any:
        given = {f"{letter}{i}": x.shape[i] for letter, x in zip("abcd", inputs, strict=False) for i in range(3)}
        before, self.names = self.names, {**self.names, **given}
        found = tuple(self._number(size, function, line) for size in shape)
        self.names = before
        return found

    # Around modules, blocks and points

    def _called(self, function: Function, kind: str, values: list[Value]) -> list[Value]:
        """Run a function of the model with the method's hooks around a module or block."""
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
        """Run something with the method's hooks before and after it."""
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
        """Return a tensor in the type of the one that it replaces, and release that one."""
        (y,) = self.operate("as", self.language.rules["as"], [new, old], [])
        self.tape.free(new.storage)
        self.tape.free(old.storage)
        return y

    def _after(self, hook: Hook, x: Value, y: Tensor) -> Tensor:
        """Return a module's output after a hook, which may change only a slice of it. Releases y."""
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
        """Run the method's functions at a point in order. If there are none, return the values unchanged."""
        results = [self.tape.hold(v) if isinstance(v, Tensor) else v for v in values]
        for hook in self.program.point(self.stack, self.block, name, self.number):
            changed = self.act(hook, results)
            self._let_go(results)
            results = changed
        return results

    # Lines of their own kind

    def _share(self, line: Line, function: Function) -> list[Value]:
        """`share s x`: put a tensor aside under a name of its own, for other functions and later layers."""
        value = self._value(line.arguments[1], line, function)
        self._hold_all([value])
        self._let_go([self.shared.get(str(line.arguments[0]))])
        self.shared[str(line.arguments[0])] = value
        return []

    def _every(self, line: Line, function: Function) -> list[Value]:
        """`a = every .a .b?`: tensors of the method's own at all their places, joined into one row."""
        assert self.hook is not None
        owns = [own for word in line.arguments for own in self.hook.everywhere(str(word)[1:].removesuffix("?"))]
        if not owns:
            raise self._wrong(line.text, "no such tensor", "tensors of the method's own", function)
        size = sum(prod(own.shape) * own.copies * (1 if own.layers is None else len(own.layers)) for own in owns)
        key = EVERY, frozenset(own.key for own in owns)
        whole = self._parameter(key, (1, 1, size), any(own.trained for own in owns), layered=False)
        return list(self.operate("copy", self.language.rules["copy"], [whole], []))

    def _nth(self, line: Line, function: Function) -> list[Value]:
        """`w = nth .A 1`: one of the copies of a tensor of the method's own, counted from 0."""
        word, which = line.arguments
        number = self._value(which, line, function)
        own = self._mine(str(word)[1:], line, function)
        if own is None:
            return [None]
        if not 0 <= number < own.copies:
            raise self._wrong(line.text, f"copy {number}", f"one of {own.copies}, from 0", function)
        before, self.copy = self.copy, number
        value = self._value(word, line, function)
        self.copy = before
        return [self.tape.hold(tensor(value))]

    def _double(self, line: Line, function: Function) -> list[Value]:
        """`h = doubled f n .A .B`: the model's function f runs with n layers, without the method, and with tensors of
        the method's own in place of the parameters that they are beside."""
        name, count, *words = line.arguments
        layers, known = int(self._value(count, line, function)), self._model_function(name, line, function)
        return self.doubled(known, layers, self._beside(words))

    def _another(self, line: Line, function: Function) -> list[Value]:
        """`y = another h .A .B`: the current layer runs once more on h, without the method, and with tensors of the
        method's own in place of the parameters that they are beside."""
        name, *words = line.arguments
        if not self.stack:
            raise self._wrong(line.text, "no layer here", "a function that acts at the layers", function)
        return self.another([self._value(name, line, function)], self._beside(words))

    def _beside(self, words: Sequence[str | Formula]) -> dict[tuple[str, str], Own]:
        """Return tensors of the method's own by the parameter of the model that each is beside."""
        assert self.hook is not None
        places = (self.hook.places.get(str(word)[1:], {}) for word in words)
        return {place[1:]: own for several in places for place, found in several.items() for own in found}

    def _model_function(self, name: str | Formula, line: Line, function: Function) -> Function:
        """Return a function of the model that a line names."""
        if name not in self.model.functions:
            raise self._wrong(line.text, f"no function {name}", "a function of the family", function)
        return self.model.functions[str(name)]

    def _detached(self, line: Line, function: Function, values: list[Value]) -> list[Value]:
        """`y = detached f x ...`: f runs, and what autograd kept of it goes at once: nothing asks for it."""
        name, *given = values
        mark = len(self.tape.records)
        results = self.apply(str(name), given, line, function)
        self._forget(mark)
        return [Tensor(y.shape, y.width, False, y.storage) if isinstance(y, Tensor) else y for y in results]

    def _sized(self, line: Line, function: Function, values: list[Value]) -> list[Value]:
        """`y = sized f x ...`: f runs, and its formulas have the positions of x as `length`."""
        name, *given = values
        before = self.names
        self.names = {**before, "length": tensor(given[0]).shape[1]}
        results = self.apply(str(name), given, line, function)
        self.names = before
        return results

    def _observed(self, values: list[Value]) -> list[Value]:
        """`y = observed x f`: x itself, whose gradient f is given as it arrives."""
        x, name = values
        assert self.hook is not None
        f = self.hook.functions[str(name)]
        tensor(x).hooked = partial(self._arrived, replace(self.hook, function=f), self.number, x)
        return [self.tape.hold(x)]

    def _only(self, values: list[Value]) -> list[Value]:
        """`only y`: nothing else that carries a gradient is read from here on, and its graph goes."""
        wanted = self.tape.only([tensor(y) for y in values])
        self.tape.drop(x.storage for x in self.leaves if id(x) not in wanted)
        self.leaves = [x for x in self.leaves if id(x) in wanted]
        return []

    def _forget(self, mark: int) -> None:
        """Release what autograd has kept since a mark on the tape."""
        for record in self.tape.records[mark:]:
            if isinstance(record, Record):
                for one in record.kept:
                    if isinstance(one, Storage):
                        self.tape.free(one)
        del self.tape.records[mark:]

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

    def _stacked(self, line: Line, function: Function, values: list[Value]) -> list[Value]:
        """`y = stacked n f x ...`: f runs n times on the same, each time with the next copy of each tensor; what it
        gives becomes one tensor."""
        count, name, *given = values
        before, made = self.copy, list[Tensor]()
        for number in range(int(count)):
            self.copy = number
            made += [tensor(y) for y in self.apply(str(name), given, line, function)]
        self.copy = before
        results = self.operate("stack", self.language.rules["stack"], made, [int(count)])
        self._let_go(made)
        return list(results)
