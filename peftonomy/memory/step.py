"""One training step of a program, run on tensors that have only sizes.

Names and scopes are as in Python: a tensor is let go when no name holds it and autograd does not keep it. The forward
pass writes a tape, the backward pass reads it. Nothing here knows a model, and nothing knows a method.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ..backbones.modules import Module
from ..errors import UsageError
from ..schema.programs import Function, Line
from .caller import Caller
from .machine import EVERY, SINGLE, Flags, Value, tensor
from .program import Hook, Own, Program
from .tape import Checkpoint, Record, Tape
from .tensor import Storage, Tensor

if TYPE_CHECKING:
    from ..costs.layout import Spot
    from ..costs.plan import Row

__all__ = ["Flags", "Step"]


class Group:
    """Layers that are run, and others like them that only count: on the way back their gradients are there at once."""

    def __init__(self, step: Step, more: int):
        self.more = more
        self.before = self._state(step.tape)
        self.first = len(step.held), len(step.stayed), len(step.lasting)
        self.aside = self._aside(step)
        self.alone = [storage for storage in self.aside if storage.holders == 1]
        self.trained: Any = 0
        self.kept: Any = 0
        self.left: Any = 0
        self.gathered: Any = 0
        self.flops: Any = 0
        self.held: list[Storage] = []
        if more:
            step.tape.records.append(lambda: self.counted(step.tape))
            step.tape.group = self

    @staticmethod
    def _state(tape: Tape) -> tuple[Any, ...]:
        """Return the bytes that stay, and of these what the forward pass left and what is gathered; and operations.

        Buffers of collectives do not stay: the next layer's replace them.
        """
        return tape.now - tape.buffers, tape.left, tape.gathered, tape.flops

    @staticmethod
    def _aside(step: Step) -> list[Storage]:
        """Return what is put aside: the next layer of the group replaces it."""
        return [x.storage for x in step.shared.values() if isinstance(x, Tensor)]

    def end(self, step: Step) -> None:
        """Note that the group's forward pass has ended."""
        if not self.more:
            return
        tape = step.tape
        tape.group = None
        *stays, flops = (new - old for new, old in zip(self._state(tape), self.before, strict=True))
        self.kept, self.left, self.gathered = stays
        # what an earlier layer put aside is gone or kept by now, and what is put aside now is kept by the next at most
        now = self._aside(step)
        replaced = sum(storage.bytes for storage in self.alone if storage not in now)
        replaced -= sum(storage.bytes for storage in now if storage.holders == 1 and storage not in self.aside)
        self.kept += replaced
        self.left += replaced
        self.held = step.held[self.first[0] :] + step.stayed[self.first[1] :]
        tape.now += self.more * self.kept
        tape.left += self.more * self.left
        tape.gathered += self.more * self.gathered
        tape.flops += self.more * flops
        lasting = sum(storage.bytes for storage in step.lasting[self.first[2] :])
        self.kept -= lasting
        self.left -= lasting
        tape.records.append(lambda: self.begin(tape))
        step.groups.append(self)

    def forget(self, step: Step) -> None:
        """Stop counting what was held only until the end of the forward pass."""
        self.lose(step.tape, sum(storage.bytes for storage in self.held if not storage.holders))

    def lose(self, tape: Tape, gone: Any) -> None:
        """Stop counting some bytes that the forward pass left."""
        self.kept -= gone
        self.left -= gone
        tape.now -= self.more * gone
        tape.left -= self.more * gone

    def begin(self, tape: Tape) -> None:
        """The way back reaches the group, which is run when most is alive: as its last layer, or as its first."""
        self.flops = tape.flops
        if self.trained > self.kept:
            self.passed(tape)

    def counted(self, tape: Tape) -> None:
        """Note that the backward pass has left the group."""
        tape.flops += self.more * (tape.flops - self.flops)
        if not self.trained > self.kept:
            self.passed(tape)

    def passed(self, tape: Tape) -> None:
        """The layers that only count have let go of what they kept, and their gradients are there."""
        tape.now += self.more * (self.trained - self.kept)
        tape.left -= self.more * self.left
        tape.gathered -= self.more * self.gathered
        tape.grads += self.more * self.trained


class Step(Caller):
    """A forward and a backward pass."""

    def __init__(self, program: Program, flags: Flags):
        super().__init__(program, flags)
        self.sequences: dict[str, list[tuple[list[int], int]]] = {}
        self.groups: list[Group] = []
        self.states: list[Value] | None = None  # what the stacks of an unadapted pass gave

    def run(self) -> Tensor:
        """Run the forward pass of the task and return the loss, held once."""
        task = self.model.inventory.computed
        if task not in self.model.functions:
            known = " or ".join(name for name in self.model.family.tasks if name in self.model.functions)
            raise UsageError(f"memory: task {task} of {self.model.family.name} has no operations; expected {known}")
        self._point("at_start", [])
        (loss,) = self.call(self.model.functions[task], [])
        self._only([loss])
        for storage in self.held:
            self.tape.free(storage)
        for group in self.groups:
            group.forget(self)
        self.held, self.casts = [], {}
        return tensor(loss)

    def back(self, loss: Tensor) -> None:
        """Run the backward pass. The caller holds the loss, and torch its gradient. If the method has none, the
        forward pass is run as often as it says."""
        if self.program.evaluations:
            self.tape.flops *= self.program.evaluations
            self.tape.see(0)
            return
        self.tape.forward = False
        loss.grad = self.tape.new(SINGLE)
        loss.grad.holders += 1
        self.tape.back()

    @property
    def shards(self) -> Any:
        """Return the bytes of the parameters that a rank stores, if they are sharded."""
        return 0

    def unadapted(self, function: Function | None, wanted: int) -> list[Value]:
        """`e d = unadapted`: the whole model runs once without the method and without gradients; the states that its
        last stacks give. `h = unadapted body`: only this function of it runs, and gives its result."""
        state, marks = dict(vars(self)), (len(self.tape.records), len(self.held), len(self.stayed), len(self.groups))
        self.program, self.recording, self.flags = self.program.bare(), False, self.flags._replace(checkpointing=False)
        self.every = {stack: {**names, "checkpointing": 0} for stack, names in self.every.items()}
        self.names = self.base = self.every[""]
        self.scopes, self.hook, self.module, self.casts, self.sequences, self.states = [], None, None, {}, {}, []
        results = self.call(function or self.model.functions[self.model.inventory.computed], [])
        if function is None:
            self._let_go(results)
        for storage in self.held[marks[1] :]:
            self.tape.free(storage)
        for entries, mark in zip((self.tape.records, self.held, self.stayed, self.groups), marks, strict=True):
            del entries[mark:]  # type: ignore[attr-defined]
        states = self.states or []
        vars(self).update(state)
        if function is not None:
            self._let_go(states)
            states = results
        self._let_go(states[: len(states) - wanted])
        return [Tensor(x.shape, x.width, False, x.storage) for x in states[len(states) - wanted :]]

    def doubled(self, function: Function, layers: int, owns: Mapping[tuple[str, str], Own]) -> list[Value]:
        """Run a function of the model, with fewer layers and with other parameters. Its layers are no checkpoints."""
        state = dict(vars(self))
        self.program, self.owns, self.flags = self.program.bare(), owns, self.flags._replace(checkpointing=False)
        fewer = {"checkpointing": 0, "n_layers": layers}
        self.every = {stack: {**names, **fewer} for stack, names in self.every.items()}
        self.names = self.base = self.every[""]
        self.scopes, self.hook, self.module, self.copy = [], None, None, None
        self.sequences = {stack: [([n], 0) for n in range(layers)] for stack in self.model.inventory.stacks}
        results = self.call(function, [])
        vars(self).update(state)
        return results

    def another(self, values: list[Value], owns: Mapping[tuple[str, str], Own]) -> list[Value]:
        """Run the current layer once more, with other parameters. It is a checkpoint if the layers are."""
        own = "program", "owns", "names", "scopes", "hook", "module", "copy", "floor", "depth", "used", "early", "block"
        state = {name: getattr(self, name) for name in own}
        self.program, self.owns, self.names = self.program.bare(), owns, self.base
        self.scopes, self.floor = self.scopes[: self.floor], 0
        self.hook, self.module, self.copy, self.block = None, None, None, ""
        results = self.layer(values, [], 0)
        vars(self).update(state)
        self._let_go(results[1:])
        return results[:1]

    def reached(self, module: Module, suffix: str) -> bool:
        """Return True if an operation has read a parameter. Outside the layers, some serve other tasks only."""
        return module.stack in self.sequences if module.layers else (module.path, suffix) in self.outside

    def arrived(self) -> set[Any]:
        """Return the keys of the method's tensors that received a gradient; all keys if the step has no gradients."""
        if self.program.evaluations:
            return {own.key for places in self.program.own.values() for several in places.values() for own in several}
        keys = self.tape.arrived
        return {key[0] for key in keys} | {own for name, *owns in keys if name == EVERY for own in owns[0]}

    def shapes(self, row: Row, spot: Spot) -> list[tuple[int, ...]]:
        """Return the sizes of the parameters into which a tensor is split; an empty list if it is one parameter."""
        return list(self.parts.get(self.program.key(row, spot), {}).values())

    # Layers

    def layers(self, line: Line, function: Function) -> list[Value]:
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
                self._enter(stack, number, tensor(values[0]).shape[1])
                hooks = self.program.at(stack, "layer", number)
                for _ in range(int(self.model.operations.runs(self.names))):
                    results = self.layer(values, hooks, more)
                    self._let_go(values[: len(results)])
                    values = results + values[len(results) :]
                group.trained += self.gradients()
            group.end(self)
        self.stack, self.number, self.inside, self.base, self.names = outer
        wanted = max(1, len(line.targets))
        self._let_go(values[wanted:])
        if self.states is not None:
            self.states.append(self.tape.hold(tensor(values[0])))
        return values[:wanted]

    def layer(self, values: list[Value], hooks: list[Hook], more: int) -> list[Value]:
        """Run the layer at hand, with the method's hooks around it. more: how many further times it counts."""
        return self._around(self._checkpointed if self.flags.checkpointing else self._one, values, hooks)

    def gradients(self) -> Any:
        """Return the bytes that the gradients of the layer at hand take after its backward pass."""
        return sum(p.bytes for p in self.inside.values() if p.live)

    def sequence(self, stack: str) -> list[tuple[list[int], int]]:
        """Return the layers of a stack in groups: which layers are run, and how many further times they count."""
        if stack not in self.sequences:
            self.sequences[stack] = (
                [([n], 0) for n in range(self.model.inventory.backbone.layers[stack])] if self.flags.whole
                else self.program.sequence(stack, self.every[stack])
            )  # fmt: skip
        return self.sequences[stack]

    def _enter(self, stack: str, number: int, length: Any) -> None:
        """Set the names and parameters of a layer. length: the positions of what it is given."""
        self.stack, self.number, self.inside = stack, number, {}
        roles = {
            f"has_{name.replace('.', '_')}": 1
            for (where, name), modules in self.model.modules.items()
            if where == stack and any(not m.layers or number in m.layers for m in modules)
        }
        self.base = self.names = {**self.every[stack], **roles, **self.program.layered(number), "length": length}

    def _one(self, values: list[Value]) -> list[Value]:
        self.depth, self.used, self.early = len(self.scopes), {}, dict(self.shared)
        results = self.call(self.model.functions[self.stack], values)
        self.depth = 0
        return results

    def _inside(self, values: list[Value]) -> tuple[list[Value], dict[str, Value]]:
        """Run the layer at hand. Returns its results, and what it put aside for functions around it, by name. What the
        layer was given is nothing new there: it is the same when the layer runs again."""
        before = dict(self.shared)
        results = self._one(values)
        known = {id(x) for x in (*before.values(), *values)}
        return results, {name: x for name, x in self.shared.items() if isinstance(x, Tensor) and id(x) not in known}

    def _checkpointed(self, values: list[Value]) -> list[Value]:
        """Run a layer as a checkpoint: only its inputs are kept."""
        self.recording, self.done, self.last = False, 0, 0
        results, aside = self._inside(values)
        self.recording = True
        outputs = [*results, *aside.values()]
        ys = [y for y in outputs if isinstance(y, Tensor) and y.live]
        if ys:
            given = [v for v in (*values, *self.used.values()) if isinstance(v, Tensor)]
            self._hold_all(given)
            place = self.stack, self.number, self.inside, self.base, self.program, self.owns
            state = place, dict(self.used), self.last
            run = partial(self._again, list(values), outputs, list(aside), given, state)
            self.tape.records.append(Checkpoint(given, ys, [x.storage for x in given], run))
        return results

    def _again(
        self, values: list[Value], outputs: list[Value], aside: list[str], given: list[Tensor], state: Any
    ) -> None:
        """Run a layer forward again, until everything exists that its backward pass needs, and then backward.

        outputs: what the first pass returned, and then what it put aside under the names `aside`.
        """
        storages = [x.storage for x in given]
        grads = [(i, y.grad) for i, y in enumerate(outputs) if isinstance(y, Tensor) and y.grad is not None]
        if grads:
            records, self.tape.records = self.tape.records, []
            outer, (place, used, last) = (self.program, self.owns), state
            self.stack, self.number, self.inside, self.base, self.program, self.owns = place
            self.names, self.scopes = self.base, [{name: x for name, x in used.items() if name[0] != "$"}]
            self.done, self.limit, before = 0, last, self.shared
            self.shared = {**before, **{name[1:]: x for name, x in used.items() if name[0] == "$"}}
            self._hold_all(list(self.shared.values()))
            results, new = self._inside(values)
            self.limit = -1
            again = [*results, *(new[name] for name in aside)]
            for i, grad in grads:
                outputs[i].grad = None  # before the next line, since it may be the same tensor
                again[i].grad = grad
            # functions around the layer do not run again, so nobody takes what is put aside for them
            self._let_go([*results, *self.shared.values()])
            self.shared = before
            kept = next((r.kept for r in self.tape.records if isinstance(r, Record) and r.kept), None)
            if kept is not None:
                kept.extend(storages)  # let go with the last of what is kept
                storages = []
            self.tape.back()
            self.tape.records, self.stack, self.number, self.scopes = records, "", -1, []
            self.program, self.owns = outer
        for storage in storages:
            self.tape.free(storage)
