"""Commands about a training step, and about the combination of what training gave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from ..errors import UsageError
from ..files import output as out
from .options import (
    Whole,
    cli,
    completes,
    count,
    json_option,
    knowledge,
    method_argument,
    model_options,
    question,
    section,
)

F = TypeVar("F", bound=Callable[..., Any])


def step_options(command: F) -> F:
    """Add the options of a training step, except batch and length."""
    options = [
        click.option("--dtype", metavar="DTYPE", default="bfloat16", show_default=True,
                     help="bfloat16, float16, float32, or mixed (trained parameters in float32)."),
        click.option("--optimizer", metavar="NAME", default="adamw", show_default=True,
                     help="adamw, adamw-foreach, adamw-8bit, paged-adamw, paged-adamw-8bit, adafactor or sgd."),
        click.option("--checkpointing", is_flag=True, help="Keep only the inputs of layers, and recompute the rest."),
        click.option("--attention", metavar="KIND", default="sdpa", show_default=True, help="sdpa or eager."),
        click.option("--quantized", metavar="KIND", help="Store the frozen matrices of the layers as nf4 or int8."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def gpus_options(command: F) -> F:
    """Add the options that say how many GPUs share a step, and how."""
    options = [
        click.option("--gpus", metavar="N", type=Whole(),
                     help="Several GPUs: predict one rank, which has a batch of its own."),
        click.option("--shard", metavar="KIND", help="fsdp (FSDP2, the default), ddp or zero1."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def rank_options(command: F) -> F:
    """Add the options of several GPUs."""
    options = [
        click.option("--reshard/--no-reshard", "reshard_after_forward", default=None,
                     help="Release a layer's gathered parameters after its forward pass (fsdp). Default: release."),
        click.option("--reduce-dtype", metavar="DTYPE", help="Reduce gradients in float32 or bfloat16 (fsdp)."),
        click.option("--quant-storage", metavar="DTYPE",
                     help="The type that holds nf4 weights: bfloat16, or uint8, which is not sharded (fsdp)."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return gpus_options(command)


SHOWN = 10
"""The number of methods that do not fit, in the text of `choose`."""
STEP = ("optimizer", "checkpointing", "attention", "quantized")
SUMS = {
    "exact": "The change of each weight is a weighted sum of the inputs' changes.",
    "approximate": "The change of the weights is another one than a weighted sum of the inputs' changes.",
    None: "The result stays beside the weights.",
}


@cli.command()
@method_argument
@model_options
@click.option("--batch", metavar="N", type=Whole(), required=True, help="Sequences or images in a step.")
@click.option("--seq", metavar="N", type=Whole(), help="Tokens in a sequence; for models of text.")
@step_options
@rank_options
@click.option("--simulate", is_flag=True, help="Run the reference implementation on fake tensors (the torch extra).")
@json_option
def memory(method: str, as_json: bool, simulate: bool, batch: int, seq: int | None, **asked: Any) -> None:
    """Predict the memory and the operations of a training step."""
    from ..memory.setting import PARTS
    from ..memory.sharding import NOT_COVERED, OPTIONS, RankMemory, sharding

    step = {name: asked.pop(name) for name in STEP} | {"batch": batch, "seq": seq}
    shared = sharding(**{name: asked.pop(name) for name in OPTIONS})
    asking = question(asked)
    entry = knowledge()[method]
    if simulate:
        with out.progress(f"simulating {method}"):
            found = asking.simulate(entry, shared, **step)
    else:
        found = asking.remember(entry, shared, **step).to_dict()
    if as_json:
        return out.print_json(found)
    click.echo(f"{method} on {found['model'] or asked['model']}, task {found['task']}")
    click.echo(", ".join(f"{n} = {v}" for n, v in found["hyperparameters"].items()) or "no hyperparameters")
    how = [f"batch {batch}" + (f" x {seq}" if seq else ""), found["dtype"], found["optimizer"], found["attention"]]
    how += ["checkpointing"] * found["checkpointing"] + ([found["quantized"]] if found.get("quantized") else [])
    if shared is not None:
        how.append(f"{shared.shard} on {shared.gpus:,} GPUs" + ", not resharded" * (not shared.reshards))
    click.echo(", ".join(how) + "\n")
    parts = PARTS if shared is None or simulate else RankMemory.parts
    sizes = [(part.replace("_", " "), found[part], "") for part in parts]
    sizes.append(("peak", found["peak"], f", in the {found['phase']} phase"))
    if not simulate:
        sizes.append(("gpu extra", found["gpu_extra_estimate"], ", an estimate, not in the peak"))
    if found.get("paged"):
        sizes.append(("paged", found["paged"], ", which may leave the GPU"))
    rows = [(name, out.number(size), out.binary_text(size) + note) for name, size, note in sizes]
    section(("", "bytes", ""), rows, right=["bytes"])
    if shared is not None:
        click.echo(f"Not covered: {NOT_COVERED}.")
    if shared is not None and simulate:
        return None     # operations are not counted there
    return click.echo(f"{found['forward_flops']:.4g} operations forward, {found['step_flops']:.4g} a step")


@cli.command()
@method_argument
@model_options
@click.option("--dtype", metavar="DTYPE", default="bfloat16", show_default=True,
              help="Data type of the model, the inputs and the result.")
@json_option
def merge(method: str, as_json: bool, **asked: Any) -> None:
    """Predict the memory of a merge of several models or adapters, and what is stored before and after."""
    asking = question(asked)
    found = asking.combine(knowledge()[method])
    if as_json:
        return out.print_json(found.to_dict())
    click.echo(f"{method} on {found.model}, {found.dtype}")
    click.echo((", ".join(f"{n} = {v}" for n, v in found.hyperparameters.items()) or "no hyperparameters") + "\n")
    rows = [
        (f"{count(found.inputs, 'input')} ({found.of})", out.number(found.inputs * found.each), found.inputs_bytes),
        ("result", out.number(found.stored), found.stored_bytes),
        ("model with the method's tensors", "", found.weights), ("temporaries", "", found.temporary),
        ("peak", "", found.peak),
    ]  # fmt: skip
    shown = [(name, values, out.number(size), out.binary_text(size)) for name, values, size in rows]
    section(("", "values", "bytes", ""), shown, right=["values", "bytes"])
    click.echo(f"{found.trained:,} entries are trained after it.")
    return click.echo(SUMS[found.sum])


@cli.command()
@method_argument
@model_options
@click.option("--gpus", metavar="N", type=Whole(), required=True, help="The number of GPUs.")
@click.option("--stage", metavar="N", type=Whole(), required=True, help="The stage of ZeRO: 2 or 3.")
@click.option("--reduce-bucket-size", metavar="N", type=Whole(), help="As in DeepSpeed's configuration. Default: 5e8.")
@json_option
def deepspeed(
    method: str, as_json: bool, gpus: int, stage: int, reduce_bucket_size: int | None, **asked: Any
) -> None:
    """Show the model states of DeepSpeed's ZeRO-2 or ZeRO-3, read from its source, beside its own estimate."""
    asking = question(asked)
    found = asking.deepspeed(knowledge()[method], gpus=gpus, stage=stage, reduce_bucket_size=reduce_bucket_size)
    if as_json:
        return out.print_json(found.to_dict())
    click.echo(f"{method} on {found.model}, ZeRO-{stage} on {gpus:,} GPUs: {found.trained:,} trained parameters")
    click.echo(f"{found.source[0].upper()}{found.source[1:]}.\n")
    rows = [(part.name, out.number(part.bytes), part.when, out.binary_text(part.bytes)) for part in found.parts]
    rows.append(("all that is always there", out.number(found.states), "", out.binary_text(found.states)))
    rows.append(("DeepSpeed's estimator", out.number(found.estimator), "", out.binary_text(found.estimator)))
    section(("", "bytes", "when", ""), rows, right=["bytes"])
    return click.echo(f"{found.why}.")


@cli.command()
@click.argument("methods", metavar="[METHOD]...", nargs=-1, shell_complete=completes("methods"))
@click.option("--model", metavar="MODEL", required=True, shell_complete=completes("models"),
              help="An id of the catalogue, a name on the Hugging Face Hub, or the path of a config.json.")
@click.option("--task", metavar="TASK", help="Default: the task that the model was trained for.")
@click.option("--num-labels", metavar="N", type=Whole(), default=2, show_default=True,
              help="Number of labels of a classification head.")
@click.option("--gpu", metavar="GPU", required=True, help="Its memory or its name: 24GiB, 80GB, 4090, A100-80GB.")
@click.option("--batch", metavar="N", type=Whole(), default=1, show_default=True,
              help="Sequences or images in a step.")
@click.option("--seq", metavar="N", type=Whole(), help="Tokens in a sequence. Default: 512 for models of text.")
@click.option("--merge", is_flag=True, help="Only methods that merge exactly into the weights.")
@click.option("--need", "needs", metavar="LIST", multiple=True,
              help="Only methods of a saved query, such as side_by_side; repeatable. `peftonomy lists` prints them.")
@click.option("--library", metavar="LIBRARY", help="Only methods that this library has; `any`: that some library has.")
@click.option("--trained", metavar="N", help="Train at most this many parameters: 10M, 250k, 1e6, 0.1%.")
@click.option("--by", metavar="PRIORITY", default="libraries", show_default=True,
              help="What comes first: libraries (the most used), memory, stored (the smallest checkpoint), evidence "
                   "(published runs) or ours (groups of our own study).")
@click.option("--anywhere", is_flag=True, help="Do not rank methods in a library before all others.")
@click.option("-n", metavar="N", type=Whole(), default=5, show_default=True, help="The number of methods.")
@click.option("--code", is_flag=True, help="Print the program for the first method, from loading to saving.")
@step_options
@gpus_options
@json_option
def choose(
    methods: tuple[str, ...], as_json: bool, model: str, code: bool, **asked: Any
) -> None:
    """Choose methods for a model, a GPU and a training step, with settings that fit.

    A step that does not fit is relaxed: gradient checkpointing, then an 8-bit optimiser, a base in NF4, and a smaller
    batch. If a method fits on several such GPUs only, the answer says on how many. With methods: count only these.
    """
    from ..knowledge.choose import RELAXATIONS
    from ..memory.sharding import NOT_COVERED

    with out.progress("choosing"):
        found = knowledge().choose(model, methods=methods, **asked)
    if as_json:
        return out.print_json(found.to_dict())
    if code:
        if not found.found:
            raise UsageError(f"no method fits; {found.refused[0].method}: {found.refused[0].reasons[0]}")
        library = asked.get("library")
        return click.echo(found.found[0].program(library if library in knowledge().libraries else None))
    rows = [
        (c.method, ", ".join(f"{n} = {v}" for n, v in c.given.items()) or "default", out.number(c.trained),
         out.bytes_text(c.stored_bytes), out.binary_text(c.steps[0]), out.binary_text(c.bytes),
         ", ".join(RELAXATIONS[name][1] for name in c.relaxed) + (f" of {c.setting.batch}" * ("batch" in c.relaxed)))
        for c in found.found
    ]  # fmt: skip
    columns = ("method", "setting", "trained", "checkpoint", "as asked", "memory", "with")
    section(columns, rows, right=columns[2:6])
    section(("does not fit", "because"), [(r.method, "; ".join(r.reasons)) for r in found.refused[:SHOWN]])
    if len(found.refused) > SHOWN:
        click.echo(f"and {len(found.refused) - SHOWN} more, which --json lists")
    if found.sharding is not None:
        click.echo(f"Memory of one of {found.sharding.gpus:,} GPUs. Not covered: {NOT_COVERED}.")
    return None


@cli.command()
@click.argument("methods", metavar="[METHOD]...", nargs=-1, shell_complete=completes("methods"))
@model_options
@click.option("--gpu", metavar="GPU", required=True, help="Its memory or its name: 24GiB, 80GB, 4090, A100-80GB.")
@click.option("--batch", metavar="N", type=Whole(), help="Sequences or images in a step. Default: 1.")
@click.option("--seq", metavar="N", type=Whole(), help="Tokens in a sequence. Default: 512 for models of text.")
@click.option("--solve", metavar="NAME", default="batch", show_default=True,
              help="What to solve for: batch, seq, gpus (the fewest), or a hyperparameter that is a whole number.")
@step_options
@rank_options
@json_option
def fit(methods: tuple[str, ...], as_json: bool, gpu: str, solve: str, **asked: Any) -> None:
    """Find the largest batch, sequence length or size that fits a given GPU, or the smallest number of such GPUs.

    Without methods: every method that can be solved for on the model. The last column is the single change of the
    setting that helps most.
    """
    from ..memory.fit import asked_gpus, beside
    from ..memory.gpus import gpu_memory
    from ..memory.sharding import OPTIONS, sharding

    kb, step = knowledge(), {name: asked.pop(name) for name in ("batch", "seq", *STEP)}
    ranks = {name: asked.pop(name) for name in OPTIONS}
    shared = sharding(asked_gpus(ranks.pop("gpus"), solve), **ranks)
    size, asking = gpu_memory(kb.gpus, gpu), question(asked)
    found, wanted = [], [kb[method] for method in dict.fromkeys(methods or kb)]
    asking.check_settings(wanted)
    with out.bar("fitting") as report:
        for done, method in enumerate(wanted):
            report(done, len(wanted))
            try:
                found.append(asking.fit(method, solve, size, shared, **step))
            except UsageError:
                if methods:
                    raise
    if not found:
        raise UsageError("no method can be solved for this; name one to see the reason")
    found = beside(found)
    if as_json:
        return out.print_json([f.to_dict() for f in found])
    rows = [
        (f.method, out.number(f.value) if f.value else "none",
         "" if f.memory is None else out.binary_text(f.memory.peak),
         f"{f.changes[0].name}: {f.changes[0].value:,}" if f.changes else "")
        for f in found
    ]  # fmt: skip
    return out.print_table(("method", solve, "peak", "best change"), rows, right=[solve, "peak"])
