"""The checks that every reference module must pass.

Each raises AssertionError. `twins` has modules that each must reject.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError
from ..implementations.live import kit
from ..implementations.located import module as implementation
from ..memory.answer import Asked
from ..memory.setting import Setting
from . import tiny
from .trial import KB, Trial, layout, shake

Check = Callable[[Trial], None]
MANY = 12
"""The number of inputs of a combination with many."""


def signature(trial: Trial) -> None:
    """Check that `apply` takes the entry's hyperparameters with its defaults.

    There is no default in `apply` if the entry's default depends on the model.
    """
    parameters = dict(inspect.signature(trial.reference.apply).parameters)
    parameters.pop("name", None)                # a part of a hybrid has another name
    first = parameters.pop(next(iter(parameters)))
    assert first.name == "model", f"the first argument of apply is {first.name}"
    targets = parameters.pop("targets", None)
    if trial.entry.targets is not None:
        assert targets is not None, "the entry has targets, apply takes none"
        assert list(targets.default) == trial.entry.targets.default, "other default targets than the entry's"
    wanted = {
        name: inspect.Parameter.empty if spec.type != "choice" and isinstance(spec.default, str) else spec.default
        for name, spec in trial.entry.hyperparameters.items()
    }
    found = {name: parameter.default for name, parameter in parameters.items()}
    assert found == wanted, "other hyperparameters or defaults than the entry's"


def tensors(trial: Trial) -> None:
    """Check that exactly the declared tensors exist: names, shapes, trained or frozen as declared, and the counts."""
    model = trial.made
    state, names = trial.state(model), trial.names(model)
    for place, found in zip(trial.places, names, strict=True):
        label = f"{place.tensor} at {place.path or 'the model'}"
        assert found, f"{label} is declared but does not exist"
        values = [state[name] for name in found]
        if place.spec.count is None and place.shape is not None:
            assert [tuple(v.shape) for v in values] == [place.shape] * place.copies, f"{label}: other shapes"
        assert sum(v.numel() for v in values) == place.count * place.copies, f"{label}: another count"
        trained, _ = trial.moves(place)
        assert all(v.requires_grad == trained for v in values), f"{label}: trained should be {trained}"
    declared, added = {name for found in names for name in found}, trial.live(model)
    extra = [n for n, v in state.items() if n not in declared and (v.requires_grad or n in added)]
    assert not extra, f"not declared, yet there or trained: {extra}"
    moving = sum(v.numel() for v in state.values() if v.requires_grad)
    if all(some == whole for some, whole in map(trial.moves, trial.places)):
        assert moving == trial.cost.trained, f"{moving} entries require a gradient, declared {trial.cost.trained}"


def identity(trial: Trial) -> None:
    """Check that the adapted model equals the original at the start, if the entry declares it."""
    if trial.entry.properties.identity_at_init == "exact":
        _same(trial.outputs(trial.made), tiny.plain_outputs(trial.family), "the adapted model starts elsewhere")


def training(trial: Trial) -> None:
    """Check that training changes every trained tensor and nothing else, and that the loss falls.

    No more entries than declared may change. A narrow ReLU may be inactive from the start, so each tensor gets four
    starts to change once. A method that trains nothing is skipped; `tensors` checks that it has no gradients at all.
    """
    if not trial.cost.trained:
        return
    never: set[str] | None = None
    for seed in range(4):
        still = _trained_once(trial, seed)
        never = still if never is None else never & still
        if not never:
            return
    raise AssertionError(f"never moved: {sorted(never or ())}")


def _trained_once(trial: Trial, seed: int) -> set[str]:
    """Train a few steps, check every run's conditions, and return the trained tensors that did not change."""
    model = trial.make(seed).train()
    before = {name: value.detach().clone() for name, value in trial.state(model).items()}
    moving = {trial.ours(name) for name, p in model.named_parameters() if p.requires_grad}
    named = zip(trial.places, trial.names(model), strict=True)
    partly = {name for place, names in named for name in names if not trial.moves(place)[1]}
    losses = trial.train(model, 8)
    for live, parameter in model.named_parameters():
        name = trial.ours(live)
        if name in moving:
            if trial.forward_only or not parameter.requires_grad:   # frozen in the last turn
                assert parameter.grad is None, f"a gradient reaches {name}, which is not trained now"
            elif not trial.in_turns:
                assert parameter.grad is not None, f"no gradient reaches {name}"
        else:
            assert parameter.grad is None, f"a gradient reaches {name}, which is frozen"
    moved = {name: int((value != before[name]).sum()) for name, value in trial.state(model).items()}
    assert not any(moved[n] for n in before if n not in moving), "something moved that is not trained"
    total = sum(moved.values())
    assert total <= trial.cost.trained, f"{total} entries moved, declared {trial.cost.trained}"
    assert min(losses[1:]) < losses[0], f"the loss never fell: {losses}"
    return {name for name in moving - partly if not moved[name]}


def merging(trial: Trial) -> None:
    """Check that merging keeps the outputs and leaves nothing behind, if the entry declares that the method merges."""
    if KB[trial.method].merge != "exact":
        assert not hasattr(trial.reference, "merge"), "the module can merge, the entry says it cannot"
        return
    assert trial.cost.served == trial.cost.served_bits == 0, "what merges serves nothing of its own"
    model = trial.make()
    shake(model)
    wanted = trial.outputs(model)
    if not all(place.spec.selecting for place in trial.places):
        assert hasattr(trial.reference, "merge"), "the entry says that the method merges, the module cannot"
        trial.reference.merge(model)
    _same(trial.outputs(model), wanted, "merging changed the outputs")
    plain = tiny.plain(trial.family)
    assert [*model.state_dict()] == [*plain.state_dict()], "merging left something behind"
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules()), "merging left a hook behind"


def storing(trial: Trial) -> None:
    """Check that the stored tensors restore the tuned model, and that the ledgers match them and the served tensors."""
    model = trial.make(seed=0)
    trial.train(model, 3)
    _disturb(trial, model)
    trial.finish(model)
    wanted, state = trial.outputs(model), trial.stored(model)
    _amounts(trial, state, trial.live(model))

    seeded = any(part.as_ == "seed" for place in trial.places for part in place.spec.stored)
    again = tiny.model(trial.family)
    tiny.seed(0 if seeded else 1)
    targets = {} if trial.targets is None else {"targets": trial.targets}
    trial.reference.apply(again, **trial.hyperparameters, **targets)
    trial.finish(again)
    trial.restore(again, state)
    _same(trial.outputs(again), wanted, "what was stored does not give the tuned model back")


def _disturb(trial: Trial, model: torch.nn.Module) -> None:
    """Change every tensor that the method added, even frozen ones, so that none equals the result of a fresh `apply`.

    Exceptions: tensors that a seed regenerates, and tensors of which only chosen entries may differ.
    """
    generator = torch.Generator().manual_seed(5)
    state = trial.state(model)
    for place, names in zip(trial.places, trial.names(model), strict=True):
        whole = all(part.as_ != "seed" and part.count is None and part.across is None for part in place.spec.stored)
        if place.spec.selecting or not whole or not isinstance(place.spec.trained, bool):
            continue
        for name in names:
            if state[name].is_floating_point():
                noise = torch.randn(state[name].shape, generator=generator, dtype=torch.float64)
                state[name].data.add_(0.05 * noise.to(state[name].dtype))


def _amounts(trial: Trial, state: dict[str, Tensor], left: dict[str, Tensor]) -> None:
    """Compare the ledgers `stored`, `stored_bits` and `served` with the actual stored and remaining tensors."""
    if not trial.even:
        return
    numbers = sum(v.numel() for v in state.values() if v.dtype != torch.bool)
    bits = sum(v.numel() for v in state.values() if v.dtype == torch.bool)
    declared = trial.cost.stored + trial.cost.shared, trial.cost.stored_bits
    assert (numbers, bits) == declared, f"holds {numbers} numbers and {bits} bits, declared {declared}"
    if KB[trial.method].merge != "exact":
        served = sum(v.numel() for v in left.values() if v.dtype != torch.bool)
        assert served == trial.cost.served, f"{served} numbers are left to serve, declared {trial.cost.served}"
        masks = sum(v.numel() for v in left.values() if v.dtype == torch.bool)
        assert masks == trial.cost.served_bits, f"{masks} bits are left to serve, declared {trial.cost.served_bits}"


def generalising(trial: Trial) -> None:
    """Check that the method equals the generalised one at the entry's setting: at the start, and after every step."""
    for relation in trial.entry.relations:
        if relation.type != "generalizes" or not relation.at:
            continue
        general = Trial(trial.method, trial.family, trial.hyperparameters | relation.at, trial.targets, trial.module)
        shared = {n: v for n, v in general.hyperparameters.items() if n in KB[relation.target].entry.hyperparameters}
        same = trial.targets or general.cost.targets or None        # the defaults of the two may differ
        targets = same if KB[relation.target].entry.targets else None
        special = Trial(relation.target, trial.family, shared, targets)
        assert general.cost.trained == special.cost.trained, f"trains other counts than {relation.target}"
        a, b = general.make(), special.make()
        ours, theirs = general.live(a), special.live(b)
        shapes = [[value.shape for value in added.values()] for added in (ours, theirs)]
        assert shapes[0] == shapes[1], f"other tensors than {relation.target}"
        for mine, other in zip(ours.values(), theirs.values(), strict=True):
            mine.data.copy_(other)
        _same(general.outputs(a), special.outputs(b), f"starts elsewhere than {relation.target}")
        general.train(a, 3, plain=True)
        special.train(b, 3, plain=True)
        _same(general.outputs(a), special.outputs(b), f"trains elsewhere than {relation.target}")


def memory(trial: Trial) -> None:
    """Check that the entry's operations save what a training step saves: equal bytes between its passes.

    The step runs on real tensors, which takes a tenth of the time of a simulation on a tiny model. If they differ, the
    simulation decides, because some kernels of a CPU save more (an LSTM). Of a method that trains nothing no step is
    run, but its operations must suit the model.
    """
    predicted, setup = _step(trial)
    if not trial.cost.trained:
        predicted.memory()
        return
    _saves(predicted, setup)


def recomputing(trial: Trial) -> None:
    """Check that a step with gradient checkpointing has the same gradients, and saves what the operations say.

    A layer then runs twice, so a module must not lose in the first pass what the second one needs. A method that trains
    nothing, or without a backward pass, is skipped, and so is a model that cannot be checkpointed by whole layers.
    """
    operations = layout(trial.family)[0].family.operations
    if not trial.cost.trained or trial.forward_only or operations is None or not operations.checkpointing:
        return
    plain, again = (_gradients(trial, checkpointing) for checkpointing in (False, True))
    assert plain.keys() == again.keys(), f"with checkpointing other gradients: {plain.keys() ^ again.keys()}"
    for name, gradient in plain.items():
        apart = (again[name] - gradient).abs().max().item()
        assert apart < tiny.TOLERANCE, f"with checkpointing another gradient reaches {name}, by up to {apart:.2g}"
    _saves(*_step(trial, checkpointing=True))


def _gradients(trial: Trial, checkpointing: bool) -> dict[str, Tensor]:
    """Return the gradients of a step after some training, by name."""
    model = trial.make().train()
    shake(model)
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    tiny.seed(7)
    trial.loss(model).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}


def _saves(predicted: Asked, setup: Any) -> None:
    """Check that a step saves the predicted bytes between its passes, in every turn."""
    simulation = implementation("_simulate")
    for turn in setup.turns or (None,):
        wanted = predicted.in_turn(turn).kept
        tiny.seed(0)
        kept = simulation.saved(setup, turn)
        if wanted != kept:
            with simulation.fake():
                kept = simulation.saved(setup, turn)
        assert wanted == kept, f"a step saves {kept:,} bytes, by the entry's operations {wanted:,}"


def updating(trial: Trial) -> None:
    """Check that the method's own optimizer keeps as many bytes as the entry's `updates` say.

    A method without an own optimizer is skipped; it may declare no updates, evaluations or turns.
    """
    recipes = [part.entry.memory for part in KB[trial.method].parts if part.entry.memory is not None]
    declared = any(recipe.updates or recipe.forward_only or recipe.turns is not None for recipe in recipes)
    own = hasattr(trial.reference, "optimizer")
    assert declared == own, "the entry declares a rule of the update if and only if the module has an optimizer"
    if not own:
        return
    simulation = implementation("_simulate")
    predicted, setup = _step(trial)
    tiny.seed(0)
    with simulation.conventions():
        for turn in setup.turns or (None,):
            found, wanted = _kept(simulation.Training(setup), turn), predicted.in_turn(turn).optimizer_states
            assert found == wanted, f"the optimizer keeps {found:,} bytes, by the entry's updates {wanted:,}"


def _kept(training: Any, turn: Any) -> int:
    """Return the bytes of the optimizer's states after a step of a turn."""
    training.begin(turn)
    training.step()
    states = [v for state in training.optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
    return sum(v.untyped_storage().nbytes() for v in states)


def combining(trial: Trial) -> None:
    """Check the inputs of a combination, the bytes that it takes, and whether the changes of the weights add up.

    A method that combines nothing is skipped.
    """
    has = hasattr(trial.reference, "combine")
    declared = trial.entry.combines
    assert (declared is not None) == has, "the entry declares a combination if and only if the module has `combine`"
    if declared is None:
        return
    inputs, each = trial.inputs, trial.combination.each
    sizes = [sum(v.numel() for v in one.values() if v.dtype != torch.bool) for one in inputs]
    assert sizes == [each] * len(inputs), f"inputs of {sizes} numbers, declared {each}"
    for other in (trial, *_with_many_inputs(trial)):
        predicted, model = other.combination, other.applied()
        given = [Saved(inputs[i % len(inputs)]) for i in range(predicted.inputs)]
        taken = implementation("_simulate").taken(model, partial(trial.reference.combine, model, given))
        assert taken == predicted.temporary, f"the combination takes {taken:,} bytes, declared {predicted.temporary:,}"
    if declared.sum is not None:
        apart = max(map(_apart, (trial, *_with_large_numbers(trial))))
        assert (apart < tiny.TOLERANCE) == (declared.sum == "exact"), (
            f"the changes are {apart:.2g} apart from weighted sums of the inputs' changes, declared {declared.sum}"
        )


def _with_many_inputs(trial: Trial) -> Iterator[Trial]:
    """Yield the trial with many inputs, where another pass may take the most, if their number can be set."""
    for name in trial.entry.combines.inputs.names & {*trial.hyperparameters}:
        other = replace(trial, hyperparameters=trial.hyperparameters | {name: MANY})
        with contextlib.suppress(UsageError):
            assert other.combination.inputs > trial.combination.inputs
            yield other


def _with_large_numbers(trial: Trial) -> Iterator[Trial]:
    """Yield the trial with each of its own float hyperparameters four times as large, where this is allowed.

    A combination may leave inputs as they are unless a threshold is large.
    """
    assert trial.entry.combines is not None
    for name, value in trial.hyperparameters.items():
        if isinstance(value, float) and name not in trial.entry.combines.rename.values():
            other = replace(trial, hyperparameters=trial.hyperparameters | {name: 4 * value})
            with contextlib.suppress(UsageError):
                assert other.combination.inputs
                yield other


class Saved(Mapping[str, Tensor]):
    """A checkpoint that is read tensor by tensor: each access returns a new one."""

    def __init__(self, held: Mapping[str, Tensor]):
        self._held = held

    def __getitem__(self, name: str) -> Tensor:
        return self._held[name].clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)


def _apart(trial: Trial) -> float:
    """Return how far the change of any module is from the nearest weighted sum of the inputs' changes of it."""
    before = _modules(tiny.plain(trial.family))
    model = trial.make()
    shake(model)
    found = _modules(_merged(trial, model))
    given = [_modules(_merged(trial.of, trial.of.restored(one))) for one in trial.inputs]
    furthest = 0.0
    for name, plain in before.items():
        changes = torch.stack([(one[name] - plain).flatten() for one in given], 1)
        change = (found[name] - plain).flatten()
        nearest = changes @ (torch.linalg.pinv(changes) @ change)
        furthest = max(furthest, (nearest - change).abs().max().item())
    return furthest


def _modules(model: torch.nn.Module) -> dict[str, Tensor]:
    """Return the parameters of a model by name, with the weight of a fused module as one of each of its roles."""
    found = {name: value.detach() for name, value in model.named_parameters()}
    parts = kit.inventory(model)
    for site in kit.sites(model, [role for role in ("attn.*", "xattn.*", "mlp.*") if parts.has_role(role)]):
        if not site.whole:
            found.pop(f"{site.path}.weight", None)
            found[f"{site.path}.{site.role}"] = site.weight.detach()
    return found


def _merged(trial: Trial, model: torch.nn.Module) -> torch.nn.Module:
    """Return the model after its method is merged into its weights."""
    if hasattr(trial.reference, "merge"):
        trial.reference.merge(model)
    return model


def _step(trial: Trial, checkpointing: bool = False) -> tuple[Asked, Any]:
    """Return the question about a training step on the tiny model, and the set-up of the same step."""
    config, (_, task, _) = tiny.config(trial.family), layout(trial.family)
    method = KB[trial.method].on(config, task=None if task == "none" else task, targets=trial.targets)
    plan = method.training.plan
    seq = 8 if plan.inventory.reads_tokens else None
    setting = Setting(2, seq, dtype="float32", attention="eager", checkpointing=checkpointing)
    asked = Asked(KB, plan, trial.hyperparameters, setting)
    setup = implementation("_simulate").Setup.of(
        KB, trial.method, config, batch=2, seq=seq, dtype="float32", checkpointing=checkpointing,
        optimizer="adamw" if hasattr(trial.reference, "optimizer") else "sgd",
        attention="eager", targets=trial.targets, task=plan.inventory.task,
        hyperparameters=trial.hyperparameters, implementation=trial.module,
    )  # fmt: skip
    return asked, setup


CHECKS: tuple[Check, ...] = (
    signature, tensors, identity, training, merging, storing, generalising, memory, recomputing, updating, combining,
)  # fmt: skip
OWN = frozenset({signature, memory, recomputing, updating, combining})
"""Checks of our own implementations only: others may take arguments otherwise, and save more."""


def _same(found: Tensor, wanted: Tensor, message: str) -> None:
    assert found.shape == wanted.shape, f"{message}: shape {tuple(found.shape)}, expected {tuple(wanted.shape)}"
    difference = (found - wanted).abs().max().item()
    assert difference < tiny.TOLERANCE, f"{message}: by up to {difference:.2g}"
