"""The command `mcp`, with which an assistant calls the commands that answer questions.

Each of these commands is a tool of the Model Context Protocol. The schema of a tool's arguments comes from the options
of its command, and a call runs the command. So an assistant gets the answers and the messages of the command line.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError, chosen, described, escaped
from . import INTERRUPTED, browse, counting, deploy, training
from .options import Assignment, Whole, Words, cli, knowledge
from .running import main

if TYPE_CHECKING:
    from ..knowledge.base import KnowledgeBase

__all__ = ["Refused", "answer", "schema", "tools"]

GROUPS = (browse, counting, training, deploy)
"""The modules whose commands are tools. They neither write files nor run code of an entry's author."""
FILE = "adapter_config.json"
ABOUT = """peftonomy counts what parameter-efficient fine-tuning methods cost on a model: parameters that are trained, \
stored and served, bytes of a training step on one GPU or several, the largest size that fits, and bytes of a serving \
engine. The numbers are exact and derived \
from checked declarations: quote them instead of estimating. `methods` and `models` list the names."""
ARGUMENTS = {
    "method": "The id of a method, as `methods` lists it.",
    "methods": "Ids of methods, as `methods` lists them.",
    "adapter": "The path of a folder that peft has saved, or of its adapter_model.safetensors.",
}
"""Descriptions of arguments; those of options are their help."""


class Refused(Exception):  # noqa: N818 (it is an answer, not a failure of the server)
    """The message of the command line about a call that it refuses."""


@cli.command(name="mcp")
def serve() -> None:
    """Serve these commands to an assistant, over the Model Context Protocol on stdin and stdout. Needs the mcp extra.

    The assistant starts this command itself: register `peftonomy mcp` as a server of type stdio.
    """
    try:
        import anyio
        from mcp import types
        from mcp.server.lowlevel import Server
        from mcp.server.stdio import stdio_server
    except ModuleNotFoundError as error:
        raise UsageError(f"mcp needs its extra: pip install 'peftonomy[mcp]' (no module {error.name})") from None
    from .. import __version__

    # The thread that reads stdin would keep the process alive after Ctrl-C until a line comes.
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    if sys.stdin.isatty():
        click.echo("waiting for an assistant on stdin; Ctrl-C ends", err=True)
    kb, known = knowledge(), tools()
    hints = types.ToolAnnotations(read_only_hint=True, open_world_hint=False)

    async def listed(*_: Any) -> Any:
        described = [
            types.Tool(name=name, description=command.help, input_schema=schema(command), annotations=hints)
            for name, command in known.items()
        ]
        return types.ListToolsResult(tools=described)

    async def called(_: Any, call: Any) -> Any:
        try:
            found, failed = json.dumps(answer(kb, call.name, call.arguments or {}), ensure_ascii=False), False
        except Refused as refused:
            found, failed = str(refused), True
        return types.CallToolResult(content=[types.TextContent(type="text", text=found)], is_error=failed)

    async def run() -> None:
        server: Any = Server(
            "peftonomy", version=__version__, instructions=ABOUT, on_list_tools=listed, on_call_tool=called
        )
        async with stdio_server() as (incoming, outgoing):
            await server.run(incoming, outgoing, server.create_initialization_options())

    try:
        anyio.run(run)
    except BaseExceptionGroup as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None


def tools() -> dict[str, click.Command]:
    """Return the commands that answer questions in JSON, by name."""
    homes = {group.__name__ for group in GROUPS}
    return {
        name: command
        for name, command in cli.commands.items()
        if getattr(command.callback, "__module__", "") in homes and any(p.name == "as_json" for p in command.params)
    }


def answer(kb: KnowledgeBase, name: str, given: Mapping[str, Any]) -> Any:
    """Run a command and return the JSON that it prints. Raises Refused."""
    printed, said = io.StringIO(), io.StringIO()
    with tempfile.TemporaryDirectory() as folder:
        try:
            words = [name, *_words(chosen("tool", name, tools()), given, Path(folder))]
        except UsageError as error:
            raise Refused(str(error)) from None
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
            code = main(words, kb)
    if code:
        raise Refused(said.getvalue().strip().removeprefix("error: ").replace(f"{folder}/", ""))
    return json.loads(printed.getvalue())


def _parameters(command: click.Command) -> dict[str, click.Parameter]:
    """Return the parameters that a caller may give, by name: an argument's own, an option's without the dashes."""
    return {
        _flag(param).lstrip("-").replace("-", "_"): param for param in command.params if param.name != "as_json"
    }


def _flag(param: click.Parameter) -> str:
    return max(param.opts, key=len)


def schema(command: click.Command) -> dict[str, Any]:
    """Return the JSON Schema of a command's parameters."""
    params = _parameters(command)
    return {
        "type": "object",
        "properties": {name: _property(name, param) for name, param in params.items()},
        "required": [name for name, param in params.items() if param.required],
        "additionalProperties": False,
    }


def _property(name: str, param: click.Parameter) -> dict[str, Any]:
    """Return the JSON Schema of one parameter."""
    found = _type(param)
    about = ARGUMENTS.get(name, "") if isinstance(param, click.Argument) else getattr(param, "help", "")
    if found["type"] == "object":
        about = f"{about.removesuffix('; repeatable.').rstrip('.')}: an object of names and values."
    found.setdefault("description", about)
    default = param.to_info_dict().get("default")
    if isinstance(default, str | int) and not isinstance(default, bool):
        found["default"] = default
    return found


def _type(param: click.Parameter) -> dict[str, Any]:
    text = {"type": "string"}
    if isinstance(param.type, Assignment):
        return {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean", "array"]}}
    if isinstance(param.type, Words) or param.nargs == -1 or getattr(param, "multiple", False):
        return {"type": "array", "items": text} | ({"minItems": 1} if param.required else {})
    if getattr(param, "is_flag", False):
        return {"type": "boolean"}
    if isinstance(param.type, counting.SavedOrShort):
        about = "The content of a saved adapter_config.json, its path, or a short name such as lora[r=16]."
        return {"type": ["object", "string"], "description": f"{about} It names the method."}
    if isinstance(param.type, Whole):
        return {"type": "integer"}
    return text


def _words(command: click.Command, given: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """Yield the words of the command line that a call stands for. Raises UsageError for a value of another type."""
    known = _parameters(command)
    yield "--json"
    rest = []
    for name, value in given.items():
        param = chosen("argument", name, known)
        if value is None:
            continue
        flag = _flag(param)
        flag += "=" * flag.startswith("--")     # a short option has its value right behind it
        if isinstance(param.type, Assignment):
            if not isinstance(value, Mapping):
                raise UsageError(f"{name}: found {described(value)}; expected an object of names and values")
            for key, of in value.items():
                yield f"{flag}{key}={','.join(_text(f'{name}.{key}', one) for one in _listed(of))}"
        elif isinstance(param.type, counting.SavedOrShort) and isinstance(value, Mapping):
            path = folder / FILE
            path.write_text(json.dumps(value), encoding="utf-8")
            yield f"{flag}{path}"
        elif isinstance(param.type, Words) or param.nargs == -1 or getattr(param, "multiple", False):
            each = [_text(name, one) for one in _listed(value)]
            if isinstance(param, click.Argument):
                rest += each
            elif isinstance(param.type, Words):
                yield from [f"{flag}{','.join(each)}"] * bool(each)
            else:
                yield from (f"{flag}{one}" for one in each)
        elif getattr(param, "is_flag", False):
            if not isinstance(value, bool):
                raise UsageError(f"{name}: found {described(value)}; expected true or false")
            yield from [_flag(param)] * value
        elif isinstance(param, click.Argument):
            rest.append(_text(name, value))
        else:
            yield f"{flag}{_text(name, value)}"
    yield from ("--", *rest)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _text(name: str, value: Any) -> str:
    """Return a value as it is written on the command line. Raises UsageError for a list or an object."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, int | float):
        return str(value)
    raise UsageError(f"{escaped(name)}: found {described(value)}; expected text, a number, true or false")
