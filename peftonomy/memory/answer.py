"""The memory of a training step: a program is run, its parameters and their optimizer are added."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..catalogue.records import Records
from ..costs.layout import Spot
from ..errors import UsageError
from ..schema.base import Value
from .machine import SINGLE
from .model import BLOCK, DTYPES, LABEL_BYTES, OPTIMIZERS, QUANTIZED, TOKEN_BYTES, Memory, Setting
from .optimizer import Trained, update
from .program import Model, Program
from .rules import load_language
from .step import Flags, Step

if TYPE_CHECKING:
    from ..backbones.modules import Module
    from ..costs.plan import Plan, Row

__all__ = ["Asked", "remembered"]

EXACT = 2**53


def remembered(kb: Records[Any], plan: Plan, given: Mapping[str, Any], setting: Setting) -> Memory:
    """The memory of a step with these hyperparameters, by operations. Raises UsageError."""
    return Asked(kb, plan, given, setting).memory()


class Asked:
    """One question: a plan with hyperparameters and a setting."""

    def __init__(self, kb: Records[Any], plan: Plan, given: Mapping[str, Any], setting: Setting):
        self.plan, self.inventory = plan, plan.inventory
        self.values: dict[str, Value] = plan.values(given)
        self.rows = plan.each(self.values)
        self.model = _model(kb, plan)
        self.w, self.w_t = DTYPES[setting.dtype]
        self.program = Program(plan, self.model, self.values, self.rows, self.w)
        operations, config = self.model.operations, self.model.config
        if self.program.eager or not operations.sdpa(config):
            setting = replace(setting, attention="eager")
        if setting.checkpointing and not operations.checkpointing:
            name = self.model.family.name
            raise UsageError(f"checkpointing: transformers does not have it for {name}; expected none")
        self.setting = setting

    def flags(self, whole: bool = False) -> Flags:
        """How the step is run."""
        s = self.setting
        mixed = s.dtype == "mixed"
        return Flags(s.batch, s.seq, self.w, self.w_t, mixed, s.attention == "eager", s.checkpointing, "cpu", whole)

    @property
    def inputs(self) -> int:
        """Bytes of a batch: numbers of tokens or pixels, and labels."""
        s, model = self.setting, self.model
        pixels = int(model.operations.pixels(model.config))
        labels = s.seq if self.inventory.computed == "causal_lm" else 1
        if pixels:
            return s.batch * (pixels * self.w + LABEL_BYTES * labels)
        return s.batch * (s.seq * (TOKEN_BYTES - LABEL_BYTES) + LABEL_BYTES * labels)

    def trained(self, step: Step | None = None) -> Iterator[Trained]:
        """The tensors that are trained, each kind once, with how many there are; with a step, those that it reached."""
        for module in self.inventory.modules:
            for suffix, shape in module.parameters:
                if step is not None and not step.reached(module, suffix):
                    continue
                number = sum(self.program.trains(module, suffix, n) for n in module.layers or (-1,))
                if number:
                    yield Trained(shape, SINGLE if self._single(module) else self.w_t, number)
        for row in self.rows:
            if row.learns and not row.piece.tensor.selecting:
                _, spot = row.piece.places.spots[0]
                parts = [] if step is None else step.shapes(row, spot)
                shapes = parts or [self.plan.shape(row) or (row.count,)]
                yield from (Trained(shape, self.w_t, row.n) for shape in shapes)

    def ordered(self, step: Step) -> list[int]:
        """Bytes of single tensors as the optimizer comes to them, layer by layer; of layers that are alike, a few."""
        found: list[int] = []
        added: dict[tuple[str, str], list[tuple[Row, Spot]]] = {}
        for row in self.rows:
            if row.learns and not row.piece.tensor.selecting:
                for _, spot in row.piece.places.spots:
                    stack = "" if spot.source is None else spot.source.stack
                    added.setdefault((stack, where(spot)), []).append((row, spot))

        def module(m: Module, layer: int) -> None:
            for suffix, shape in m.parameters:
                if self.program.trains(m, suffix, layer) and step.reached(m, suffix):
                    found.append(math.prod(shape) * (SINGLE if self._single(m) else self.w_t))
            beside(m.stack, m.path, layer)

        def beside(stack: str, path: str, layer: int) -> None:
            for row, spot in added.get((stack, path), ()):
                layers = spot.layers if row.layers is None else row.layers
                if not spot.layers or layer in layers:
                    shapes = step.shapes(row, spot) or [(row.count,)]
                    found.extend([math.prod(shape) * self.w_t for shape in shapes] * min(row.copies, 2))

        outside = [m for m in self.inventory.modules if not m.stack]
        for m in (m for m in outside if m.role.startswith("embed.")):
            module(m, -1)
        for stack in self.inventory.stacks:
            inside = [m for m in self.inventory.modules if m.stack == stack]
            for layer in (n for numbers, _ in step.sequence(stack) for n in numbers):
                for m in inside:
                    if layer in m.layers:
                        module(m, layer)
                for path in {p for s, p in added if s == stack} - {m.path for m in inside}:
                    beside(stack, path, layer)
        for m in (m for m in outside if not m.role.startswith("embed.")):
            module(m, -1)
        beside("", "", -1)
        return found

    def weights(self, trained: int) -> int:
        """Bytes of all that stays from step to step but the optimizer's states."""
        frozen = self.inventory.total + sum(row.count * row.n for row in self.rows if self._added(row)) - trained
        held = self.program.holds + int(self.model.operations.buffers({**self.model.names[""], "width": self.w}))
        return frozen * self.w + trained * self.w_t + held + self._widened() + self._requantised()

    def _single(self, module: Module) -> bool:
        """Whether its parameters are in float32 whatever type the model has."""
        return module.role in self.model.operations.float32

    def _widened(self) -> int:
        """By how many bytes the parameters grow that are in float32 whatever type the model has."""
        grown = 0
        for module in (m for m in self.inventory.modules if self._single(m)):
            for suffix, shape in module.parameters:
                for layer in module.layers or (-1,):
                    width = self.w_t if self.program.trains(module, suffix, layer) else self.w
                    grown += math.prod(shape) * (SINGLE - width)
        return grown

    @staticmethod
    def _added(row: Row) -> bool:
        """Whether a tensor comes to those of the backbone."""
        tensor = row.piece.tensor
        return not tensor.selecting and (row.learns or tensor.served != "absent")

    def _requantised(self) -> int:
        """By how many bytes the weights grow (or shrink, below zero) as they are held."""
        plan, kind = self.plan, self.setting.quantized
        grown = plan.base_bytes(self.values, self.w) - plan.inventory.backbone.parameters * self.w
        if kind is None:
            return grown
        for m in self.inventory.modules:
            if m.kind not in ("linear", "conv1d") or not m.stack:
                continue
            if any(self.program.trains(m, "weight", n) for n in m.layers):
                raise UsageError(f"{plan.id} trains weights that are to be held in {kind}")
            numel = m.d_in * m.d_out
            scales = -(-numel // BLOCK) if kind == "nf4" else m.d_out
            grown += m.count * (-(-numel * QUANTIZED[kind] // 8) + 4 * scales - numel * self.w)
        return grown

    def memory(self) -> Memory:
        """The answer."""
        step = Step(self.program, self.flags())
        tape = step.tape
        loss = step.run()
        first, kept, forward = (tape.peak, *tape.most), tape.now, tape.flops
        tape.peak = 0
        step.back(loss)
        second = (tape.peak, *tape.most)
        tensors = list(self.trained(step))
        gradients = sum(size(t) for t in tensors)
        trained = sum(numel(t) for t in self.trained())
        optimizer = update(OPTIMIZERS[self.setting.optimizer], tensors, self.ordered(step))
        inputs = self.inputs
        moments = [
            ("forward", first[0], min(first[0], kept), 0),
            ("backward", *second),
            ("optimizer", gradients + optimizer.temporary, 0, gradients),
        ]
        phase, peak, left, grads = max(moments, key=lambda m: m[1])
        weights = self.weights(trained)
        if max(weights + peak + optimizer.states, kept, optimizer.paged) > EXACT:
            raise UsageError("memory: this step takes more than 2**53 bytes")
        return Memory(
            self.plan.id, self.inventory.backbone.id, self.inventory.task, self.setting, self.values,
            self.plan.targets, phase, weights, grads, optimizer.states, left + inputs, peak - left - grads,
            kept + inputs, optimizer.paged, trained, forward, tape.flops,
        )  # fmt: skip


def where(spot: Spot) -> str:
    """The name of what a spot belongs to: of a module or block its path, of the model none."""
    return "" if spot.source is None else spot.path


def numel(tensor: Trained) -> int:
    """Numbers of such tensors."""
    one = tensor.number
    for side in tensor.shape:
        one *= side
    return one


def size(tensor: Trained) -> int:
    """Bytes of such tensors."""
    return numel(tensor) * tensor.width


def _model(kb: Records[Any], plan: Plan) -> Model:
    """The model of an inventory, which all methods share."""
    found = plan.inventory.memo.get("operations")
    if found is None:
        language = load_language(kb.root / "backbones" / "operations.yaml")
        found = plan.inventory.memo["operations"] = Model(plan.inventory, language, kb.families)
    model: Model = found
    return model
