"""Commands that count: cost, compare, export."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..files import output as out
from .options import (
    FilePath,
    cli,
    completes,
    json_option,
    knowledge,
    method_argument,
    methods_argument,
    model_options,
    once,
    question,
    question_options,
    section,
)

if TYPE_CHECKING:
    from ..costs.cost import Cost
    from ..libraries.adapter import Adapter


def method_or_configuration(ctx: click.Context, param: click.Parameter, method: str | None) -> str | None:
    """Require METHOD unless a configuration names it (that option is read first)."""
    if method is None and ctx.params["adapter_config"] is None:
        raise click.MissingParameter(ctx=ctx, param=param)
    return method


class SavedOrShort(FilePath):
    """A path that exists, or a configuration's short name. A text with a slash or `.json` can only be a path."""

    def __init__(self) -> None:
        super().__init__(exists=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        is_path = "/" in str(value) or str(value).endswith(".json")
        return super().convert(value, param, ctx) if is_path else str(value)


@cli.command()
@click.argument(
    "method", metavar="METHOD", required=False, shell_complete=completes("methods"), callback=method_or_configuration
)
@click.option(
    "--adapter-config",
    metavar="FILE",
    is_eager=True,
    type=SavedOrShort(),
    help="A saved adapter_config.json of peft or adapters, or a short name such as 'lora[r=16]'. It names the method; "
    "give METHOD only if it cannot.",
)
@question_options
@json_option
def cost(method: str | None, adapter_config: str | None, as_json: bool, **asked: Any) -> None:
    """Count what a method costs on a model."""
    wanted = question(asked)
    if adapter_config is not None:
        return adapter_cost(wanted.read(adapter_config, method), asked["model"], as_json)
    found = wanted.ask(knowledge()[str(method)])
    if as_json:
        return out.print_json(found.to_dict())
    return print_cost(found, asked["model"])


def adapter_cost(adapter: Adapter, model: str, as_json: bool) -> None:
    """Print the cost of a library's configuration, and what the library reports."""
    if as_json:
        return out.print_json(adapter.to_dict())
    print_cost(adapter.cost, model)
    reported, library = adapter.reported, adapter.library
    click.echo(f"\n{library.name} {library.version}, {adapter.type}, reports")
    out.print_table(
        ("", "parameters", ""),
        [
            ("trained", out.number(reported.trained), ""),
            ("total", out.number(reported.total), ""),
            ("file", out.number(reported.stored), f"{out.bytes_text(reported.stored_bytes)} in {adapter.dtype}"),
            *((extra.name, out.number(extra.trained), "of them") for extra in adapter.extras if extra.trained),
            *((extra.name, out.number(extra.stored), "of the file") for extra in adapter.extras if not extra.trained),
        ],
        right=["parameters"],
    )
    said = [*(f"{key}: {name} = {value}" for key, own in adapter.patterns.items() for name, value in own.items()),
            *(f"note: {note}" for note in adapter.notes),
            *(f"differs in {d.effect}: {' '.join(d.note.split())}" for d in adapter.deviations)]  # fmt: skip
    click.echo("".join(f"\n{line}" for line in said), nl=bool(said))
    return None


def print_cost(found: Cost, model: str) -> None:
    """Print the counts, and the tensors that they are sums of."""
    from ..costs.plan import BYTES

    plain = found.base_bytes == found.backbone * BYTES[found.dtype]
    base = f"in {found.dtype}" if plain else "as the method stores it"
    click.echo(f"{found.method} on {found.model or model}, task {found.task}")
    click.echo(with_values(found) or "no hyperparameters")
    targets = found.target_modules or found.targets
    named = targets if isinstance(targets, str) else ", ".join(targets)
    click.echo(f"targets {named}\n" if named else "")
    ledgers = [
        ("trained", out.number(found.trained), f"{found.percent:.4g} % of the backbone"),
        ("stored", out.number(found.stored), stored_note(found)),
        ("shared", out.number(found.shared), "stored once for all tasks"),
        ("served", out.number(found.served), "beyond the backbone, at inference"),
        ("head", out.number(found.head), "a new task head, counted separately"),
        ("backbone", out.number(found.backbone), f"{out.bytes_text(found.base_bytes)} {base}"),
    ]
    shown = [row for row in ledgers if row[1] != "0" or row[0] not in ("head", "shared")]
    section(("", "parameters", ""), shown, right=["parameters"])
    rows = [
        (t.name, t.per, " x ".join(map(str, t.shape)) if t.shape else out.number(t.count),
         *map(out.number, (t.sites, t.total, t.trained, t.stored, t.served)), ", ".join(t.roles))
        for t in found.tensors
    ]  # fmt: skip
    columns = ("tensor", "per", "shape", "sites", "total", "trained", "stored", "served", "roles")
    return out.print_table(columns, rows, right=columns[2:8])


def with_values(cost: Cost) -> str:
    """Return the hyperparameters as "r = 8, alpha = 8.0"."""
    return ", ".join(f"{name} = {value}" for name, value in cost.hyperparameters.items())


def stored_note(cost: Cost) -> str:
    """Return the size of what is stored, in words."""
    bits = f", with {cost.stored_bits:,} bits of masks" if cost.stored_bits else ""
    return f"{out.bytes_text(cost.stored_bytes)} in {cost.dtype}{bits}"


@cli.command()
@methods_argument
@question_options
@click.option("--explain", is_flag=True, help="Say in sentences how the methods differ, too.")
@json_option
def compare(methods: tuple[str, ...], as_json: bool, explain: bool, **asked: Any) -> None:
    """Compare methods on one model. A setting applies to every method that has it."""
    kb = knowledge()
    costs = question(asked).ask_all([kb[m] for m in dict.fromkeys(methods)])
    words = kb.compare(*methods) if explain else None
    if as_json:
        records = [c.to_dict() for c in costs]
        return out.print_json(records if words is None else {"costs": records, **words.to_dict()})
    rows = [
        (c.method, out.number(c.trained), f"{c.percent:.4g}", out.number(c.stored),
         out.bytes_text(c.stored_bytes), out.number(c.served), with_values(c))
        for c in costs
    ]  # fmt: skip
    columns = ("method", "trained", "percent", "stored", "checkpoint", "served", "with")
    out.print_table(columns, rows, right=columns[1:6])
    if words is not None:
        click.echo(f"\n{words}")
    return None


@cli.command()
@method_argument
@click.option("--to", metavar="LIBRARY", default="peft", show_default=True, help="Or adapters, axolotl, llama_factory.")
@model_options
@json_option
def export(method: str, to: str, as_json: bool, **asked: Any) -> None:
    """Print a library's or a trainer's configuration of a method.

    For a library: the Python call, and the file that it saves. For a trainer: its configuration of a run, in YAML.
    """
    from ..libraries.trainers import Run

    wanted = question(asked)
    settings: Any = once(wanted.settings)
    found = knowledge()[method].export(**wanted.place, to=to, **settings)
    if as_json:
        return out.print_json(found.to_dict())
    if isinstance(found, Run):
        return click.echo(found.yaml, nl=False)
    click.echo(f"{found.python}\n\n{found.library.file}")
    return out.print_json(found.to_dict())
