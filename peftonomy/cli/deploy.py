"""Commands about a trained adapter: serving, and merging into a quantised base."""

from __future__ import annotations

from typing import Any

import click

from ..files import output as out
from .options import (
    FilePath,
    Whole,
    cli,
    completes,
    count,
    json_option,
    knowledge,
    method_argument,
    model_options,
    once,
    question,
    section,
)

WORDS = {
    "taken": "takes it", "converted": "takes it after a conversion to LoRA", "refused": "refuses it",
    "wrong": "loads it without an error and computes another function", "unknown": "not read",
}  # fmt: skip
"""The answers of an engine."""


@cli.command()
@method_argument
@model_options
@click.option("--engine", metavar="ENGINE", shell_complete=completes("engines"),
              help="An engine, such as vllm. Without it: the key-value cache and unmerged adapters.")
@click.option("--max-loras", metavar="N", type=Whole(), default=1, show_default=True, help="The number of adapters.")
@click.option("--max-rank", metavar="R", type=Whole(),
              help="The engine's largest rank. Default: the smallest that holds the method's.")
@click.option("--tp", metavar="N", type=Whole(), default=1, show_default=True, help="GPUs of tensor parallelism.")
@click.option("--fully-sharded", is_flag=True, help="The engine's option to shard adapters further.")
@click.option("--dtype", metavar="DTYPE", help="Of adapters and cache. Default: the first that the engine accepts.")
@json_option
def serving(
    method: str, as_json: bool, engine: str | None, max_loras: int, max_rank: int | None, tp: int, fully_sharded: bool,
    dtype: str | None, **asked: Any,
) -> None:  # fmt: skip
    """Count the bytes that a serving engine allocates for adapters, on one GPU."""
    asking = question(asked)
    kb = knowledge()
    found = kb[method].on(**asking.place).serving(
        engine=engine, max_loras=max_loras, max_rank=max_rank, tp=tp, fully_sharded=fully_sharded, dtype=dtype,
        **once(asking.settings),
    )  # fmt: skip
    if as_json:
        return out.print_json(found.to_dict())
    package = None if kb.unmerged is None else kb.libraries[kb.unmerged.library].package  # an error prints nothing else
    click.echo(f"{method} on {found.model}, {found.dtype}, on {'one of ' * (tp > 1)}{count(tp, 'GPU')}")
    if engine is not None:
        one = kb.engines[engine]
        click.echo(f"{one.name} {one.version} {WORDS[found.works or 'unknown']}: {found.why}\n")
        if found.slot_bytes is not None and found.total_bytes is not None:
            when = {"start": "allocated at the start", "load": "allocated when an adapter loads"}[one.allocates]
            rows = [(role, out.number(size), out.binary_text(size)) for role, size in found.parts.items()]
            rows.append(("one adapter", out.number(found.slot_bytes), out.binary_text(found.slot_bytes)))
            total = f"{out.binary_text(found.total_bytes)}, {when}, rank {found.max_rank}"
            rows.append((count(max_loras, "adapter") + " in all", out.number(found.total_bytes), total))
            section(("", "bytes", ""), rows, right=["bytes"])
            for line in found.beside:
                click.echo(f"Not counted: {line}")
    if found.unmerged_bytes:
        parts = [f"{out.binary_text(found.unmerged_bytes)} beside the model"]
        if found.unmerged_flops is not None:
            parts.append(f"{found.unmerged_flops:,} operations a token")
        if found.unmerged_launches is not None and package is not None:
            parts.append(f"{found.unmerged_launches:,} kernel launches in {package}")
        click.echo(f"Unmerged: {', '.join(parts)}.")
    if found.key_value_bytes is None:
        click.echo("The key-value cache of this model is not described.")
    elif found.key_value_bytes:
        what = f"{found.positions:,} more positions take" if found.positions else "The stored keys and values take"
        size = f"{found.key_value_bytes:,} bytes of the key-value cache"
        click.echo(f"{what} {size}, for each sequence that shares none.")
    return None


@cli.command()
@click.argument("adapter", metavar="ADAPTER", type=FilePath(exists=True))
@click.option("--model", metavar="MODEL", required=True, shell_complete=completes("models"),
              help="An id of the catalogue, a name on the Hugging Face Hub, or the path of a config.json.")
@click.option("--to", metavar="FORMAT", required=True, help="nf4 or int8.")
@click.option("--weights", metavar="PATH", type=FilePath(exists=True),
              help="The model's safetensors file, or a folder with such files.")
@json_option
def merge_check(adapter: str, model: str, to: str, weights: str | None, as_json: bool) -> None:
    """Check whether the update of a saved adapter survives a merge into quantised weights.

    ADAPTER is a folder that peft has saved, or its adapter_model.safetensors. Rounding loses an update that is small
    beside the weights.
    """
    with out.progress("reading"):
        found = knowledge().merge_check(adapter, model, to=to, weights=weights)
    if as_json:
        return out.print_json(found.to_dict())
    click.echo(f"{found.method} of {adapter}, merged into {found.model} in {to}\n")
    if found.verdicts:
        rows = [
            (one.module, f"{one.norm:.4g}", f"{one.rho:.4f}", f"{one.error:.3f}", f"{one.kept:.1%}", one.verdict or "")
            for one in found.modules
        ]  # fmt: skip
        section(("module", "norm", "of the weight", "error", "kept", ""), rows, right=["norm", "error", "kept"])
        return click.echo(", ".join(f"{name}: {count(n, 'module')}" for name, n in found.verdicts.items()))
    section(("module", "norm"), [(one.module, f"{one.norm:.4g}") for one in found.modules], right=["norm"])
    click.echo(
        f"An update is lost below {found.lost_below} times the norm of its weight, and kept above {found.kept_above} "
        "times, if the weights are normal. With --weights each module is predicted."
    )  # fmt: skip
    return None
