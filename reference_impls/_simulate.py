"""The memory of one training step, to the byte, of a reference implementation on a model of any size.

Nothing is allocated: model, method, optimizer and two steps run on fake tensors, which have shapes, types and storages
but no numbers, and a dispatch mode follows every storage from its first use to its release. The second step is
measured, since in the first one the optimizer has no states yet. What is counted is live bytes: what an allocator adds
(rounding, fragmentation, workspaces) and temporaries inside of kernels are not in it.

Where a fake run would take another way than a real one, it is led back: masks that a batch without padding does not
need are skipped, and a condition on data holds. Dropout keeps the mask of one byte an entry that it has on a GPU.
Attention of PyTorch's own (`sdpa`) goes without dropout, for which its CPU kernel has no fast way.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
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

from . import _kit as kit

__all__ = ["ATTENTION", "DTYPES", "OPTIMIZERS", "PARTS", "PHASES", "Simulation", "simulate"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "mixed": torch.bfloat16}
"""Of the weights; with `mixed` what is trained is in float32, and the forward pass under autocast to bfloat16."""
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
"""The operations of kernels that PyTorch's counter passes over, from the shapes of what they read."""
PHASES = ("forward", "backward", "optimizer")
PARTS = ("weights", "gradients", "optimizer_states", "activations", "temporaries")


@dataclass(frozen=True)
class Question:
    """What a step is simulated of. seq: tokens of a sequence (in both stacks of an encoder-decoder)."""

    method: str
    model: str
    task: str
    batch: int
    seq: int
    dtype: str
    optimizer: str
    checkpointing: bool
    attention: str
    targets: tuple[str, ...] | None
    hyperparameters: Mapping[str, Any]


@dataclass(frozen=True)
class Simulation:
    """What one training step takes, in bytes and in floating-point operations.

    peak: the most bytes alive at once; phase: when that was; peaks: the most of each phase. What the peak consists
    of, by what each tensor is or becomes: weights (with buffers, and all else that a method holds), gradients,
    optimizer_states, activations (what the forward pass left for the backward pass, and the batch), temporaries.
    before: bytes alive when the step begins. kept: activations at the end of the forward pass. attends: eager or sdpa,
    as it came to be. trained: numbers that the optimizer updates, a new head included. forward_flops, step_flops: of
    matrix products and attention, where a multiplication and an addition are two; a step is a forward and a backward
    pass, with what is computed again.
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
        """Plain data, what was asked first."""
        found = asdict(self)
        question: dict[str, Any] = found.pop("question")
        return question | found


def simulate(
    kb: KnowledgeBase,
    method: str,
    model: str | Path | Mapping[str, Any],
    *,
    batch: int,
    seq: int,
    dtype: str = "bfloat16",
    optimizer: str = "adamw",
    checkpointing: bool = False,
    attention: str = "sdpa",
    targets: Sequence[str] | None = None,
    task: str | None = None,
    num_labels: int = 2,
    **hyperparameters: Any,
) -> Simulation:
    """One training step of a method on a model.

    model: an id of the catalogue, a path to a `config.json`, or its content. batch: sequences, each of `seq` tokens.
    dtype: float32, bfloat16 or mixed. optimizer: adamw, adamw-foreach or sgd. attention: eager or sdpa; methods that
    change the attention are eager all the same. targets: roles. task: by default the model's own, or sequence
    classification (of `num_labels`) where it has none. Raises UsageError for what makes no sense.
    """
    setup = Setup.of(
        kb, method, model, batch=batch, seq=seq, dtype=dtype, optimizer=optimizer, checkpointing=checkpointing,
        attention=attention, targets=targets, task=task, num_labels=num_labels, **hyperparameters,
    )  # fmt: skip
    with fake():
        return measured(setup)


@dataclass(frozen=True)
class Setup:
    """A question, and what was looked up to answer it: the class of the model and its whole config."""

    question: Question
    class_: type[transformers.PreTrainedModel]
    config: transformers.PretrainedConfig

    @classmethod
    def of(
        cls, kb: KnowledgeBase, method: str, model: str | Path | Mapping[str, Any], *, batch: int, seq: int,
        dtype: str, optimizer: str, checkpointing: bool, attention: str, targets: Sequence[str] | None,
        task: str | None, num_labels: int = 2, **hyperparameters: Any,
    ) -> Setup:
        """Raises UsageError for what makes no sense."""
        for name, given, known in (
            ("dtype", dtype, DTYPES), ("optimizer", optimizer, OPTIMIZERS), ("attention", attention, ATTENTION)
        ):  # fmt: skip
            if given not in known:
                raise UnknownName(name, given, known)
        for name, number in (("batch", batch), ("seq", seq)):
            if type(number) is not int or number < 1:
                raise UsageError(f"{name}: found {number}; expected a whole number from 1")
        backbone = kb.backbone(model)
        if task is None:
            task = "seq_cls" if backbone.default_task == "none" else backbone.default_task
        if task == "none":
            raise UsageError("task: found none; expected one with a loss, causal_lm or seq_cls")
        roles = None if targets is None else tuple(targets)
        cost = kb[method].cost(backbone, task=task, num_labels=num_labels, targets=roles, **hyperparameters)
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
        positions = getattr(config, "max_position_embeddings", None) or seq
        if seq > positions:
            raise UsageError(f"seq: found {seq}; {backbone.id} has {positions:,} positions")
        return cls(question, class_, config)


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


def measured(setup: Setup) -> Simulation:
    """The second of two steps on whatever tensors the modes around make, fake ones or real ones."""
    with conventions(), Memory() as memory:
        training = Training(setup)
        with FlopCounterMode(display=False, custom_mapping=KERNELS) as flops:
            loss = training.loss()
            forward_flops = flops.get_total_flops()
            loss.backward()
        del loss
        training.update()

        before = memory.begin()
        memory.mark("optimizer_states", training.optimizer.state)
        memory.mark("activations", training.given)
        memory.mark("weights")
        loss = training.loss()
        kept = memory.mark("activations")
        memory.ends("forward")
        loss.backward()
        del loss
        memory.mark("gradients", [p.grad for p in training.trained])
        memory.ends("backward")
        training.update()
        memory.ends("optimizer")
    parts, peaks = memory.account()
    return Simulation(
        question=setup.question, peak=max(peaks.values()), phase=max(peaks, key=peaks.__getitem__), **parts,
        before=before, kept=kept, peaks=peaks, attends=training.attends,
        trained=sum(p.numel() for p in training.trained), forward_flops=forward_flops,
        step_flops=flops.get_total_flops(),
    )  # fmt: skip


class Training:
    """A model in training mode with a method applied and a new task head free, a batch, and an optimizer."""

    def __init__(self, setup: Setup):
        self.question = setup.question
        self.model = self._built(setup)
        self.given = self._batch()
        method = self._method()
        if hasattr(method, "calibrate"):
            method.calibrate(self.model, (self.loss() for _ in range(1)))
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = OPTIMIZERS[self.question.optimizer](self.trained)

    def _method(self) -> Any:
        return importlib.import_module(f"{__package__}.{self.question.method}")

    def _built(self, setup: Setup) -> transformers.PreTrainedModel:
        question, dtype = self.question, DTYPES[self.question.dtype]
        class_ = cast(Any, setup.class_)
        attention = question.attention if class_._supports_sdpa else "eager"
        model = class_._from_config(copy.deepcopy(setup.config), dtype=dtype, attn_implementation=attention).train()
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
        if question.checkpointing:
            # the states of random generators, which checkpoints keep by default, are in the host's memory
            model.activation_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
        return cast(transformers.PreTrainedModel, model)

    def _batch(self) -> dict[str, Tensor]:
        """Inputs without padding, and what the model should say."""
        question, config = self.question, self.model.config
        shape = question.batch, question.seq
        labels = torch.ones(shape if question.task == "causal_lm" else shape[:1], dtype=torch.long)
        if self.model.main_input_name == "pixel_values":
            size = config.image_size
            sides = size if isinstance(size, list | tuple) else (size, size)
            images = torch.zeros(question.batch, config.num_channels, *sides, dtype=DTYPES[question.dtype])
            return {"pixel_values": images, "labels": labels}
        if self.model.main_input_name == "input_features":
            sound = torch.zeros(question.batch, config.num_mel_bins, 2 * config.max_source_positions)
            return {"input_features": sound.to(DTYPES[question.dtype]), "labels": labels}
        ids, mask = torch.full(shape, 2), torch.ones(shape, dtype=torch.long)       # 2 is no model's padding
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    @property
    def attends(self) -> str:
        """How the model computes attention: an implementation of a method's own is eager."""
        return "sdpa" if self.model.config._attn_implementation == "sdpa" else "eager"

    def loss(self) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.question.dtype == "mixed"):
            return cast(Tensor, self.model(**self.given).loss)

    def update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()


# What is alive


class Block:
    """One storage: its bytes, and what it is part of as soon as that is known."""

    __slots__ = ("part", "size")

    def __init__(self, size: int):
        self.size, self.part = size, "temporaries"


class Memory(TorchDispatchMode):
    """Follows every storage that an operation under it makes, from there until it is released.

    Views share their storage, and an operation in place makes none. What an operation allocates and releases inside
    of its kernel is not seen. Autograd adds some gradients up in place, but not under a dispatch mode: a peak during
    such a sum is too high by one tensor.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._live: dict[int, tuple[Block, weakref.ref[torch.UntypedStorage]]] = {}
        self._start: list[Block] = []
        self._log: list[tuple[Block, int]] = []     # what came (1) and went (-1), in order
        self._ends: dict[str, int] = {}             # of a phase, in the log

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten.scatter_add.default and torch._C._current_autograd_node() is not None:
            func = aten.scatter_add_.default        # into fresh zeros, as it is without a dispatch mode
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, Tensor) and leaf.device.type != "meta":     # which has no bytes
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
        """Account for what comes and goes from now on. Returns the bytes that are alive already."""
        self._log, self._start = [], [block for block, _ in self._live.values()]
        return sum(block.size for block in self._start)

    def mark(self, part: str, tensors: Any = None) -> int:
        """Say what all storages of a tree of tensors are part of, or all live ones that have none yet.

        Returns the bytes alive in that part.
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
        """A phase ends here."""
        self._ends[phase] = len(self._log)

    def account(self) -> tuple[dict[str, int], dict[str, int]]:
        """The bytes of each part when most were alive, and the most of each phase."""
        now = dict.fromkeys(PARTS, 0)
        for block in self._start:
            now[block.part] += block.size
        most, peaks, position = dict(now), {}, 0
        for phase, end in self._ends.items():
            peaks[phase] = sum(now.values())
            for block, sign in self._log[position:end]:
                now[block.part] += sign * block.size
                total = sum(now.values())
                peaks[phase] = max(peaks[phase], total)
                if total > sum(most.values()):
                    most = dict(now)
            position = end
        return most, peaks


# Where a fake run is led back to a real one, and a CPU's to a GPU's


SURE = {aten.all.default: True, aten.any.default: False}


class Fake(FakeTensorMode):
    """Answers what only data can tell: all of a tensor holds and not any, other conditions do, and a number is one."""

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
    """Fake tensors for all that is made inside."""
    with Fake(), _replaced(nn.Module, "_apply", _converted):
        yield


@contextlib.contextmanager
def conventions() -> Iterator[None]:
    """What is changed in real runs as in fake ones."""
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
    """With the mask of one byte an entry that GPUs keep; a CPU's has the type of x."""
    return torch.native_dropout(x, p, training)[0] if training and p else x


def _without_dropout(query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any) -> Tensor:
    return _attend(query, key, value, *args, **{**options, "dropout_p": 0.0})


def _largest(*args: Any, **options: Any) -> Tensor:
    """A single number that is drawn is the largest that it may be."""
    *bounds, size = args
    return torch.tensor(bounds[-1] - 1) if not len(size) else _draw(*args, **options)


def _converted(module: nn.Module, function: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """`Module._apply` that puts converted tensors in the place of the old ones, since fake ones cannot be swapped."""
    for part in module.modules() if recurse else [module]:
        for name, parameter in part._parameters.items():
            if parameter is not None and (changed := function(parameter)) is not parameter:
                part._parameters[name] = nn.Parameter(changed.detach(), parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = function(buffer)
    return module
