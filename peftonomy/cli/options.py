"""Shared parts of the commands: the group, the options of a query, and the knowledge base.

Heavy imports (rich, networkx, the site, torch) wait until a command needs them, so that a cost query starts in a
fraction of the time that importing torch takes.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from ..errors import PeftonomyError, UnknownName, UsageError, shown, whole
from ..files import output as out
from ..knowledge.compare import check_settings, compared, hyperparameter_names, own_settings
from ..schema.names import TASKS

if TYPE_CHECKING:
    from ..costs.cost import Cost
    from ..knowledge.base import KnowledgeBase, Method
    from ..libraries.adapter import Adapter
    from ..memory.combining import Combination
    from ..memory.deepspeed import DeepSpeed
    from ..memory.fit import Fit
    from ..memory.setting import Memory
    from ..memory.sharding import Sharding

F = TypeVar("F", bound=Callable[..., Any])


class FilePath(click.Path):
    """The path of a file or a folder. A text that no file system takes is refused like a file that is missing."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            os.fsencode(value)
            return super().convert(value, param, ctx)
        except ValueError:  # half a character, or a null character
            self.fail(f"{shown(value)!r} is no path.", param, ctx)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="peftonomy", message="%(prog)s %(version)s")
@click.option(
    "--root", metavar="PATH", envvar="PEFTONOMY_ROOT", type=FilePath(exists=True, file_okay=False),
    help="Use the data of another knowledge base (or PEFTONOMY_ROOT). Its code does not run.",
)  # fmt: skip
def cli(root: str | None) -> None:
    """A knowledge base of parameter-efficient fine-tuning methods that is checked by running it."""


class Words(click.ParamType[tuple[str, ...]]):
    """Words separated by commas."""

    name = "words"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        words = tuple(w.strip() for w in value.split(",")) if isinstance(value, str) else tuple(value)
        if not all(words):
            self.fail(f"{shown(value)!r} has an empty word.", param, ctx)
        return words


class Whole(click.ParamType[int]):
    """A whole number in ASCII digits, in a range if one is given."""

    name = "integer"

    def __init__(self, low: int | None = None, high: int | None = None):
        self.range = None if low is None else click.IntRange(low, high)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = whole(value) if isinstance(value, str) else int(value)
        except ValueError:
            self.fail(f"{shown(value)!r} is not a whole number.", param, ctx)
        return number if self.range is None else self.range.convert(number, param, ctx)


class Assignment(click.ParamType[tuple[str, str]]):
    """`name=value`, or `method.name=value` for one of several methods."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        name, equals, text = (part.strip() for part in str(value).partition("="))
        if not (name and equals and text):
            self.fail(f"{shown(value)!r} is not of the form name=value.", param, ctx)
        return name, text


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """A model, targets, task and settings: all inputs of a cost except the method."""

    model: str
    settings: tuple[tuple[str, str], ...]
    targets: tuple[str, ...] | None
    target_modules: tuple[str, ...] | None
    task: str | None
    num_labels: int
    dtype: str = "float32"

    @property
    def place(self) -> dict[str, Any]:
        """The arguments of `Method.on`."""
        modules: Any = self.target_modules
        return {
            "model": self.model,
            "targets": self.targets,
            "target_modules": modules[0] if modules == ("all-linear",) else modules,
            "task": self.task,
            "num_labels": self.num_labels,
        }

    def ask(self, method: Method) -> Cost:
        """Return the cost of `method`. Raises PeftonomyError."""
        return method.plan(**self.place).cost(once(self.settings), self.dtype)

    def read(self, file: str, method: str | None) -> Adapter:
        """Read the configuration in a file for this model. Raises PeftonomyError."""
        said = {"--set": self.settings, "--targets": self.targets, "--target-modules": self.target_modules}
        for option, given in said.items():
            if given:
                raise UsageError(f"{option} and --adapter-config exclude each other; give one of them")
        return knowledge().adapter(
            file, self.model, method=method, task=self.task, num_labels=self.num_labels, dtype=self.dtype
        )

    def remember(self, method: Method, sharding: Sharding | None, **step: Any) -> Memory:
        """Predict the memory of a training step. Raises PeftonomyError."""
        from ..memory.setting import Setting

        setting = Setting(dtype=self.dtype, **step)
        return method.on(**self.place).training.shared(sharding).memory(once(self.settings), setting)

    def combine(self, method: Method) -> Combination:
        """Count a combination. Raises PeftonomyError."""
        given: dict[str, Any] = {**once(self.settings)}
        return method.on(**self.place).combination(dtype=self.dtype, **given)

    def deepspeed(self, method: Method, **step: Any) -> DeepSpeed:
        """Return the model states of DeepSpeed. Raises PeftonomyError."""
        given: dict[str, Any] = {**once(self.settings)}
        return method.on(**self.place).deepspeed(**step, **given)

    def simulate(
        self, method: Method, sharding: Sharding | None, *, quantized: str | None, **step: Any
    ) -> dict[str, Any]:
        """Simulate a training step on fake tensors and return plain data. Raises PeftonomyError."""
        from ..implementations.located import module

        if sharding is not None:
            if sharding.shard != "fsdp":
                raise UsageError(f"--simulate runs no shard {sharding.shard}; expected fsdp")
            step |= {
                "gpus": sharding.gpus, "reshard_after_forward": sharding.reshards,
                "reduce_dtype": sharding.reduce_dtype,
            }  # fmt: skip
        try:
            simulate = module("_simulate" if sharding is None else "_shard").simulate
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
        except (RuntimeError, TypeError, ValueError) as error:  # from torch or the reference implementation
            why = str(error).partition("\n")[0]
            raise UsageError(f"--simulate failed for {method.id} on {self.model}: {why}") from error
        record: dict[str, Any] = found.to_dict()
        return record

    def fit(self, method: Method, solve: str, gpu: int, sharding: Sharding | None, **step: Any) -> Fit:
        """Find the largest size that fits into `gpu` bytes.

        The method takes the settings that it has. Raises PeftonomyError.
        """
        from ..memory.fit import begun, largest

        known = own_settings(method, once(self.settings))
        place = self.place if method.entry.targets else self.place | {"targets": None, "target_modules": None}
        training = method.on(**place).training.shared(sharding)
        return largest(training, known, begun(solve, dtype=self.dtype, **step), solve, gpu)

    def ask_all(self, methods: Sequence[Method]) -> list[Cost]:
        """Count each method; a setting applies to every method that has it. Raises PeftonomyError."""
        return compared(methods, self.place, once(self.settings), self.dtype)

    def check_settings(self, methods: Sequence[Method]) -> None:
        """Raise UnknownName for a setting that none of the methods has."""
        check_settings(methods, once(self.settings))


def once(settings: Iterable[tuple[str, str]], option: str = "--set") -> dict[str, str]:
    """Return the settings of an option by name. Raises UsageError for a name given twice."""
    found: dict[str, str] = {}
    for name, text in settings:
        if name in found:
            raise UsageError(f"{option} {name} is given twice")
        found[name] = text
    return found


def knowledge() -> KnowledgeBase:
    """Return the knowledge base of the caller, or load the one that `--root`, the environment or the package names."""
    from ..knowledge.base import load

    root = click.get_current_context().find_root()
    found: KnowledgeBase = root.obj or load(root.params["root"])
    return found


def completes(kind: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Complete the ids of one of the knowledge base's mappings."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from ..knowledge.base import load

        try:
            kb = load(ctx.find_root().params.get("root"))
            known = kb.taxonomy.categories if kind == "categories" else getattr(kb, kind)
        except PeftonomyError:
            return []
        return [CompletionItem(key) for key in sorted(known) if key.startswith(incomplete)]

    return complete


def json_option(command: F) -> F:
    """Add the option `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def model_options(command: F) -> F:
    """Add the options that name a model, the settings and the targets."""
    options = [
        click.option("--model", metavar="MODEL", required=True, shell_complete=completes("models"),
                     help="An id of the catalogue, a name on the Hugging Face Hub, or the path of a config.json."),
        click.option("--set", "settings", metavar="NAME=VALUE", type=Assignment(), multiple=True,
                     help="A hyperparameter; repeatable."),
        click.option("--targets", metavar="ROLES", type=Words(),
                     help="Target modules by role, as papers name them: attn.q,attn.v"),
        click.option("--target-modules", metavar="NAMES", type=Words(),
                     help="Target modules by name, as in peft: q_proj,v_proj, or all-linear."),
        click.option("--task", metavar="TASK",
                     help=f"{', '.join(TASKS)}. Default: the task that the model was trained for."),
        click.option("--num-labels", metavar="N", type=Whole(), default=2, show_default=True,
                     help="Number of labels of a classification head."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def question_options(command: F) -> F:
    """Add the options of a `Question`."""
    option = click.option(
        "--dtype", metavar="DTYPE", default="float32", show_default=True, help="Data type of the stored values."
    )
    return model_options(option(command))


def question(given: dict[str, Any]) -> Question:
    """Return the options of a command as a question. Raises UsageError for targets that are named twice."""
    if given["targets"] and given["target_modules"]:
        raise UsageError("--targets and --target-modules exclude each other; give one of them")
    return Question(**given)


method_argument = click.argument("method", metavar="METHOD", shell_complete=completes("methods"))
methods_argument = click.argument(
    "methods", metavar="METHOD...", nargs=-1, required=True, shell_complete=completes("methods")
)


def section(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Iterable[str] = ()) -> None:
    """Print a table and an empty line; print nothing if there are no rows."""
    if rows:
        out.print_table(columns, rows, right)
        click.echo()


def count(n: int, what: str) -> str:
    """Return a number with its noun, in the plural where it needs that."""
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"
