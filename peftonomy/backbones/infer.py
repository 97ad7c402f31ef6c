"""Infer the family of a `model_type` that no file describes from the model that `transformers` builds.

The model is built for each task on the meta device, which has shapes and no values. Parameters and module names are
therefore exact. Roles are inferred from names and positions: attention and feed-forward blocks whose linear layers have
a name known here, or identifying widths. A module without a match has the role `other`. A fused module has no slices,
since its name does not give their order. Only the code of `transformers` runs, never code that comes with a model.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from ..errors import ConfigError
from ..schema.family import Family
from ..schema.names import LABELLED
from .modules import joined

__all__ = ["family"]

FIXED_LABELS = 2
"""The number of labels of a class that takes no other."""
LABELS = 7919
"""A number of labels that equals no other size of a model. It identifies the label dimension in a head's shape."""
CLASSES = {
    "none": ["AutoModel"],
    "causal_lm": [
        "AutoModelForSeq2SeqLM", "AutoModelForSpeechSeq2Seq", "AutoModelForImageTextToText", "AutoModelForCausalLM",
    ],
    "seq_cls": ["AutoModelForSequenceClassification"],
    "masked_lm": ["AutoModelForMaskedLM"],
    "token_cls": ["AutoModelForTokenClassification"],
    "question_ans": ["AutoModelForQuestionAnswering"],
    "multiple_choice": ["AutoModelForMultipleChoice"],
    "image_cls": ["AutoModelForImageClassification"],
    "audio_cls": ["AutoModelForAudioClassification"],
}  # fmt: skip
"""The classes that build a task's model; the first that supports the config is used."""
MADE_NEW = {*LABELLED, "multiple_choice"}
"""The tasks whose heads are created untrained."""
LAST = {"question_ans": ("head.qa", FIXED_LABELS), "multiple_choice": ("head.cls", 1)}
"""A task -> the role of its head's last linear layer, and that layer's width if it does not depend on the labels."""
LIKE = {"image_cls": "seq_cls", "audio_cls": "seq_cls"}
"""A task -> the earlier name that works too if the model has no task of that name."""
MOST_LAYERS = 10_000
MOST_MODULES = 30_000
"""The largest number of modules in the models of one config together, whatever its sizes are called."""
LAYERS = ("layer", "depth", "num_block", "repeat")
"""Parts of the names of numbers of layers in configs."""
MOST_RUNS = 20
"""The number of runs of consecutive layers in one formula. Modules with more runs are split into several."""

# The parts of attention and of the feed-forward block by the last word of a module's name.
ATTENTION = {
    "q": "q q_proj q_lin wq query query_proj q_attn to_q query_layer linear_q q_linear q_b_proj",
    "k": "k k_proj k_lin wk key key_proj to_k key_layer linear_k k_linear",
    "v": "v v_proj v_lin wv value value_proj to_v value_layer linear_v v_linear",
    "qkv": "qkv qkv_proj wqkv c_attn query_key_value in_proj",
    "o": "o o_proj out_proj out_lin wo c_proj dense proj projection out to_out linear_out",
    "kv": "kv kv_proj kv_b_proj",
    "q_down": "q_a_proj",
    "kv_down": "kv_a_proj_with_mqa",
    "pos_q": "pos_q_proj pos_query_proj",
    "pos_k": "pos_proj pos_key_proj",
}
FEED_FORWARD = {
    "gate": "gate_proj wi_0",
    "up": "up_proj wi wi_1 c_fc fc1 lin1 linear1 fc_in ffn up dense_h_to_4h intermediate.dense",
    "gate_up": "gate_up_proj",
    "down": "down_proj wo c_proj fc2 lin2 linear2 fc_out ffn_output down dense_4h_to_h output.dense",
}
QUERIES = ("q", "q_gate", "qkv")
"""The linear layers that produce queries. An attention has one of them."""
EXPERTS = {
    "gate_up": "gate_up_proj", "gate": "gate_proj w1", "up": "up_proj w3", "down": "down_proj w2",
    "router": "gate.weight router router.weight shared_expert_gate",
}  # fmt: skip
NORMS = {"q": "q_norm", "k": "k_norm", "q_latent": "q_a_layernorm", "kv_latent": "kv_a_layernorm"}
FEED_FORWARD_ENDS = [("mlp.up", "mlp.down"), ("mlp.gate_up", "mlp.down"), ("moe.gate_up", "moe.down")]
"""The roles of the first and last modules of a feed-forward block."""
BEFORE_ATTENTION = "input_layernorm ln_1 ln1 norm1 norm_1 layer_norm1 layernorm_before sa_layer_norm"
BEFORE_FEED_FORWARD = (
    "post_attention_layernorm ln_2 ln2 norm2 norm_2 layer_norm2 layernorm_after final_layer_norm output_layer_norm "
    "full_layer_layer_norm"
)
PARAMETERS = {
    "embed.cls": r"cls_token|class_embedding", "embed.mask": r"mask_token", "head.scale": r"logit_scale",
    "attn.rel": r"relative_position_bias|relative_attention_bias", "embed.position": r"position|wpe",
    "scale.attn": r"layer_scale_?1|gamma_1|lambda_1", "scale.mlp": r"layer_scale_?2|gamma_2|lambda_2",
    "embed.type": r"token_type", "embed.relative": r"rel_embed|relative",
    "embed.token": r"word_embed|tok(en)?_?embed|embed_tokens|wte|^shared$|\bembed_in\b|embeddings?$",
}  # fmt: skip
"""The role of a table or a bare tensor, by the first pattern that its name matches."""
IS_ATTENTION = re.compile(r"att(n|ention)", re.IGNORECASE)
IS_RECURRENT = re.compile(r"linear_att|delta|mamba|ssm", re.IGNORECASE)
"""Matches modules that are named attention but have no products of queries and keys."""
IS_SEEN = r"vision|visual|image|audio|speech|encoder"
"""Matches the paths of layers that do not generate."""
IS_CROSS = re.compile(r"cross|enc_?dec_?att|encoder_att|xatt|src_att", re.IGNORECASE)


def family(source: str, raw: Mapping[str, Any], known: Mapping[str, Family]) -> Family | None:
    """Return the family of the config `raw`, or None without torch or if `transformers` has no such `model_type`.

    known: the described families, one of which may give peft's names of the experts. Raises ConfigError, in one line,
    if `transformers` builds no model from this config.
    """
    if not all(importlib.util.find_spec(name) for name in ("torch", "transformers")):
        return None
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if raw["model_type"] not in CONFIG_MAPPING:
        return None
    try:
        text = json.dumps(raw, sort_keys=True, default=str)
    except (ValueError, TypeError, RecursionError):  # of a mapping that contains itself, or that has keys of two types
        raise ConfigError(source, "", "values that no config.json can have", "the content of a config.json") from None
    built = _built(text)
    if isinstance(built, str):
        expected = f"a config of which transformers builds a model, since no family here describes it ({built})"
        raise ConfigError(source, "model_type", repr(raw["model_type"]), expected)
    return built.model_copy(update={"expert_names": _expert_names(raw["model_type"], known)})


@lru_cache(maxsize=16)
def _built(text: str) -> Family | str:
    """Return a family whose formulas are the config's own numbers, or the reason for failing.

    Cached: it takes a second.
    """
    raw = json.loads(text)
    try:
        config, models, fixed = _models(raw)
    except Exception as error:  # the code of hundreds of models may raise anything for an invalid config
        return " ".join(f"{type(error).__name__}: {error}".split())[:160]
    base_class = type(models["none"]) if "none" in models else None
    seen = [_Seen(task, model, base_class) for task, model in models.items()]
    layers = sorted({path for s in seen for path in _layers(s.modules)}, key=_order(seen[0].modules))
    base = {m.path for m in seen[0].modules}
    for s in seen:
        _tell_outside(s.outside(layers), base, s.task)
        for path in layers:
            for inside in s.inside(path).values():
                _tell_by_place(inside)
    kind, tasks = _kind(config), [s.task for s in seen]
    stacks = {name: _stack(path, seen, config) for name, path in zip(_names(layers, kind), layers, strict=True)}
    single = _specs(((s.task, 0, m) for s in seen for m in s.outside(layers)), "", 1, tasks)
    return Family.model_validate({
        "model_type": raw["model_type"], "name": raw["model_type"], "kind": kind, "source": "editors", "config": {},
        "dims": _dims(config, [*stacks.values()], single),
        "default_task": "causal_lm" if kind != "encoder" and "causal_lm" in tasks else tasks[0],
        "tasks": {s.task: _class(s, tasks, fixed) for s in seen},
        "modules": single, "stacks": stacks,
    })  # fmt: skip


def _class(seen: _Seen, tasks: Sequence[str], fixed: Set[str]) -> dict[str, Any]:
    """Return the class of a task as a family declares it."""
    named = {"like": LIKE[seen.task]} if seen.task in LIKE and LIKE[seen.task] not in tasks else {}
    only = {"labels": FIXED_LABELS} if seen.task in fixed else {}
    return {"class": type(seen.model).__name__, "prefix": seen.prefix, **named, **only}


def _models(raw: dict[str, Any]) -> tuple[Any, dict[str, Any], set[str]]:
    """Return the config as `transformers` reads it, and the model that it builds for each task with a class.

    The last result names the tasks whose class refuses any other number of labels than `FIXED_LABELS`.
    """
    import torch
    import transformers
    from torch.nn.modules.module import register_module_module_registration_hook
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    given = {k: v for k, v in raw.items() if k not in ("id2label", "label2id", "num_labels", "quantization_config")}
    if max(_layer_counts(given), default=0) > MOST_LAYERS:
        raise ValueError(f"more than {MOST_LAYERS:,} layers")
    config = CONFIG_MAPPING[raw["model_type"]].from_dict(given)
    models: dict[str, Any] = {}
    fixed: set[str] = set()
    refused: Exception = ValueError("it has no class for the tasks known here")
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    hook = register_module_module_registration_hook(_limited())
    try:
        for task, names in CLASSES.items():
            if builder := next((found for name in names if _knows(found := getattr(transformers, name), config)), None):
                for labels in (LABELS, FIXED_LABELS) if task in LABELLED else (FIXED_LABELS,):
                    own = copy.deepcopy(config)  # some classes change their config
                    own.num_labels = labels
                    try:
                        with torch.device("meta"):
                            models[task] = builder.from_config(own)
                        fixed |= {task} if task in LABELLED and labels == FIXED_LABELS else set()
                        break
                    except Exception as error:  # skip the task; if none is left, report the last reason
                        refused = error
    finally:
        hook.remove()
        transformers.logging.set_verbosity(verbosity)
    if not models:
        raise refused
    return config, models, fixed


def _limited() -> Callable[[Any, str, Any], None]:
    """Return a hook of torch that refuses one module more than a model may have."""
    left = MOST_MODULES

    def count(module: Any, name: str, inner: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError(f"more than {MOST_MODULES:,} modules")

    return count


def _knows(builder: Any, config: Any) -> bool:
    return type(config) in builder._model_mapping


def _layer_counts(config: Mapping[str, Any]) -> Iterator[int]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _layer_counts(value)
        elif any(word in str(key) for word in LAYERS):
            found = value if isinstance(value, list) else [value]
            yield sum(n for n in found if type(n) is int)


def _expert_names(model_type: str, known: Mapping[str, Family]) -> list[str]:
    """Return the names by which peft identifies an expert's own linear layers.

    They are those of a described family whose older checkpoints, with separate experts, `transformers` converts in the
    same way. peft follows that table.
    """
    from transformers import conversion_mapping

    patterns: dict[str, str] = getattr(conversion_mapping, "_MODEL_TO_CONVERSION_PATTERN", {})
    if (pattern := patterns.get(model_type)) is None:
        return []
    alike = (known[k] for k in known if pattern in (k, patterns.get(k)))
    return next((found.expert_names for found in alike if found.expert_names), [])


def _kind(config: Any) -> str:
    import transformers as t

    if getattr(config, "is_encoder_decoder", False):
        return "encoder_decoder"
    generates = _knows(t.AutoModelForCausalLM, config) or _knows(t.AutoModelForImageTextToText, config)
    return "decoder" if generates and not _knows(t.AutoModelForMaskedLM, config) else "encoder"


# The modules of one built model.


@dataclass
class _Module:
    """A module with its own parameters, or a bare tensor: its location, its role, and its spec in a family.

    `path` is relative to the base model, or to the whole model if the module is `outside` (a head). head_dim: the width
    of a head, if the surrounding module declares it.
    """

    path: str
    spec: dict[str, Any]
    outside: bool = False
    head_dim: int = 0
    role: str = "other"
    tie: dict[str, Any] = field(default_factory=dict)

    @property
    def linear(self) -> bool:
        return self.spec["kind"] in ("linear", "conv1d")


class _Seen:
    """One task's model and its modules."""

    def __init__(self, task: str, model: Any, base_class: type | None):
        self.task, self.model = task, model
        inner = (name for name, live in model.named_modules() if name and type(live) is base_class)
        base = next(inner, model.base_model_prefix if hasattr(model, model.base_model_prefix) else "")
        self.prefix = f"{base}." if base else ""
        self.modules = list(_modules(model, self.prefix))

    def outside(self, layers: Sequence[str]) -> list[_Module]:
        """Return the modules that belong to no layer."""
        return [m for m in self.modules if m.outside or all(_layer(m.path, path) is None for path in layers)]

    def inside(self, path: str) -> dict[int, list[_Module]]:
        """Return the modules of each layer under `path`, by the layer's number."""
        found: dict[int, list[_Module]] = {}
        for m in self.modules:
            if not m.outside and (n := _layer(m.path, path)) is not None:
                found.setdefault(n, []).append(m)
        return found


def _layer(name: str, path: str) -> int | None:
    """Return the number of the layer under `path` that contains the named module; None if there is none."""
    if not name.startswith(f"{path}."):
        return None
    number, _, rest = name[len(path) + 1 :].partition(".")
    return int(number) if number.isdigit() and rest else None


def _modules(model: Any, prefix: str) -> Iterator[_Module]:
    output, owners = model.get_output_embeddings(), dict[int, str]()
    for path, live in model.named_modules():
        own = {name: p for name, p in live._parameters.items() if p is not None}
        tied = {name: owners[id(p)] for name, p in own.items() if id(p) in owners}
        owners |= {id(p): path.removeprefix(prefix) for name, p in own.items() if name not in tied}
        place, outside = path.removeprefix(prefix), bool(prefix) and not path.startswith(prefix)
        whole = _spec(live, own)
        bare = {joined(place, name): {"kind": "parameter", "shape": list(p.shape)} for name, p in own.items()}
        for where, spec in ({place: whole} if whole else bare).items():
            names = own if whole else [where.rpartition(".")[2]]
            found = _Module(where, spec, outside, _head_dim(model, path))
            if same := [name for name in names if name in tied]:
                found.tie = {"tied_to": tied[same[0]], "ties": same}
            found.role = "head.lm" if live is output else _role(found)
            yield found


def _head_dim(model: Any, path: str) -> int:
    holder = model.get_submodule(path.rpartition(".")[0])
    return _said(holder, "head_dim", "attention_head_size", "key_value_proj_dim")


def _spec(live: Any, own: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the module's spec in a family; None for a kind that families lack, which only holds bare tensors."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    if "weight" not in own or not own.keys() <= {"weight", "bias"}:
        return None
    shape, bias = tuple(own["weight"].shape), "bias" in own
    if isinstance(live, nn.Linear):
        return {"kind": "linear", "in": shape[1], "out": shape[0], "bias": bias}
    if isinstance(live, Conv1D):
        return {"kind": "conv1d", "in": shape[0], "out": shape[1], "bias": bias}
    if isinstance(live, nn.Conv1d | nn.Conv2d):
        sizes = {"kernel": list(shape[2:]), "groups": live.groups}
        return {"kind": "conv", "in": shape[1] * live.groups, "out": shape[0], **sizes, "bias": bias}
    if isinstance(live, nn.Embedding) and not bias:
        return {"kind": "embedding", "shape": list(shape)}
    if "norm" in type(live).__name__.lower() and len(shape) == 1:
        return {"kind": "norm", "size": shape[0], "bias": bias}
    return None


# Roles.


def _role(m: _Module) -> str:
    """Return the role by the module's name. For a norm in a layer, its position decides (`_tell_by_place`)."""
    *above, leaf = m.path.split(".")
    kind = m.spec["kind"]
    if "expert" in m.path.lower() or leaf == "router" or (kind == "parameter" and leaf == "weight"):
        return _expert_role(m.path)
    if m.linear:
        return _linear_role([part.lower() for part in above], leaf.lower())
    if kind == "conv":
        return "embed.patch" if "patch" in m.path else "conv"
    if kind == "norm":
        return _norm_role(m.path, leaf)
    if leaf.endswith("bias") and _attends(m.path) and not re.search(PARAMETERS["attn.rel"], m.path):
        return "attn.bias"
    return next((role for role, pattern in PARAMETERS.items() if re.search(pattern, m.path, re.IGNORECASE)), "other")


def _attends(path: str) -> bool:
    return bool(IS_ATTENTION.search(path)) and not IS_RECURRENT.search(path)


def _linear_role(above: Sequence[str], leaf: str) -> str:
    holders = ".".join(above)
    if "pooler" in (*above, leaf):
        return "pooler"
    if _attends(holders):
        block = "xattn" if IS_CROSS.search(holders) else "attn"
        part = next((part for part, names in ATTENTION.items() if leaf in names.split()), "")
        return f"{block}.{part}" if part else "other"
    full = f"{above[-1]}.{leaf}" if above else leaf
    part = next((p for p, names in FEED_FORWARD.items() if {leaf, full} & {*names.split()}), "")
    if part:
        return f"mlp.{part}"
    return "embed.proj" if "embed" in f"{holders}.{leaf}" else "other"


def _expert_role(path: str) -> str:
    *above, last = path.split(".")
    known = {last, ".".join([*above[-1:], last])}
    part = next((p for p, names in EXPERTS.items() if known & {*names.split()}), "")
    shared = "shared." if "shared" in path else ""
    return f"moe.{shared}{part}" if part else "other"


def _norm_role(path: str, leaf: str) -> str:
    if known := [part for part, name in NORMS.items() if leaf == name]:
        return f"norm.{known[0]}"
    if "embed" in path:
        return "norm.embed"
    if IS_CROSS.search(path):
        return "norm.xattn"
    if leaf.lower() in BEFORE_FEED_FORWARD.split() or re.search(r"ffn|mlp|feed_forward|(^|\.)output\.LayerNorm$", path):
        return "norm.attn" if re.search(r"attention\.output\.", path) else "norm.mlp"
    if leaf.lower() in BEFORE_ATTENTION.split() or _attends(path):
        return "norm.attn"
    return "norm.final"


def _tell_outside(modules: Sequence[_Module], base: Set[str], task: str) -> None:
    """Correct the roles outside the layers: of heads, which are absent from the `base` model, and of norms."""
    for m in modules:
        kind, leaf = m.spec["kind"], m.path.rpartition(".")[2]
        if m.role in ("norm.attn", "norm.mlp", "norm.final"):
            m.role = "other" if any(_numbered(f"{m.path}.")) else "norm.final"
        if m.path in base or m.role in ("head.lm", "pooler"):
            continue
        if m.linear:
            last, width = LAST.get(task, ("head.cls", 0))
            m.role = last if m.spec["out"] in (LABELS, width) else "head.dense"
        else:
            m.role = "norm.head" if kind == "norm" else "head.bias" if leaf == "bias" else "other"


def _tell_by_place(layer: Sequence[_Module]) -> None:
    """Correct the roles in one layer by neighbouring modules and by widths."""
    blocks = {m.role.partition(".")[0] for m in layer}
    plain = "attn" in blocks and not blocks & {"mlp", "moe"}
    for m in layer:
        if m.role == "norm.final":  # the name gives no more information
            holder = m.path.rpartition(".")[0]
            beside = {o.role.partition(".")[0] for o in layer if o.linear and o.path.startswith(f"{holder}.")}
            told = beside & {"attn", "xattn", "mlp"}
            m.role = f"norm.{told.pop()}" if len(told) == 1 else "other"
        elif m.linear and m.role == "other" and plain and not IS_ATTENTION.search(m.path):
            wider = m.spec["out"] - m.spec["in"]
            m.role = "mlp.up" if wider > 0 else "mlp.down" if wider < 0 else "other"
    read = {m.spec["in"] for m in layer if m.role == "attn.o"}
    downs = {m.spec["in"] for m in layer if m.role == "mlp.down"}
    for m in layer:
        if m.role == "mlp.up" and m.spec["out"] not in downs and m.spec["out"] / 2 in downs:
            m.role = "mlp.gate_up"
        if m.role == "attn.q" and m.spec["out"] not in read and m.spec["out"] / 2 in read:
            m.role = "attn.q_gate"


# Layers.


def _layers(modules: Sequence[_Module]) -> set[str]:
    """Return the paths under which equal layers are numbered.

    With attention: the smallest numbered module around each attention that also contains another linear layer. Without
    attention: the largest numbered modules.
    """
    maps = [m for m in modules if not m.outside and (m.linear or len(m.spec.get("shape", ())) > 1)]
    attention = [m.path for m in maps if m.linear and m.role.startswith(("attn.", "xattn."))]
    others = [m.path for m in maps if not m.role.startswith(("attn.", "xattn."))]
    found = set()
    for path in attention:
        around = [e for e in _numbered(path) if any(o.startswith(f"{e}.") for o in others)]
        if around:
            found.add(around[-1].rpartition(".")[0])
    found = found or {next(_numbered(path)).rpartition(".")[0] for path in others if any(_numbered(path))}
    return {path for path in found if not any(path.startswith(f"{outer}.") for outer in found)}


def _numbered(path: str) -> Iterator[str]:
    """Yield the enclosing modules named by a number, the largest first: for `h.0.mlp.2.up` `h.0`, then more."""
    parts = path.split(".")
    return (".".join(parts[: i + 1]) for i in range(1, len(parts) - 1) if parts[i].isdigit())


def _order(modules: Sequence[_Module]) -> Any:
    """Return a sort key that puts paths of layers in the network's order."""
    return lambda path: next((i for i, m in enumerate(modules) if m.path.startswith(f"{path}.")), len(modules))


def _names(layers: Sequence[str], kind: str) -> list[str]:
    """Return a name for each stack: its function, and a number if several stacks have the same function."""
    decodes = [bool("decoder" in p or (kind == "decoder" and not re.search(IS_SEEN, p))) for p in layers]
    does = ["decoder" if d else "encoder" for d in decodes]
    return [d if does.count(d) == 1 else f"{d}_{does[:i].count(d) + 1}" for i, d in enumerate(does)]


def _stack(path: str, seen: Sequence[_Seen], config: Any) -> dict[str, Any]:
    each = [(s.task, n, m) for s in seen for n, inside in s.inside(path).items() for m in inside]
    tasks, layers = list(dict.fromkeys(task for task, _, _ in each)), 1 + max(n for _, n, _ in each)
    modules = _specs(each, path, layers, tasks)
    places = {block: at for block in ("attn", "xattn") if (at := _holder(modules, block))}
    roles = {spec["role"] for spec in modules}
    ends = next((e for e in FEED_FORWARD_ENDS if {*e} <= roles), FEED_FORWARD_ENDS[0])
    shown, head_dims = _widths(modules), (m.head_dim for _, _, m in each if m.role in [f"attn.{q}" for q in QUERIES])
    return {
        "layers": layers, "path": f"{path}.{{layer}}", "tasks": tasks if len(tasks) < len(seen) else None,
        "dims": shown | _heads(config, shown, next(head_dims, 0)), "attention": places,
        "mlp": {"in": ends[0], "out": ends[1]}, "modules": modules,
    }  # fmt: skip


def _holder(modules: Sequence[Mapping[str, Any]], block: str) -> str:
    """Return the module inside a layer that contains an attention's linear layers."""
    maps = (spec["path"] for spec in modules if spec["role"] in [f"{block}.{q}" for q in QUERIES])
    return next(maps, "").rpartition(".")[0]


# Specs.


def _specs(
    each: Iterable[tuple[str, int, _Module]], path: str, layers: int, tasks: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the modules as specs of a family; modules equal in several layers and tasks appear once."""
    alike: dict[str, dict[str, list[int]]] = {}
    for task, n, m in each:
        name = m.path.removeprefix(f"{path}.{n}.") if path else m.path
        spec = {"path": name, "role": m.role, **_labelled(m.spec), **m.tie, "outside": m.outside}
        alike.setdefault(json.dumps(spec), {}).setdefault(task, []).append(n)
    found = []
    for text, places in alike.items():
        for numbers in dict.fromkeys(tuple(n) for n in places.values()):
            of = [task for task, n in places.items() if tuple(n) == numbers]
            new = {"new": True} if MADE_NEW.issuperset(of) and "none" in tasks else {}
            some = {"tasks": of} if len(of) < len(tasks) else {}
            found += [{**json.loads(text), **new, **some, **where} for where in _where(numbers, layers)]
    return found


def _labelled(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the spec with the number of labels replaced by its name."""

    def size(value: Any) -> Any:
        return "num_labels" if value == LABELS else value

    return {k: [size(v) for v in value] if isinstance(value, list) else size(value) for k, value in spec.items()}


def _where(numbers: Sequence[int], layers: int) -> Iterator[dict[str, str]]:
    """Yield formulas that hold in exactly these layers."""
    if len(numbers) == layers:
        yield {}
        return
    runs = [[n, n] for n in numbers if n - 1 not in numbers]
    for run in runs:
        while run[1] + 1 in numbers:
            run[1] += 1
    for i in range(0, len(runs), MOST_RUNS):
        yield {"where": " or ".join(f"{a} <= layer <= {b}" for a, b in runs[i : i + MOST_RUNS])}


# Sizes.


def _widths(modules: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return the sizes implied by the linear layers of a stack."""
    shown = {spec["role"]: spec for spec in reversed(modules) if spec["kind"] in ("linear", "conv1d")}
    ends = {
        "d_model": [("attn.o", "out"), ("attn.q", "in"), ("attn.qkv", "in")],
        "d_ff": [("mlp.down", "in"), ("mlp.up", "out")],
        "d_attn": [("attn.q", "out"), ("attn.o", "in")], "d_kv": [("attn.k", "out")],
    }  # fmt: skip
    found = {n: next((shown[role][end] for role, end in ways if role in shown), 0) for n, ways in ends.items()}
    return {name: size for name, size in found.items() if size}


def _heads(config: Any, shown: Mapping[str, int], head_dim: int) -> dict[str, int]:
    """Return the numbers of heads: from the width of a head, or else from the config."""
    text, width = config.get_text_config(), shown.get("d_attn", 0)
    heads = (head_dim and width // head_dim) or _said(text, "num_attention_heads") or 1
    shared = (head_dim and shown.get("d_kv", 0) // head_dim) or _said(text, "num_key_value_heads") or heads
    head_dim = head_dim or _said(text, "head_dim") or width // heads
    return {"n_heads": heads, "n_kv_heads": shared, "head_dim": head_dim, "d_kv": shown.get("d_kv", shared * head_dim)}


def _said(config: Any, *names: str) -> int:
    """Return the value of the first of these names that a config (or a module) has, else 0."""
    for name in names:
        with contextlib.suppress(Exception):  # a config with sizes of single layers raises for a common size
            if type(value := getattr(config, name, None)) is int and value > 0:
                return value
    return 0


def _dims(config: Any, stacks: Sequence[Mapping[str, Any]], single: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return the sizes that methods may use: from the first stack, else from the config, else 0."""
    text, shown = config.get_text_config(), stacks[0]["dims"] if stacks else {}
    width = shown.get("d_model") or _said(text, "hidden_size", "d_model")
    tables = (spec["shape"][-2] for spec in single if spec["role"] == "embed.position" and len(spec["shape"]) > 1)
    vectors = {spec["shape"][-1] for spec in single if spec["role"] == "embed.token"}
    narrow = vectors - {stack["dims"].get("d_model") for stack in stacks}  # other widths belong to a stack
    positions = _said(text, "max_position_embeddings", "max_target_positions") or next(tables, 0)
    return {
        "d_model": width, "d_ff": _said(text, "intermediate_size"), "d_attn": width, "d_kv": width,
        "vocab": _said(text, "vocab_size"), "max_positions": positions,
        **_heads(config, {"d_attn": width}, 0), **shown, **({"d_embed": max(narrow)} if narrow else {}),
    }  # fmt: skip
