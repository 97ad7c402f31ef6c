"""Every two options of peft's most used types together, on each kind of module: the same counts, or a refusal by name.

    python -m tests.peft_pairs [--type LORA] [--place 'llama linear'] [--step 7] [--every]

Random draws seldom combine two rare options on a rare kind of module. Here each case changes at most two options, so
that one that peft refuses hides no other. The outcomes are those of `tests.peft_random`.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from tests.peft_random import FAMILIES, PEFT, Case, outcomes, theirs

Options = dict[str, tuple[Any, ...]]
TIED, UNTIED = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}
PLACES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama linear": ("llama", UNTIED, {"target_modules": ["q_proj", "down_proj"]}),
    "llama all": ("llama", UNTIED, {"target_modules": "all-linear"}),
    "llama embedding": ("llama", UNTIED, {"target_modules": ["embed_tokens", "v_proj"]}),
    "llama tied embedding": ("llama", TIED, {"target_modules": ["embed_tokens", "v_proj"]}),
    "llama head": ("llama", UNTIED, {"target_modules": ["lm_head"]}),
    "llama tied head": ("llama", TIED, {"target_modules": ["lm_head", "embed_tokens"]}),
    "llama parameter": ("llama", UNTIED, {"target_modules": ["q_proj"], "target_parameters": ["v_proj.weight"]}),
    "gpt2 conv1d": ("gpt2", {}, {"target_modules": ["c_attn", "mlp.c_proj"]}),
    "gpt2 embedding": ("gpt2", {}, {"target_modules": ["wte", "c_fc"]}),
    "bert linear": ("bert", {}, {"target_modules": ["query", "output.dense"]}),
    "bert embedding": ("bert", {}, {"target_modules": ["word_embeddings", "value"]}),
    "t5 linear": ("t5", UNTIED, {"target_modules": r".*\.(q|wo)"}),
    "t5 tied": ("t5", TIED, {"target_modules": ["shared", "lm_head", "k"]}),
    "vit linear": ("vit", {}, {"target_modules": ["q_proj", "fc2"]}),
    "vit conv": ("vit", {}, {"target_modules": ["projection", "v_proj"]}),
    "mixtral experts": ("mixtral", {}, {"target_modules": [], "target_parameters": ["down_proj", "gate.weight"]}),
    "mixtral old names": ("mixtral", {}, {"target_modules": ["w1", "w3", "w2", "q_proj"]}),
}  # fmt: skip
"""A kind of module: the family, its settings, and the arguments that select the modules."""
WHERE: Options = {
    "bias": ("all", "lora_only"), "exclude_modules": (["v_proj", "value", "v"], r".*\.1\..*"),
    "layers_to_transform": ([0], 1), "layers_pattern": ("layers", ["layer", "h"]),
    "modules_to_save": (
        ["lm_head"], ["embed_tokens", "wte", "word_embeddings", "shared"], ["norm", "ln_f"], ["mlp"], ["classifier"],
        ["0.self_attn", "1.attn"],
    ),
}  # fmt: skip
"""Options that many types have. A name may be absent from a model."""
PATTERNS: Options = {"rank_pattern": ({"q_proj": 3}, {r".*\.0\..*": 5}), "alpha_pattern": ({"q_proj": 3},)}
OPTIONS: dict[str, Options] = {
    "LORA": WHERE | PATTERNS | {
        "use_rslora": (True,), "use_dora": (True,), "lora_bias": (True,), "lora_dropout": (0.1,),
        "init_lora_weights": (False, "gaussian", "pissa", "olora", "orthogonal", "mica", "eva"),
        "trainable_token_indices": ([1, 2], {"lm_head": [3]}, {"embed_tokens": [0], "shared": [0], "wte": [0]}),
        "target_parameters": (["k_proj.weight"],), "ensure_weight_tying": (True,),
        "layer_replication": ([[0, 2], [1, 2]], [[0, 1], [0, 2]]), "fan_in_fan_out": (True,),
        "task_type": ("CAUSAL_LM", "SEQ_CLS"), "use_qalora": (True,),
    },
    "ADALORA": WHERE | PATTERNS | {
        "init_r": (5,), "target_r": (3,), "use_rslora": (True,), "use_dora": (True,), "lora_bias": (True,),
        "trainable_token_indices": ([1],), "layer_replication": ([[0, 2], [1, 2]],), "r": (5,),
        "ensure_weight_tying": (True,), "task_type": ("CAUSAL_LM", "SEQ_CLS"),
    },
    "LOHA": WHERE | PATTERNS | {
        "use_effective_conv2d": (True,), "init_weights": (False,), "rank_dropout": (0.1,), "r": (3,),
        "task_type": ("CAUSAL_LM", "SEQ_CLS"),
    },
    "LOKR": WHERE | PATTERNS | {
        "use_effective_conv2d": (True,), "init_weights": (False, "lycoris"), "decompose_both": (True,), "r": (1, 3),
        "decompose_factor": (2, 3), "task_type": ("CAUSAL_LM", "SEQ_CLS"),
    },
    "IA3": WHERE | {
        "feedforward_modules": (["down_proj"], ["q_proj", "c_attn", "query"], []), "fan_in_fan_out": (True,),
        "init_ia3_weights": (False,), "task_type": ("CAUSAL_LM", "SEQ_CLS"),
    },
    "OFT": WHERE | {
        "oft_block_size": (0, 2, 5), "r": (2, 3), "block_share": (True,), "coft": (True,), "init_weights": (False,),
        "use_cayley_neumann": (False,), "task_type": ("CAUSAL_LM", "SEQ_CLS"),
    },
    "BOFT": WHERE | {
        "boft_block_size": (0, 2, 3), "boft_block_num": (2, 3), "boft_n_butterfly_factor": (2,),
        "init_weights": (False,), "task_type": ("CAUSAL_LM", "SEQ_CLS"),
    },
    "PREFIX_TUNING": {
        "prefix_projection": (True,), "encoder_hidden_size": (5,), "token_dim": (8,), "num_layers": (1,),
        "num_attention_heads": (2,), "modules_to_save": WHERE["modules_to_save"], "init_weights": ("zero",),
        "task_type": ("SEQ_CLS", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION"), "num_transformer_submodules": (1, 2),
    },
    "PROMPT_TUNING": {
        "token_dim": (8,), "num_layers": (1,), "num_attention_heads": (2,), "num_transformer_submodules": (1, 2),
        "modules_to_save": WHERE["modules_to_save"], "task_type": ("SEQ_CLS", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION"),
    },
}  # fmt: skip
FIXED: dict[str, dict[str, Any]] = {
    "LORA": {"r": 2}, "ADALORA": {"total_step": 100}, "LOHA": {"r": 2}, "LOKR": {"r": 2}, "OFT": {"oft_block_size": 3},
    "BOFT": {"boft_block_size": 2}, "PREFIX_TUNING": {"num_virtual_tokens": 3, "task_type": "CAUSAL_LM"},
    "PROMPT_TUNING": {"num_virtual_tokens": 3, "task_type": "CAUSAL_LM"}, "IA3": {"feedforward_modules": []},
}  # fmt: skip
"""The arguments of a type that differ from its defaults in every case."""


def cases(kinds: list[str] | None = None, places: list[str] | None = None) -> Iterator[tuple[str, Case]]:
    """Yield each case with its name."""
    for kind, place in itertools.product(kinds or OPTIONS, places or PLACES):
        family, settings, selected = PLACES[place]
        if "target_parameters" in selected and kind != "LORA":
            continue
        prompts = "target_modules" not in _names(kind)
        named, sizes = FAMILIES[family]
        base = {"peft_type": kind, **({} if prompts else selected), **FIXED[kind]}
        values = [(name, value) for name, found in OPTIONS[kind].items() for value in found if name in _names(kind)]
        pairs = [(a, b) for a, b in itertools.combinations(values, 2) if a[0] != b[0]]
        for changed in [(), *((one,) for one in values), *pairs]:
            config = {**base, **dict(changed)}
            if "target_parameters" in dict(changed):
                config["target_parameters"] = [*base.get("target_parameters", []), *config["target_parameters"]]
            yield f"{kind} {place} {json.dumps(dict(changed))}", Case(family, named, sizes | settings, config)


def _names(kind: str) -> set[str]:
    return {*PEFT.defaults(kind)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--type", nargs="*")
    parser.add_argument("--place", nargs="*")
    parser.add_argument("--every", action="store_true", help="show every refusal too")
    parser.add_argument("--step", type=int, default=1, help="take every so many-th case")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    table: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for name, case in itertools.islice(cases(given.type, given.place), 0, None, given.step):
        for form, outcome in outcomes(case, theirs(case)).items():
            table[case.config["peft_type"]][outcome.word] += 1
            if outcome.word == "wrong" or (given.every and outcome.word == "refused"):
                print(outcome.word, name, form, outcome.detail, outcome.ours, outcome.theirs, sep=" | ", flush=True)
    for kind, words in table.items():
        print(kind, dict(words))


if __name__ == "__main__":
    main()
