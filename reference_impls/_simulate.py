"""Simulate the memory of one training step of a reference implementation, to the byte, on a model of any size.

Nothing is allocated. The model, the method, the optimizer and two steps run on fake tensors, which have shapes, types
and storages but no values. A dispatch mode follows every storage from its first use to its release. The second step is
measured, because the optimizer has no states during the first. The result counts live bytes. It excludes what an
allocator adds (rounding, fragmentation, workspaces) and temporaries inside kernels.

A fake run must take the same path as a real one. So masks that a batch without padding does not need are skipped, and
conditions on data are true. Dropout saves a mask of one byte per entry, as on a GPU. PyTorch's own attention (`sdpa`)
runs without dropout, because its CPU kernel has no fast path with dropout.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from transformers import masking_utils

from peftonomy import Backbone, KnowledgeBase, UsageError
from peftonomy.backbones.config import read_json
from peftonomy.errors import UnknownName
from peftonomy.memory.answer import Asked
from peftonomy.memory.program import Turn
from peftonomy.memory.setting import Setting as MemorySetting
from peftonomy.schema.names import BY_TEXTS

from . import _kit as kit

PER_TOKEN = ("causal_lm", "masked_lm", "token_cls")
"""The tasks with a label for every token."""
SIMULATED = (*PER_TOKEN, "seq_cls", BY_TEXTS, "image_cls", "audio_cls")
"""The tasks whose inputs and labels are known here."""

__all__ = ["ATTENTION", "DTYPES", "OPTIMIZERS", "PARTS", "PHASES", "Simulation", "simulate"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "mixed": torch.bfloat16}
"""Types of the weights. With `mixed`, trained parameters are float32, and the forward pass is autocast to bfloat16."""
OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "adamw": lambda trained: torch.optim.AdamW(trained, lr=1e-3, foreach=False),
    "adamw-foreach": lambda trained: torch.optim.AdamW(trained, lr=1e-3, foreach=True),
    "sgd": lambda trained: torch.optim.SGD(trained, lr=1e-3, foreach=False),
}
aten = torch.ops.aten
ATTENTION = ("eager", "sdpa")
KERNELS = {
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)
    ),
    aten._grouped_mm: lambda a, b, *_, **__: 2 * a[0] * a[1] * b[-1],
}
"""Floating-point operations of kernels that PyTorch's counter does not know, from the shapes of their inputs."""
PHASES = ("forward", "backward", "optimizer")
PARTS = ("weights", "gradients", "optimizer_states", "activations", "temporaries")


@dataclass(frozen=True)
class Question:
    """The setting of a simulation. seq: tokens of a sequence, in both stacks if there are two; None without tokens."""

    method: str
    model: str
    task: str
    batch: int
    seq: int | None
    dtype: str
    optimizer: str
    checkpointing: bool
    attention: str
    targets: tuple[str, ...] | None
    hyperparameters: Mapping[str, Any]


@dataclass(frozen=True)
class Simulation:
    """The bytes and floating-point operations of one training step.

    peak: the most bytes alive at once. phase: the phase of the peak. peaks: the most bytes of each phase.
    The parts of the peak: weights (with buffers and everything else that a method stores), gradients,
    optimizer_states, activations (saved for the backward pass, and the batch), temporaries.
    before: bytes alive when the step begins. kept: activations at the end of the forward pass.
    attends: the attention that the model used, eager or sdpa.
    trained: parameters that the optimizer updates, including a new head.
    forward_flops, step_flops: operations of matrix products and attention. A multiplication and an addition are two
    operations. A step is a forward and a backward pass, including everything that is recomputed.
    """

    question: Question
    peak: int
    phase: str
    weights: int
    gradients: int
    optimizer_states: int
    activations: int
    temporaries: int
    before: int
    kept: int
    peaks: dict[str, int]
    attends: str
    trained: int
    forward_flops: int
    step_flops: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, with the fields of the question first."""
        found = asdict(self)
        question: dict[str, Any] = found.pop("question")
        return question | found


def simulate(
    kb: KnowledgeBase,
    method: str,
    model: str | Path | Mapping[str, Any],
    *,
    batch: int,
    seq: int | None = None,
    dtype: str = "bfloat16",
    optimizer: str = "adamw",
    checkpointing: bool = False,
    attention: str = "sdpa",
    targets: Sequence[str] | None = None,
    task: str | None = None,
    num_labels: int = 2,
    **hyperparameters: Any,
) -> Simulation:
    """Simulate one training step of a method on a model.

    model: an id of the catalogue, the path or the content of a `config.json`. batch: sequences of `seq` tokens, or
    images. dtype: float32, bfloat16 or mixed. optimizer: adamw, adamw-foreach or sgd. attention: eager or sdpa; methods
    that change the attention always use eager. targets: roles. task: by default the model's own, or classification of
    sequences with `num_labels` if it has none. Raises UsageError for a setting that is not possible.
    """
    setup = Setup.of(
        kb, method, model, batch=batch, seq=seq, dtype=dtype, optimizer=optimizer, checkpointing=checkpointing,
        attention=attention, targets=targets, task=task, num_labels=num_labels, hyperparameters=hyperparameters,
    )  # fmt: skip
    with fake():
        return measured(setup)


@dataclass(frozen=True)
class Setup:
    """A question with the model's class and its full config."""

    question: Question
    class_: type[transformers.PreTrainedModel]
    config: transformers.PretrainedConfig
    names: frozenset[str]
    """The parameters that the model has when it is loaded, tied ones once."""
    implementation: Any = None
    turns: Sequence[Turn] = ()
    """The turns to measure, of which the largest is the answer; empty if everything is trained at a time."""
    drops: bool = True
    """Whether the method drops the optimizer states of layers that are frozen again."""
    forward_only: bool = False
    """Whether a step has no backward pass, and the optimizer runs the forward passes."""

    @classmethod
    def of(
        cls, kb: KnowledgeBase, method: str, model: str | Path | Mapping[str, Any], *, batch: int,
        seq: int | None, dtype: str, optimizer: str, checkpointing: bool, attention: str, targets: Sequence[str] | None,
        task: str | None, hyperparameters: Mapping[str, Any], num_labels: int = 2, implementation: Any = None,
    ) -> Setup:
        """Look up the model. implementation: ours if None. Raises UsageError for a setting that is not possible."""
        for name, given, known in (
            ("dtype", dtype, DTYPES), ("optimizer", optimizer, OPTIMIZERS), ("attention", attention, ATTENTION)
        ):  # fmt: skip
            if given not in known:
                raise UnknownName(name, given, known)
        setting = MemorySetting(batch, seq, attention=attention, checkpointing=checkpointing)
        backbone = kb.backbone(model)
        inventory = backbone.inventory(backbone.trained_task if task is None else task, num_labels)
        task = inventory.task
        if task not in SIMULATED:
            raise UsageError(f"task: found {task}; expected one of {', '.join(SIMULATED)}")
        setting.check(inventory)
        roles = None if targets is None else tuple(targets)
        plan = kb[method].on(backbone, task=task, num_labels=num_labels, targets=roles).plan
        cost = plan.cost(hyperparameters)
        question = Question(
            method, backbone.id, task, batch, seq, dtype, optimizer, checkpointing, attention, roles,
            cost.hyperparameters,
        )  # fmt: skip
        class_ = getattr(transformers, backbone.family.tasks[task].class_)
        if checkpointing and not class_.supports_gradient_checkpointing:
            raise UsageError(f"checkpointing: transformers does not have it for {backbone.family.name}; expected none")
        config = _config(backbone, model)
        config.num_labels = num_labels
        if num_labels > 1:      # some models, unless they are told, look into the labels, and fake ones cannot say
            config.problem_type = "single_label_classification"
        positions = getattr(getattr(config, "text_config", config), "max_position_embeddings", None)
        if seq and positions and seq > positions:
            raise UsageError(f"seq: found {seq}; {backbone.id} has {positions:,} positions")
        found = cls(question, class_, config, frozenset(inventory.parameters()), implementation)
        recipes = [part.entry.memory for part in plan.parts if part.entry.memory is not None]
        if any(recipe.turns is not None for recipe in recipes):
            asked = Asked(kb, plan, hyperparameters, replace(setting, dtype=dtype, optimizer=optimizer))
            turns = tuple(turn for turn in asked.turns() if turn is not None)
            found = replace(found, turns=turns, drops=asked.program.drops)
        return replace(found, forward_only=any(recipe.forward_only for recipe in recipes))


def _config(backbone: Backbone, model: str | Path | Mapping[str, Any]) -> transformers.PretrainedConfig:
    if backbone.file is not None:
        raw: Mapping[str, Any] = backbone.file.config
    elif isinstance(model, Backbone):
        raw = backbone.config
    else:
        raw = model if isinstance(model, Mapping) else read_json(Path(model))
    config = transformers.AutoConfig.for_model(**{**raw, "model_type": backbone.family.model_type})
    config.use_cache = False
    for token in ("pad_token_id", "decoder_start_token_id"):    # heads ask for them, and a config need not say
        if getattr(config, token, None) is None:
            setattr(config, token, 0)
    return config


def _untie(model: transformers.PreTrainedModel, names: frozenset[str]) -> None:
    """Give the output embedding a weight of its own if a loaded model has one and a built model does not."""
    for name in sorted(names - {name for name, _ in model.named_parameters()}):
        path, _, suffix = name.rpartition(".")
        setattr(model.get_submodule(path), suffix, nn.Parameter(torch.empty_like(model.get_parameter(name))))
        model.config.tie_word_embeddings = False


def measured(setup: Setup) -> Simulation:
    """Measure the second of two steps, of the largest turn. The tensors are fake or real, depending on the modes."""
    return max((_measured(setup, turn) for turn in setup.turns or (None,)), key=lambda found: found.peak)


def _measured(setup: Setup, turn: Turn | None) -> Simulation:
    """Measure the second of two steps in one turn; None is that of a method without turns."""
    with conventions(), Memory() as memory:
        return second(Training(setup), memory, turn)


def second(training: Training, memory: Memory, turn: Turn | None = None, counts: bool = True) -> Simulation:
    """Run two steps under `memory`, which must be active, and measure the second.

    counts: whether operations are counted; they are 0 if not.
    """
    training.begin(turn)
    with FlopCounterMode(display=False, custom_mapping=KERNELS) if counts else contextlib.nullcontext() as flops:
        count = (lambda: 0) if flops is None else flops.get_total_flops
        step_flops: list[int] = []
        forward_flops = training.step(count, after=lambda: step_flops.append(count()))
    return step(training, memory, forward_flops, *step_flops)


def step(training: Training, memory: Memory, forward_flops: int = 0, step_flops: int = 0) -> Simulation:
    """Measure a step of a training that has run one, so that its optimizer has states."""
    before = memory.begin()
    memory.mark("optimizer_states", training.optimizer.state)
    memory.mark("activations", training.given)
    memory.mark("weights")
    kept = training.step(lambda: memory.mark("activations"), memory)
    parts, peaks = memory.account()
    peaks = dict.fromkeys(PHASES, 0) | peaks
    return Simulation(
        question=training.question, peak=max(peaks.values()), phase=max(peaks, key=peaks.__getitem__), **parts,
        before=before, kept=kept, peaks=peaks, attends=training.attends,
        trained=sum(p.numel() for p in training.trained), forward_flops=forward_flops, step_flops=step_flops,
    )  # fmt: skip


def saved(setup: Setup, turn: Turn | None = None) -> int:
    """Return `kept` of the same simulation. It costs a fraction, because only the bytes between the passes count."""
    with conventions(), Memory() as memory:
        training = Training(setup)
        training.begin(turn)
        training.step()
        memory.begin()
        memory.mark("activations", training.given)
        memory.mark("weights")
        if training.forward_only:
            return training.step(lambda: memory.mark("activations"))
        loss = training.loss()
        kept: int = memory.mark("activations")
        del loss
    return kept


def taken(model: nn.Module, run: Callable[[], Any]) -> int:
    """Return the most bytes that a call takes at once, besides the model that it changes in place."""
    with Memory() as memory:
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.detach()                     # the mode sees its storage
        before: int = memory.begin()
        run()
        memory.ends("optimizer")
    peak: int = memory.account()[1]["optimizer"]
    return peak - before


class Training:
    """A model in training mode with a method and a trainable task head, a batch, and an optimizer."""

    def __init__(self, setup: Setup):
        self.question, self._implementation = setup.question, setup.implementation
        self.model = self._built(setup)
        self.given = self._batch()
        method = self._method()
        if hasattr(method, "calibrate"):
            method.calibrate(self.model, (self.loss() for _ in range(1)))
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.forward_only, self._drops = setup.forward_only, setup.drops
        self.optimizer = self._optimizer(method)

    def _optimizer(self, method: Any) -> torch.optim.Optimizer:
        """Return the method's own optimizer if it has one, which takes the place of AdamW."""
        if not hasattr(method, "optimizer"):
            return OPTIMIZERS[self.question.optimizer](self.trained)
        if self.question.optimizer != "adamw":
            raise UsageError(f"optimizer: found {self.question.optimizer}; {self.question.method} has one of its own")
        own = method.optimizer(self.model, lr=1e-3, foreach=False)
        return cast(torch.optim.Optimizer, own)

    def _method(self) -> Any:
        return self._implementation or importlib.import_module(f"{__package__}.{self.question.method}")

    def _built(self, setup: Setup) -> transformers.PreTrainedModel:
        question, dtype = self.question, DTYPES[self.question.dtype]
        class_ = cast(Any, setup.class_)
        attention = question.attention if class_._supports_sdpa else "eager"
        model = class_._from_config(copy.deepcopy(setup.config), dtype=dtype, attn_implementation=attention).train()
        _untie(model, setup.names)
        targets = {} if question.targets is None else {"targets": question.targets}
        with _default_dtype(dtype):
            self._method().apply(model, **question.hyperparameters, **targets)
        for weight in kit.weights(model):
            if not weight.pretrained:
                weight.value.requires_grad_(True)
        if question.dtype == "mixed":
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.detach().float()
                    if getattr(parameter, "constant", None) is not None:
                        cast(Any, parameter).constant = None        # of a fake number, which would have the old type
        if question.checkpointing:
            # the states of random generators, which checkpoints keep by default, are in the host's memory
            model.activation_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
        return cast(transformers.PreTrainedModel, model)

    def _batch(self) -> dict[str, Tensor]:
        """Return inputs without padding, and labels."""
        question, config = self.question, self.model.config
        shape = question.batch, question.seq or 1
        labels = torch.ones(shape if question.task in PER_TOKEN else shape[:1], dtype=torch.long)
        if self.model.main_input_name == "pixel_values" or question.task == BY_TEXTS:
            pictures = getattr(config, "vision_config", config)
            size = pictures.image_size
            sides = size if isinstance(size, list | tuple) else (size, size)
            sizes = question.batch, pictures.num_channels, *sides
            images = torch.linspace(-1, 1, math.prod(sizes)).reshape(sizes)     # a method may start from its inputs
            given = {"pixel_values": images.to(DTYPES[question.dtype]), "labels": labels}
            if question.task == BY_TEXTS:
                given["labels"] = labels.clamp(max=config.num_labels - 1)
                given["input_ids"] = torch.full((config.num_labels, shape[1]), 2)
                given["attention_mask"] = torch.ones_like(given["input_ids"])
            return given
        if self.model.main_input_name == "input_features":
            sound = torch.zeros(question.batch, config.num_mel_bins, 2 * config.max_source_positions)
            return {"input_features": sound.to(DTYPES[question.dtype]), "labels": labels}
        ids, mask = torch.full(shape, 2), torch.ones(shape, dtype=torch.long)       # 2 is no model's padding
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    @property
    def attends(self) -> str:
        """The attention that the model uses. A method's own attention counts as eager."""
        return "sdpa" if self.model.config._attn_implementation == "sdpa" else "eager"

    def loss(self) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.question.dtype == "mixed"):
            if self.question.task != BY_TEXTS:
                return cast(Tensor, self.model(**self.given).loss)
            inputs = {name: value for name, value in self.given.items() if name != "labels"}
            return nn.functional.cross_entropy(self.model(**inputs).logits_per_image, self.given["labels"])

    def begin(self, turn: Turn | None) -> None:
        """Begin a turn, after turns of the other layers. Of a method that drops their states, one is enough."""
        if turn is None:
            return
        others = sorted({(w.stack, w.layer) for w in kit.weights(self.model) if w.layer is not None} - turn)
        for i in range(0, len(others), len(turn)):
            self.turn(frozenset(others[i : i + len(turn)]))
            self.step()
            if self._drops:
                break
        self.turn(turn)

    def turn(self, layers: Turn) -> None:
        """Train these layers, and freeze the others."""
        cast(Any, self.optimizer).turn(layers)

    def step(
        self, between: Callable[[], int] = lambda: 0, memory: Memory | None = None,
        after: Callable[[], None] = lambda: None,
    ) -> int:  # fmt: skip
        """Run one step and return what `between` returns after the first forward pass. `after`: called before the
        update, or after the step if it has no backward pass."""
        ends = (lambda phase: None) if memory is None else memory.ends
        seen = [0]

        def loss() -> Tensor:
            ends("optimizer")
            value = self.loss()
            seen.append(between())
            ends("forward")
            return value

        if self.forward_only:
            cast(Any, self.optimizer).step(loss)
            ends("optimizer")
            after()
            return seen[1]
        value = self.loss()
        seen.append(between())
        ends("forward")
        value.backward()
        del value
        if memory is not None:
            memory.mark("gradients", [p.grad for p in self.trained])
        ends("backward")
        after()
        self.update()
        ends("optimizer")
        return seen[1]

    def update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()


# Live storages


class Block:
    """The size of one storage, and the part of memory that it belongs to."""

    __slots__ = ("part", "size")

    def __init__(self, size: int):
        self.size, self.part = size, "temporaries"


class Memory(TorchDispatchMode):
    """A dispatch mode that follows every storage from the operation that creates it until its release.

    Views share their storage, and an in-place operation creates none. Memory that a kernel allocates and releases
    internally is not counted. Autograd adds some gradients in place, but not under a dispatch mode: a peak during such
    a sum is too high by one tensor.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._live: dict[int, tuple[Block, weakref.ref[torch.UntypedStorage]]] = {}
        self._start: list[Block] = []
        self._log: list[tuple[Block, int]] = []     # created (1) and released (-1) storages, in order
        self._ends: list[tuple[str, int]] = []      # phases, each with the position in the log at which it ends

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten.scatter_add.default and torch._C._current_autograd_node() is not None:
            func = aten.scatter_add_.default        # into fresh zeros, as it is without a dispatch mode
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, Tensor) and leaf.device.type != "meta":     # meta tensors have no bytes
                self._see(leaf.untyped_storage())
        return found

    def _see(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._live:
            block = Block(storage.nbytes())
            self._live[key] = block, weakref.ref(storage, lambda _: self._release(key))
            self._log.append((block, 1))

    def _release(self, key: int) -> None:
        block, _ = self._live.pop(key)
        self._log.append((block, -1))

    def begin(self) -> int:
        """Start a new log. Returns the bytes that are alive now."""
        self._log, self._ends, self._start = [], [], [block for block, _ in self._live.values()]
        return sum(block.size for block in self._start)

    def mark(self, part: str, tensors: Any = None) -> int:
        """Assign the storages of a tree of tensors to a part; without tensors, all temporaries that are alive.

        Returns the bytes that are alive in that part.
        """
        if tensors is None:
            blocks = [block for block, _ in self._live.values() if block.part == "temporaries"]
        else:
            leaves = [leaf for leaf in tree_leaves(tensors) if isinstance(leaf, Tensor)]
            blocks = [self._live[leaf.untyped_storage()._cdata][0] for leaf in leaves]
        for block in blocks:
            block.part = part
        return sum(block.size for block, _ in self._live.values() if block.part == part)

    def ends(self, phase: str) -> None:
        """Record the end of a phase."""
        self._ends.append((phase, len(self._log)))

    def account(self) -> tuple[dict[str, int], dict[str, int]]:
        """Return the bytes of each part at the peak, and the peak of each phase."""
        now = dict.fromkeys(PARTS, 0)
        for block in self._start:
            now[block.part] += block.size
        most, peaks, position = dict(now), dict[str, int](), 0
        for phase, end in self._ends:
            peaks[phase] = max(peaks.get(phase, 0), sum(now.values()))
            for block, sign in self._log[position:end]:
                now[block.part] += sign * block.size
                total = sum(now.values())
                peaks[phase] = max(peaks[phase], total)
                if total > sum(most.values()):
                    most = dict(now)
            position = end
        return most, peaks


# Replacements that make a fake run behave like a real one, and a CPU like a GPU


SURE = {aten.all.default: True, aten.any.default: False}


class Fake(FakeTensorMode):
    """Fake tensors with fixed answers to questions about data: `all` is true, `any` is false, a number is one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in SURE:
            with self:
                return torch.tensor(SURE[func])
        if func is aten._local_scalar_dense.default and args[0].constant is None:
            dtype = args[0].dtype
            return True if dtype == torch.bool else 1.0 if dtype.is_floating_point else 1
        if func is aten.bincount.default:
            return args[0].new_empty(kwargs["minlength"] if kwargs else args[2])
        return super().__torch_dispatch__(func, types, args, kwargs)


@contextlib.contextmanager
def fake() -> Iterator[None]:
    """Create only fake tensors inside this context."""
    with Fake(), _replaced(nn.Module, "_apply", _converted):
        yield


@contextlib.contextmanager
def conventions() -> Iterator[None]:
    """Apply the replacements that real and fake runs share."""
    with (
        _replaced(masking_utils, "is_tracing", lambda *_: False),
        _replaced(nn.functional, "dropout", _dropout),
        _replaced(nn.functional, "scaled_dot_product_attention", _without_dropout),
        _replaced(torch, "randint", _largest),
    ):
        yield


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    held = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, held)


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    held = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(held)


_attend, _draw = nn.functional.scaled_dot_product_attention, torch.randint


def _dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Apply dropout with a mask of one byte per entry, as on a GPU. A CPU's mask has the type of x."""
    return torch.native_dropout(x, p, training)[0] if training and p else x


def _without_dropout(query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any) -> Tensor:
    return _attend(query, key, value, *args, **{**options, "dropout_p": 0.0})


def _largest(*args: Any, **options: Any) -> Tensor:
    """Return the largest possible value in place of a single random number."""
    *bounds, size = args
    return torch.tensor(bounds[-1] - 1) if not len(size) else _draw(*args, **options)


def _converted(module: nn.Module, function: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """Replace converted tensors in `Module._apply`, because fake tensors cannot be swapped."""
    for part in module.modules() if recurse else [module]:
        for name, parameter in part._parameters.items():
            if parameter is not None and (changed := function(parameter)) is not parameter:
                part._parameters[name] = nn.Parameter(changed.detach(), parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = function(buffer)
    return module
