"""The command line: every question that Python answers, as text for people or `--json` for programs.

Commands only ask and show; what they ask is in the library. Heavy imports (rich, networkx, the site, pytest)
wait until a command needs them, so that a cost query starts in a fraction of the time that importing torch
takes. A mistake of the user is one line on stderr: exit code 1 for bad data, 2 for bad usage.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from . import _output as out
from ._errors import DataError, PeftonomyError, UnknownName, UsageError, shown

if TYPE_CHECKING:
    from ._adapter import Adapter
    from ._costs import Cost
    from ._fit import Fit
    from ._kb import KnowledgeBase, Method
    from ._memory import Memory
    from ._schema import Tensor

__all__ = ["cli", "main"]

F = TypeVar("F", bound=Callable[..., Any])

INTERRUPTED = 130
"""What shells report of a process ended by Ctrl-C."""


# How a command ends


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code. Raises nothing that a user can cause."""
    try:
        code = cli.main(arguments, prog_name="peftonomy", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else error.format_message(), err=True)
        return error.exit_code
    except click.ClickException as error:
        return complain(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except PeftonomyError as error:
        return complain(one_line(error), error.exit_code)
    except BrokenPipeError:
        silence(sys.stdout)
        return 1
    except OSError as error:
        return complain(": ".join(map(str, filter(None, (error.filename, error.strerror or str(error))))), 1)
    return code if isinstance(code, int) else 0


def complain(message: str, code: int) -> int:
    click.echo(f"error: {' '.join(message.split())}", err=True)
    return code


def one_line(error: PeftonomyError) -> str:
    """The error as one line: of many problems in data the first, and how to see them all."""
    if isinstance(error, DataError) and len(error.problems) > 1:
        return f"{error.problems[0]} (and {len(error.problems) - 1} more: peftonomy check)"
    return str(error)


def silence(stream: Any) -> None:
    """Point a stream whose reader has gone at nothing, so that Python's exit does not complain about it."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


# What commands share


class Words(click.ParamType[tuple[str, ...]]):
    """Words separated by commas."""

    name = "words"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        words = tuple(w.strip() for w in value.split(",")) if isinstance(value, str) else tuple(value)
        if not all(words):
            self.fail(f"{shown(value)!r} has an empty word.", param, ctx)
        return words


class Setting(click.ParamType[tuple[str, str]]):
    """`name=value`, or `method.name=value` for one of several methods."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        name, equals, text = (part.strip() for part in str(value).partition("="))
        if not (name and equals and text):
            self.fail(f"{shown(value)!r} is not of the form name=value.", param, ctx)
        return name, text


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """What a cost is asked of, apart from the method."""

    model: str
    settings: tuple[tuple[str, str], ...]
    targets: tuple[str, ...] | None
    target_modules: tuple[str, ...] | None
    task: str | None
    num_labels: int
    dtype: str = "float32"

    @property
    def place(self) -> dict[str, Any]:
        """The model, and where on it, as `Method.plan` is asked."""
        modules: Any = self.target_modules
        return {
            "model": self.model,
            "targets": self.targets,
            "target_modules": modules[0] if modules == ("all-linear",) else modules,
            "task": self.task,
            "num_labels": self.num_labels,
        }

    def ask(self, method: Method, settings: Mapping[str, str] | None = None, *, targeted: bool = True) -> Cost:
        """The cost of `method` with all settings, or only with those given. Raises PeftonomyError."""
        place = self.place if targeted else self.place | {"targets": None, "target_modules": None}
        plan = method.plan(**place)
        return plan.cost(once(self.settings) if settings is None else settings, self.dtype)

    def read(self, file: str, method: str | None) -> Adapter:
        """The configuration in a file, on this model. Raises PeftonomyError."""
        said = {"--set": self.settings, "--targets": self.targets, "--target-modules": self.target_modules}
        for option, given in said.items():
            if given:
                raise UsageError(f"{option} and --adapter-config are two ways to say one thing; give one of them")
        return knowledge().adapter(
            file, self.model, method=method, task=self.task, num_labels=self.num_labels, dtype=self.dtype
        )

    def remember(self, method: Method, **step: Any) -> Memory:
        """The memory of a training step. Raises PeftonomyError."""
        from ._memory import Setting

        setting = Setting(dtype=self.dtype, **step)
        return method.step(**self.place).memory(once(self.settings), setting)

    def simulate(self, method: Method, *, quantized: str | None, **step: Any) -> dict[str, Any]:
        """The memory of a training step that is run on fake tensors, as plain data. Raises PeftonomyError."""
        try:
            from reference_impls._simulate import simulate
        except ModuleNotFoundError as error:
            raise UsageError(f"--simulate needs {error.name}: install peftonomy[torch]") from None
        if quantized or self.target_modules:
            raise UsageError("--simulate takes neither --quantized nor --target-modules")
        settings: dict[str, Any] = {**once(self.settings)}
        for name in settings.keys() - hyperparameter_names(method):
            raise UnknownName("hyperparameter", name, hyperparameter_names(method), f"of {method.id}")
        where: dict[str, Any] = {"targets": self.targets, "task": self.task, "num_labels": self.num_labels}
        try:
            found = simulate(method.kb, method.id, self.model, dtype=self.dtype, **where, **step, **settings)
        except (RuntimeError, TypeError, ValueError) as error:  # of torch or of the reference implementation
            why = str(error).partition("\n")[0]
            raise UsageError(f"--simulate: {method.id} does not run so on {self.model}: {why}") from error
        return found.to_dict()

    def fit(self, method: Method, solve: str, gpu: int, **step: Any) -> Fit:
        """What fits `gpu` bytes; the method takes the settings that it knows. Raises PeftonomyError."""
        from ._fit import SOLVED, largest
        from ._memory import Setting

        known = own_settings(method, once(self.settings))
        if solve in {method.entry.alternative_names.get(name, name) for name in known}:
            raise UsageError(f"{solve} is given by --set, and --solve looks for it; give one of them")
        sizes = {n for n, h in method.entry.hyperparameters.items() if h.type == "int"}
        if solve not in sizes.union(SOLVED):
            raise UnknownName("size", solve, [*SOLVED, *sorted(sizes)], f"of {method.id}")
        place = self.place if method.entry.targets else self.place | {"targets": None, "target_modules": None}
        step_ = method.step(**place)
        return largest(step_, known, Setting(dtype=self.dtype, **step), solve, gpu)

    def ask_all(self, methods: Sequence[Method]) -> list[Cost]:
        """One cost a method; each takes the settings and targets that it knows. Raises PeftonomyError."""
        self.check_settings(methods)
        settings = once(self.settings)
        return [self.ask(m, own_settings(m, settings), targeted=m.entry.targets is not None) for m in methods]

    def check_settings(self, methods: Sequence[Method]) -> None:
        """Raise UnknownName for a setting that none of the methods has."""
        for name in once(self.settings):
            if not any(knows(m, name) for m in methods):
                known = {n for m in methods for n in hyperparameter_names(m)}
                raise UnknownName("hyperparameter", name, known, "of these methods")


def knows(method: Method, name: str) -> bool:
    """Whether a setting, `name` or `method.name`, is meant for the method."""
    prefix, _, bare = name.rpartition(".")
    return prefix in ("", method.id) and bare in hyperparameter_names(method)


def own_settings(method: Method, settings: Mapping[str, str]) -> dict[str, str]:
    """Return the settings meant for a method; `method.name` goes before `name`."""
    others = method.entry.alternative_names
    known = {name: name.rpartition(".")[2] for name in settings if knows(method, name)}
    own = {bare: settings[name] for name, bare in known.items() if name != bare}
    taken = {others.get(bare, bare) for bare in own}
    return own | {n: settings[n] for n, bare in known.items() if n == bare and others.get(n, n) not in taken}


def hyperparameter_names(method: Method) -> set[str]:
    return {*method.entry.hyperparameters, *method.entry.alternative_names}


def once(settings: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The settings by name. Raises UsageError for a name given twice."""
    found: dict[str, str] = {}
    for name, text in settings:
        if name in found:
            raise UsageError(f"--set {name} is given twice")
        found[name] = text
    return found


def knowledge() -> KnowledgeBase:
    """The knowledge base that `--root`, the environment or the installation names."""
    import peftonomy

    return peftonomy.load(click.get_current_context().find_root().params["root"])


def completes(kind: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Shell completion with the ids of one of the knowledge base's mappings."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        import peftonomy

        try:
            kb = peftonomy.load(ctx.find_root().params.get("root"))
            known = kb.taxonomy.categories if kind == "categories" else getattr(kb, kind)
        except PeftonomyError:
            return []
        return [CompletionItem(key) for key in sorted(known) if key.startswith(incomplete)]

    return complete


def json_option(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def model_options(command: F) -> F:
    """The options that say on what a method is laid out."""
    options = [
        click.option("--model", metavar="MODEL", required=True, shell_complete=completes("models"),
                     help="A catalogued model, its name on the Hugging Face Hub, or the path of a config.json."),
        click.option("--set", "settings", metavar="NAME=VALUE", type=Setting(), multiple=True,
                     help="A hyperparameter; repeatable."),
        click.option("--targets", metavar="ROLES", type=Words(),
                     help="Modules to act on by role, as papers name them: attn.q,attn.v"),
        click.option("--target-modules", metavar="NAMES", type=Words(),
                     help="Modules to act on by name, as peft does: q_proj,v_proj, or all-linear."),
        click.option("--task", metavar="TASK",
                     help="none, causal_lm or seq_cls; default: what the model was trained for."),
        click.option("--num-labels", metavar="N", type=int, default=2, show_default=True,
                     help="Labels of a seq_cls head."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def question_options(command: F) -> F:
    """The options that make up a `Question`."""
    option = click.option(
        "--dtype", metavar="DTYPE", default="float32", show_default=True, help="The type of the numbers in checkpoints."
    )
    return model_options(option(command))


def question(given: dict[str, Any]) -> Question:
    if given["targets"] and given["target_modules"]:
        raise UsageError("--targets and --target-modules are two ways to say one thing; give one of them")
    return Question(**given)


method_argument = click.argument("method", metavar="METHOD", shell_complete=completes("methods"))
methods_argument = click.argument(
    "methods", metavar="METHOD...", nargs=-1, required=True, shell_complete=completes("methods")
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="peftonomy", message="%(prog)s %(version)s")
@click.option(
    "--root", metavar="PATH", envvar="PEFTONOMY_ROOT", type=click.Path(exists=True, file_okay=False),
    help="Another tree of data (or PEFTONOMY_ROOT).",
)  # fmt: skip
def cli(root: str | None) -> None:
    """A knowledge base of parameter-efficient fine-tuning methods that is checked by running it."""


# Looking things up


@cli.command()
@click.option("--category", metavar="C", shell_complete=completes("categories"), help="Only below this category.")
@click.option("--where", metavar="PREDICATE", default="", help="Only where this holds: merge == exact and year >= 2023")
@click.option(
    "--model",
    metavar="MODEL",
    shell_complete=completes("models"),
    help="Let the predicate name trained, stored, stored_bytes, served and percent on this model.",
)
@click.option("--list", "stored", metavar="LIST", help="Only those of a stored list; `peftonomy lists` names them.")
@json_option
def methods(category: str | None, where: str, model: str | None, stored: str | None, as_json: bool) -> None:
    """List the methods."""
    from ._query import select

    kb = knowledge()
    found = select(kb, where, category, model)
    if stored is not None:
        found = found.only(kb.stored_list(stored).ids)
    if as_json:
        return out.print_json(list(found))
    rows = [(m.id, m.name, str(m.year), m.category, m.entry.summary) for m in found.methods]
    return out.print_table(("id", "name", "year", "category", "summary"), rows)


@cli.command()
@method_argument
@json_option
def show(method: str, as_json: bool) -> None:
    """Show one method's entry."""
    entry = knowledge()[method].entry
    if as_json:
        return out.print_json(entry.model_dump(mode="json", by_alias=True, exclude_none=True))
    click.echo(f"{entry.name}: {entry.full_name} ({entry.year}), {entry.category}\n\n{entry.summary}\n")
    click.echo(f"{entry.update}\n{entry.where}\n")
    settings = [
        (n, h.type, str(h.default), h.domain.source if h.domain else "", h.source, h.meaning)
        for n, h in entry.hyperparameters.items()
    ]
    section(("hyperparameter", "type", "default", "domain", "source", "meaning"), settings)
    tensors = [
        (n, t.per, declared(t), t.init, word(t.trained), ", ".join(s.as_ for s in t.stored), t.served)
        for n, t in entry.tensors.items()
    ]  # fmt: skip
    section(("tensor", "per", "shape", "init", "trained", "stored", "served"), tensors)
    section(("includes", "as"), [(i.method, i.as_) for i in entry.includes])
    relations = [(r.type, r.target, " ".join(r.note.split())) for r in entry.relations]
    section(("relation", "to", "why"), relations)
    return click.echo(f"source: {entry.source}")


def section(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Iterable[str] = ()) -> None:
    """A table with an empty line after it, or nothing at all."""
    if rows:
        out.print_table(columns, rows, right)
        click.echo()


def declared(tensor: Tensor) -> str:
    """The shape or count of a tensor as its entry writes it."""
    if tensor.shape is not None:
        return " x ".join(size.source for size in tensor.shape)
    return tensor.count.source if tensor.count is not None else "its own"


def word(value: Any) -> str:
    """What the optimiser moves of a tensor, in a word or a formula."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(getattr(getattr(value, "across", value), "source", value))


@cli.command()
@json_option
def models(as_json: bool) -> None:
    """List the models of the catalogue."""
    known = knowledge().models.values()
    if as_json:
        return out.print_json([
            {"id": m.id, "name": m.name, "family": m.family.model_type, "parameters": m.parameters,
             "tasks": list(m.tasks), "default_task": m.default_task, "source": m.source}
            for m in known
        ])  # fmt: skip
    rows = [(m.id, m.name, m.family.model_type, out.number(m.parameters), ", ".join(m.tasks)) for m in known]
    return out.print_table(("id", "name", "family", "parameters", "tasks"), rows, right=["parameters"])


@cli.command()
@json_option
def lists(as_json: bool) -> None:
    """List the stored lists: questions with a name, and how many methods answer each."""
    kb = knowledge()
    known = [(name, stored, len(kb.stored_list(name))) for name, stored in kb.taxonomy.lists.items()]
    if as_json:
        return out.print_json([{"id": n, **s.model_dump(exclude_none=True), "methods": k} for n, s, k in known])
    rows = [(n, str(k), s.where + (f"  (on {s.model})" if s.model else ""), s.meaning) for n, s, k in known]
    return out.print_table(("id", "methods", "where", "meaning"), rows, right=["methods"])


@cli.command()
@json_option
def categories(as_json: bool) -> None:
    """List the category tree, with the number of methods below each node."""
    kb = knowledge()
    placed = [m.category for m in kb.values()]
    nodes = [
        (node, sum(f"{category}.".startswith(f"{node.id}.") for category in placed))
        for node in kb.taxonomy.categories.values()
    ]
    if as_json:
        return out.print_json([n.model_dump(exclude={"children"}) | {"methods": k} for n, k in nodes])
    rows = [("  " * n.id.count(".") + n.id, n.name, str(k), n.definition) for n, k in nodes]
    return out.print_table(("id", "name", "methods", "definition"), rows, right=["methods"])


@cli.command()
@click.argument("methods", metavar="[METHOD]...", nargs=-1, shell_complete=completes("methods"))
@json_option
def deviations(methods: tuple[str, ...], as_json: bool) -> None:
    """List where libraries differ from the methods (or from those named), and in what."""
    kb = knowledge()
    wanted = {kb[method].id for method in methods} or set(kb)
    rows = [row for row in kb.deviations if row["method"] in wanted]
    if as_json:
        return out.print_json(rows)
    columns = ("method", "library", "against", "about", "effect", "note")
    return out.print_table(columns, [[row[name] for name in columns] for row in rows])


@cli.command()
@methods_argument
@click.option(
    "--all", "everything", is_flag=True, help="Everything that the entries cite, not only the methods' papers."
)
@json_option
def cite(methods: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Print the BibTeX records to cite for methods."""
    kb = knowledge()
    keys = dict.fromkeys(key for method in methods for key in cited(kb[method], everything))
    found = [kb.references[key] for key in keys]
    if as_json:
        shown = ("key", "citation", "url", "bibtex")
        return out.print_json([{name: getattr(r, name) for name in shown} for r in found])
    return click.echo("\n\n".join(r.bibtex for r in found))


def cited(method: Method, everything: bool) -> Iterator[str]:
    """BibTeX keys that an entry cites: its paper first, then, if asked, all others."""
    yield method.entry.source.partition("#")[0]
    if everything:
        yield from sorted(key for key in method.entry.cited if key in method.kb.references)


# Counting


def method_or_configuration(ctx: click.Context, param: click.Parameter, method: str | None) -> str | None:
    """The method, which only a configuration makes needless (that option is read first)."""
    if method is None and ctx.params["adapter_config"] is None:
        raise click.MissingParameter(ctx=ctx, param=param)
    return method


@cli.command()
@click.argument(
    "method", metavar="METHOD", required=False, shell_complete=completes("methods"), callback=method_or_configuration
)
@click.option(
    "--adapter-config",
    metavar="FILE",
    is_eager=True,
    type=click.Path(exists=True),
    help="peft's adapter_config.json: it says which method, setting and modules; METHOD only where it cannot.",
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
    """The answer for a library's configuration: the method's cost, and what the library reports."""
    if as_json:
        return out.print_json(adapter.to_dict())
    print_cost(adapter.cost, model)
    reported, library = adapter.reported, adapter.library
    click.echo(f"\n{library.name} {library.version}, {adapter.type}, reports")
    out.print_table(
        ("", "numbers", ""),
        [
            ("trained", out.number(reported.trained), ""),
            ("total", out.number(reported.total), ""),
            ("file", out.number(reported.stored), f"{out.bytes_text(reported.stored_bytes)} in {adapter.dtype}"),
            *((extra.name, out.number(extra.trained), "of them") for extra in adapter.extras if extra.trained),
            *((extra.name, out.number(extra.stored), "of the file") for extra in adapter.extras if not extra.trained),
        ],
        right=["numbers"],
    )
    said = [*(f"{key}: {name} = {value}" for key, own in adapter.patterns.items() for name, value in own.items()),
            *(f"note: {note}" for note in adapter.notes),
            *(f"differs in {d.effect}: {' '.join(d.note.split())}" for d in adapter.deviations)]  # fmt: skip
    click.echo("".join(f"\n{line}" for line in said), nl=bool(said))
    return None


def print_cost(found: Cost, model: str) -> None:
    """The ledgers and the tensors that they are sums of."""
    click.echo(f"{found.method} on {found.model or model}, task {found.task}")
    click.echo(with_values(found) or "no hyperparameters")
    targets = found.target_modules or found.targets
    named = targets if isinstance(targets, str) else ", ".join(targets)
    click.echo(f"targets {named}\n" if named else "")
    ledgers = [
        ("trained", out.number(found.trained), f"{found.percent:.4g} % of the backbone"),
        ("stored", out.number(found.stored), stored_note(found)),
        ("shared", out.number(found.shared), "held once for all tasks"),
        ("served", out.number(found.served), "beyond the backbone, at inference"),
        ("head", out.number(found.head), "a new task head, counted apart"),
        ("backbone", out.number(found.backbone), f"{out.bytes_text(found.base_bytes)} as the method holds it"),
    ]
    shown = [row for row in ledgers if row[1] != "0" or row[0] not in ("head", "shared")]
    section(("", "numbers", ""), shown, right=["numbers"])
    rows = [
        (t.name, t.per, " x ".join(map(str, t.shape)) if t.shape else out.number(t.count),
         *map(out.number, (t.sites, t.total, t.trained, t.stored, t.served)), ", ".join(t.roles))
        for t in found.tensors
    ]  # fmt: skip
    columns = ("tensor", "per", "shape", "sites", "total", "trained", "stored", "served", "roles")
    return out.print_table(columns, rows, right=columns[2:8])


def with_values(cost: Cost) -> str:
    return ", ".join(f"{name} = {value}" for name, value in cost.hyperparameters.items())


def stored_note(cost: Cost) -> str:
    bits = f", with {cost.stored_bits:,} bits of masks" if cost.stored_bits else ""
    return f"{out.bytes_text(cost.stored_bytes)} in {cost.dtype}{bits}"


@cli.command()
@methods_argument
@question_options
@json_option
def compare(methods: tuple[str, ...], as_json: bool, **asked: Any) -> None:
    """Count several methods on one model; each takes the settings and targets that it knows."""
    kb = knowledge()
    costs = question(asked).ask_all([kb[m] for m in dict.fromkeys(methods)])
    if as_json:
        return out.print_json([c.to_dict() for c in costs])
    rows = [
        (c.method, out.number(c.trained), f"{c.percent:.4g}", out.number(c.stored),
         out.bytes_text(c.stored_bytes), out.number(c.served), with_values(c))
        for c in costs
    ]  # fmt: skip
    columns = ("method", "trained", "percent", "stored", "checkpoint", "served", "with")
    return out.print_table(columns, rows, right=columns[1:6])


@cli.command()
@method_argument
@click.option("--to", metavar="LIBRARY", default="peft", show_default=True, help="peft or adapters.")
@model_options
@json_option
def export(method: str, to: str, as_json: bool, **asked: Any) -> None:
    """Write a method at a setting as a library's configuration: the call, and the file that it saves."""
    wanted = question(asked)
    settings: Any = once(wanted.settings)
    found = knowledge()[method].export(**wanted.place, to=to, **settings)
    if not as_json:
        click.echo(f"{found.python}\n\n{found.library.file}")
    return out.print_json(found.to_dict())


def step_options(command: F) -> F:
    """The options that make up a `Setting`, apart from batch and length."""
    options = [
        click.option("--dtype", metavar="DTYPE", default="bfloat16", show_default=True,
                     help="bfloat16, float16, float32, or mixed: what is trained in float32."),
        click.option("--optimizer", metavar="NAME", default="adamw", show_default=True,
                     help="adamw, adamw-foreach, adamw-8bit, paged-adamw, paged-adamw-8bit, adafactor or sgd."),
        click.option("--checkpointing", is_flag=True, help="Keep only the layers' inputs and compute them again."),
        click.option("--attention", metavar="KIND", default="sdpa", show_default=True, help="sdpa or eager."),
        click.option("--quantized", metavar="KIND", help="Hold the layers' frozen matrices as nf4 or int8."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


STEP = ("optimizer", "checkpointing", "attention", "quantized")


@cli.command()
@method_argument
@model_options
@click.option("--batch", metavar="N", type=int, required=True, help="Sequences of a step.")
@click.option("--seq", metavar="N", type=int, required=True, help="Tokens of a sequence.")
@step_options
@click.option("--simulate", is_flag=True, help="Run the reference implementation on fake tensors (the torch extra).")
@json_option
def memory(method: str, as_json: bool, simulate: bool, batch: int, seq: int, **asked: Any) -> None:
    """Predict the memory and the operations of a training step."""
    from ._memory import PARTS

    step = {name: asked.pop(name) for name in STEP} | {"batch": batch, "seq": seq}
    asking = question(asked)
    entry = knowledge()[method]
    found = asking.simulate(entry, **step) if simulate else asking.remember(entry, **step).to_dict()
    if as_json:
        return out.print_json(found)
    click.echo(f"{method} on {found['model'] or asked['model']}, task {found['task']}")
    click.echo(", ".join(f"{n} = {v}" for n, v in found["hyperparameters"].items()) or "no hyperparameters")
    how = [f"batch {batch} x {seq}", found["dtype"], found["optimizer"], found["attention"]]
    how += ["checkpointing"] * found["checkpointing"] + ([found["quantized"]] if found.get("quantized") else [])
    click.echo(", ".join(how) + "\n")
    sizes = [(part.replace("_", " "), found[part], "") for part in PARTS]
    sizes.append(("peak", found["peak"], f", in the {found['phase']} phase"))
    if not simulate:
        sizes.append(("gpu extra", found["gpu_extra_estimate"], ", an estimate, not in the peak"))
    if found.get("paged"):
        sizes.append(("paged", found["paged"], ", which may leave the GPU"))
    rows = [(name, out.number(size), out.binary_text(size) + note) for name, size, note in sizes]
    section(("", "bytes", ""), rows, right=["bytes"])
    return click.echo(f"{found['forward_flops']:.4g} operations forward, {found['step_flops']:.4g} a step")


@cli.command()
@click.argument("methods", metavar="[METHOD]...", nargs=-1, shell_complete=completes("methods"))
@model_options
@click.option("--gpu", metavar="SIZE", required=True, help="What the GPU holds: 24GiB, 80GB.")
@click.option("--batch", metavar="N", type=int, default=1, show_default=True, help="Sequences of a step.")
@click.option("--seq", metavar="N", type=int, default=512, show_default=True, help="Tokens of a sequence.")
@click.option("--solve", metavar="NAME", default="batch", show_default=True,
              help="What to solve for: batch, seq, or a hyperparameter that is a whole number.")  # fmt: skip
@step_options
@json_option
def fit(methods: tuple[str, ...], as_json: bool, gpu: str, batch: int, seq: int, solve: str, **asked: Any) -> None:
    """Find the largest batch, length or size whose training step fits a GPU.

    Without methods: all that can be sized on the model. The last column says which single change would help most.
    """
    from ._fit import beside, gpu_bytes

    kb, step = knowledge(), {name: asked.pop(name) for name in STEP}
    size, asking = gpu_bytes(gpu), question(asked)
    found, wanted = [], [kb[method] for method in dict.fromkeys(methods or kb)]
    asking.check_settings(wanted)
    for method in wanted:
        try:
            found.append(asking.fit(method, solve, size, batch=batch, seq=seq, **step))
        except UsageError:
            if methods:
                raise
    if not found:
        raise UsageError("no method can be sized so; name one to see why")
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


# Looking after the data


@cli.command()
@click.argument("files", metavar="[FILE]...", nargs=-1, type=click.Path(exists=True, dir_okay=False))
@json_option
def check(files: tuple[str, ...], as_json: bool) -> int:
    """Check the whole tree, or only what the files named hold; exit code 1 if there is a problem."""
    from . import check as problems_of

    kb = knowledge()
    with out.progress("checking"):
        problems = problems_of(kb, files)
    if as_json:
        out.print_json([dataclasses.asdict(p) for p in problems])
    else:
        for problem in problems:
            click.echo(str(problem))
        where = f" in {count(len({p.file for p in problems}), 'file')}" if problems else ""
        everything = f"{count(len(kb), 'method')}, {count(len(kb.models), 'model')}"
        looked_at = count(len(files), "file") if files else everything
        click.echo(f"{looked_at}: {count(len(problems), 'problem')}{where}")
    return int(bool(problems))


def count(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


@cli.command()
@click.argument("id", metavar="ID")
@click.option("--category", metavar="C", shell_complete=completes("categories"), help="Where it stands in the tree.")
@click.option("--year", metavar="YEAR", type=click.IntRange(1990, 2100), help="Year of its first paper.")
@click.option("--source", metavar="KEY", help="BibTeX key of its paper; a stub is added unless it exists.")
def new(id: str, category: str | None, year: int | None, source: str | None) -> None:  # noqa: A002
    """Write the skeleton of an entry, of its module and of its BibTeX record."""
    from ._scaffold import scaffold

    kb = knowledge()
    files = scaffold(kb, id, category=category, year=year, source=source)
    out.write_atomically(files)
    click.echo("\n".join(f"wrote {kb.shown(path)}" for path in files))
    click.echo(f"next: until they pass, peftonomy check methods/{id}.yaml and peftonomy verify {id}")


@cli.command()
@click.argument("methods", metavar="[METHOD]...", nargs=-1, shell_complete=completes("methods"))
@click.option(
    "--implementation", metavar="MODULE:FUNCTION", help="Verify this implementation of one method, not the one here."
)
@click.option("--family", "families", metavar="F", multiple=True, help="Only on this small model; repeatable.")
@click.option(
    "--junit", metavar="FILE", help="Write a JUnit XML report there.", type=click.Path(dir_okay=False, path_type=Path)
)
@json_option
def verify(
    methods: tuple[str, ...], implementation: str | None, families: tuple[str, ...], junit: Path | None, as_json: bool
) -> int:
    """Verify implementations against entries and golden vectors (needs the torch extra); exit code 1 on a problem."""
    from importlib.util import find_spec

    kb = knowledge()
    wanted = [kb[method].id for method in methods] or list(kb)
    if implementation is not None and len(methods) != 1:
        raise UsageError("--implementation verifies one method: name it")
    if missing := [name for name in ("torch", "transformers") if find_spec(name) is None]:
        raise UsageError(f"verify needs {' and '.join(missing)}: pip install 'peftonomy[torch]'")
    with out.progress("loading torch"):
        from .conformance import suite, tiny
    if kb.root != suite.KB.root:
        raise UsageError(f"verify runs the entries in {suite.KB.root}, not those of --root")
    if unknown := [name for name in families if name not in tiny.CONFIGS]:
        raise UnknownName("small model", unknown[0], tiny.CONFIGS)
    sys.path.insert(0, "")          # as `python -m` does, so that a module in the working directory is found
    module = None if implementation is None else suite.implementation(implementation)
    results: list[suite.Result] = []
    for method in wanted:
        with out.progress(f"verifying {method}"):
            found = list(suite.run(suite.cases(method, module, families or None)))
        results += found
        if not as_json:
            _verified(method, found)
    if junit is not None:
        out.write_atomically({junit: suite.junit(results)})
    if as_json:
        out.print_json([result.to_dict() for result in results])
    return int(not all(result.passed for result in results))


def _verified(method: str, results: Sequence[Any]) -> None:
    """Print the problems of one method, each once with the cases that it was found in, and a line that sums up."""
    found: dict[tuple[str, str], list[str]] = {}
    for result in results:
        for problem in result.problems:
            found.setdefault((result.case.what, problem), []).append(result.case.where)
    for (what, problem), where in found.items():
        more = f" and {count(len(where) - 1, 'case')} more" if len(where) > 1 else ""
        click.echo(f"{method}: {what}: {problem} ({where[0]}){more}")
    failed = sum(not result.passed for result in results)
    seconds = sum(result.seconds for result in results)
    click.echo(f"{method}: {len(results) - failed} of {count(len(results), 'check')} passed in {seconds:.1f} s")


@cli.command()
@click.option(
    "--format", "form", required=True, help="How to write it.", type=click.Choice(["json", "graphml", "dot", "mermaid"])
)
@click.option(
    "--output",
    "-o",
    metavar="FILE",
    help="Write there, not to stdout.",
    type=click.Path(dir_okay=False, path_type=Path),
)
def graph(form: str, output: Path | None) -> None:
    """Write the graph of categories, methods and papers."""
    text = knowledge().graph.export(form)
    if output is None:
        return click.echo(text)
    return out.write_atomically({output: text + "\n"})


# The site, and the shell


@cli.group()
def site() -> None:
    """Build the site, browse a built one, or write its pages."""


SITE = Path("build/site")
PAGES = Path("build/pages")


def folder_option(default: Path) -> Callable[[F], F]:
    """The option that says where pages go."""
    kind = click.Path(file_okay=False, path_type=Path)
    return click.option(
        "--out", "folder", metavar="DIR", default=default, show_default=True, type=kind, help="Where the pages go."
    )


@site.command()
@folder_option(SITE)
def build(folder: Path) -> None:
    """Build the static site.

    The environment can name where it is published (PEFTONOMY_SITE_URL), for canonical links and a sitemap, and its
    repository (PEFTONOMY_REPOSITORY), for links that edit a page.
    """
    from . import site

    with out.progress("building the site"):
        site.build(knowledge(), folder)
    click.echo(f"{sum(1 for path in folder.rglob('*') if path.is_file()):,} files in {folder}")


@site.command(name="pages")
@folder_option(PAGES)
@click.option("--repository", metavar="URL", default="", help="The address before /edit/main/FILE in edit links.")
def write_pages(folder: Path, repository: str) -> None:
    """Write the site's pages to a folder, for a builder other than mkdocs.

    Markdown, JSON, scripts, styles and fonts, just as `site build` hands them over.
    """
    from . import site

    with out.progress("writing the pages"):
        written = site.write(knowledge(), folder, repository=repository)
    click.echo(f"{len(written):,} files in {folder}")


@site.command()
@click.option(
    "--dir",
    "folder",
    metavar="DIR",
    default=SITE,
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="What `site build` wrote.",
)
@click.option(
    "--port", metavar="PORT", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one."
)
def serve(folder: Path, port: int) -> None:
    """Serve the site on 127.0.0.1 until Ctrl-C, building it first if it is not there."""
    from . import site

    site.serve(knowledge(), folder, port=port, ready=lambda url: click.echo(f"{folder} is on {url} until Ctrl-C"))


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a shell's completion script.

    \b
    bash: peftonomy completion bash > ~/.local/share/bash-completion/completions/peftonomy
    zsh:  peftonomy completion zsh > somewhere/in/$fpath/_peftonomy
    fish: peftonomy completion fish > ~/.config/fish/completions/peftonomy.fish
    """
    from click.shell_completion import get_completion_class

    script = get_completion_class(shell)
    assert script is not None
    click.echo(script(cli, {}, "peftonomy", "_PEFTONOMY_COMPLETE").source())


if __name__ == "__main__":
    sys.exit(main())
