"""`peftonomy mcp`: the tools are the commands, with their answers and their messages."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from peftonomy import KnowledgeBase
from peftonomy.cli import assistant

from .cli_kit import Run

LORA = {"method": "lora", "model": "llama_2_7b", "set": {"r": 8}, "targets": ["attn.q", "attn.v"]}
SAVED = {"peft_type": "LORA", "r": 4, "target_modules": ["c_attn"]}
STEP = "--batch 1 --seq 64 --checkpointing --set r=4 --set alpha=2.5 --set lora_bias=true"
ANSWERS: dict[str, tuple[str, dict[str, Any]]] = {
    "cost lora --model llama_2_7b --set r=8 --targets attn.q,attn.v": ("cost", LORA),
    "cost --adapter-config lora[r=16] --model gpt2": ("cost", {"adapter_config": "lora[r=16]", "model": "gpt2"}),
    f"memory lora --model gpt2 {STEP}": (
        "memory",
        {"method": "lora", "model": "gpt2", "batch": 1, "seq": 64.0, "checkpointing": True, "simulate": False,
         "task": None, "set": {"r": 4, "alpha": 2.5, "lora_bias": True}},
    ),
    "fit lora --model gpt2 --gpu 8GiB": ("fit", {"methods": ["lora"], "model": "gpt2", "gpu": "8GiB"}),
    "methods --where year~>~2022 --category additive": ("methods", {"where": "year > 2022", "category": "additive"}),
    "show ia3": ("show", {"method": "ia3"}),
    "models": ("models", {}),
    "choose lora ia3 --model gpt2 --gpu 8GiB -n 1 --need mergeable": (
        "choose", {"methods": ["lora", "ia3"], "model": "gpt2", "gpu": "8GiB", "n": 1, "need": ["mergeable"]},
    ),
    "nearest --aspect acts_on=weight,bias -n 2": ("nearest", {"aspect": {"acts_on": ["weight", "bias"]}, "n": 2}),
    "choose lora --model llama_3_1_8b --gpu 8GiB --gpus 4 --shard fsdp": (
        "choose", {"methods": ["lora"], "model": "llama_3_1_8b", "gpu": "8GiB", "gpus": 4, "shard": "fsdp"},
    ),
    "serving lora --model llama_3_1_8b --engine vllm --max-loras 2 --tp 2 --fully-sharded": (
        "serving",
        {"method": "lora", "model": "llama_3_1_8b", "engine": "vllm", "max_loras": 2, "tp": 2, "fully_sharded": True},
    ),
    "deepspeed lora --model gpt2 --gpus 8 --stage 3": (
        "deepspeed", {"method": "lora", "model": "gpt2", "gpus": 8, "stage": 3},
    ),
    "support dora --in hf_peft": ("support", {"methods": ["dora"], "in": "hf_peft"}),
    "combine lora": ("combine", {"methods": ["lora"]}),
    "evidence lora --study hf_peft_image_gen": ("evidence", {"methods": ["lora"], "study": "hf_peft_image_gen"}),
    "compare lora ia3 --model gpt2 --target-modules all-linear": (
        "compare", {"methods": ["lora", "ia3"], "model": "gpt2", "target_modules": ["all-linear"]},
    ),
}  # fmt: skip
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "cost lroa --model gpt2": ("cost", {"method": "lroa", "model": "gpt2"}),
    "cost -- -x": ("cost", {"method": "-x"}),
    "cost": ("cost", {}),
    "cost lora --model gpt2 --set rr=8": ("cost", {"method": "lora", "model": "gpt2", "set": {"rr": 8}}),
    "memory lora --model gpt2 --batch two --seq 8": (
        "memory", {"method": "lora", "model": "gpt2", "batch": "two", "seq": 8},
    ),
    "fit lora --model gpt2 --gpu big": ("fit", {"methods": ["lora"], "model": "gpt2", "gpu": "big"}),
    "serving lora --model llama_3_1_8b --engine vlm": (
        "serving", {"method": "lora", "model": "llama_3_1_8b", "engine": "vlm"},
    ),
    "merge-check nowhere --model gpt2 --to nf4": ("merge-check", {"adapter": "nowhere", "model": "gpt2", "to": "nf4"}),
    "deepspeed lora --model gpt2 --gpus 8 --stage 1": (
        "deepspeed", {"method": "lora", "model": "gpt2", "gpus": 8, "stage": 1},
    ),
    "methods --where yaer>2020": ("methods", {"where": "yaer>2020"}),
}  # fmt: skip
NO_COMMAND: list[tuple[str, dict[str, Any], str]] = [
    ("csot", LORA, "unknown tool 'csot'; did you mean cost?"),
    ("cost", {"modle": "gpt2"}, "unknown argument 'modle'; did you mean model?"),
    ("cost", LORA | {"set": ["r"]}, "set: found a list of 1; expected an object of names and values"),
    ("cost", LORA | {"set": {"r": {}}}, "set.r: found a mapping of 0; expected text, a number, true or false"),
    ("cost", LORA | {"targets": [None]}, "targets: found null; expected text, a number, true or false"),
    ("memory", {"checkpointing": "yes"}, "checkpointing: found 'yes'; expected true or false"),
    ("cost", {"adapter_config": {"peft_type": "LORRA"}, "model": "gpt2"}, "adapter_config.json: peft_type: found"),
]


@pytest.mark.parametrize("line", ANSWERS)
def test_a_tool_answers_as_its_command(line: str, kb: KnowledgeBase, run: Run) -> None:
    name, given = ANSWERS[line]
    typed = {key: value for key, value in given.items() if value is not None}
    jsonschema.validate(typed, assistant.schema(assistant.tools()[name]))
    assert assistant.answer(kb, name, given) == json.loads(run(f"{line} --json").out)


@pytest.mark.parametrize("line", REFUSED)
def test_a_tool_refuses_as_its_command(line: str, kb: KnowledgeBase, run: Run) -> None:
    with pytest.raises(assistant.Refused) as refused:
        assistant.answer(kb, *REFUSED[line])
    assert f"error: {refused.value}\n" == run(line).err


@pytest.mark.parametrize(("name", "given", "says"), NO_COMMAND)
def test_what_no_command_line_can_say(name: str, given: dict[str, Any], says: str, kb: KnowledgeBase) -> None:
    with pytest.raises(assistant.Refused) as refused:
        assistant.answer(kb, name, given)
    assert str(refused.value).startswith(says)
    assert "\n" not in str(refused.value)


def test_schemas_are_those_of_the_commands() -> None:
    for name, command in assistant.tools().items():
        found = assistant.schema(command)
        jsonschema.Draft202012Validator.check_schema(found)
        assert all(prop["description"] for prop in found["properties"].values()), name
    memory = assistant.schema(assistant.tools()["memory"])
    assert memory["required"] == ["method", "model", "batch"]
    assert memory["properties"]["optimizer"]["default"] == "adamw"
    assert not {"new", "verify", "site", "mcp"} & assistant.tools().keys()


@pytest.mark.slow
def test_a_session_over_stdio(root: Path, kb: KnowledgeBase) -> None:
    """A client of the SDK starts the server as an assistant does."""
    anyio, mcp = pytest.importorskip("anyio"), pytest.importorskip("mcp")
    from mcp.client.stdio import StdioServerParameters

    started = StdioServerParameters(
        command=sys.executable, args=["-m", "peftonomy", "mcp"], cwd=root, env={"PYTHONPATH": os.fspath(root)}
    )

    async def session() -> None:
        async with mcp.Client(started) as client:
            offered = (await client.list_tools()).tools
            assert {tool.name: tool.input_schema for tool in offered} == {
                name: assistant.schema(command) for name, command in assistant.tools().items()
            }
            counted = await client.call_tool("cost", LORA)
            assert not counted.is_error
            assert json.loads(counted.content[0].text)["trained"] == 4_194_304
            read = await client.call_tool("cost", {"adapter_config": SAVED, "model": "gpt2"})
            expected = kb.adapter(SAVED, "gpt2").to_dict()
            assert json.loads(read.content[0].text) == json.loads(json.dumps(expected))
            refused = await client.call_tool("cost", LORA | {"method": "lroa"})
            assert refused.is_error
            assert refused.content[0].text.startswith("unknown method 'lroa'; did you mean ")
            assert client.instructions == assistant.ABOUT

    anyio.run(session)


def test_ctrl_c_ends_it_on_a_terminal(root: Path) -> None:
    pytest.importorskip("mcp")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "peftonomy", "mcp"]
    started = subprocess.Popen(command, cwd=root, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert started.stderr is not None
    assert started.stderr.readline() == b"waiting for an assistant on stdin; Ctrl-C ends\n"
    started.send_signal(signal.SIGINT)
    assert started.communicate(timeout=60) == (b"", b"")
    assert started.returncode == 130
    os.close(ours)
    os.close(theirs)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_an_answer_that_cannot_be_written_ends_it_in_one_line(root: Path) -> None:
    pytest.importorskip("mcp")
    client = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
    opening = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": client}) + "\n"
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-m", "peftonomy", "mcp"], input=opening, stdout=full, stderr=subprocess.PIPE, text=True,
            cwd=root, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "error: standard output: No space left on device\n")


def test_a_closed_stdin_ends_it(root: Path) -> None:
    pytest.importorskip("mcp")
    line = f"exec {sys.executable} -m peftonomy mcp <&-"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=root, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_without_the_extra_one_line_says_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    assert run("mcp") == (2, "", "error: mcp needs its extra: pip install 'peftonomy[mcp]' (no module mcp)\n")
