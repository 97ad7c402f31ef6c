"""Tiny real `transformers` models, one per family, with odd sizes that are never equal by chance.

Every value is random and large enough to matter (norm gains and biases included), in float64 and without
dropout, so that an error shows as a difference and rounding does not. Layer norms of T5 and LLaMA compute in
float32 regardless, hence `TOLERANCE`.
"""

from __future__ import annotations

import copy
import functools
import io
import pickle
from typing import Any

import torch
import transformers
from torch import Tensor, nn

TOLERANCE = 2e-5
"""The largest difference between outputs (of size about 1) that counts as equal."""

_ENCODER = {
    "vocab_size": 37, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20,
    "max_position_embeddings": 40, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertForSequenceClassification", _ENCODER | {"num_labels": 3}),
    "roberta": ("RobertaModel", _ENCODER | {"hidden_size": 20, "num_attention_heads": 5, "intermediate_size": 28}),
    "t5": ("T5ForConditionalGeneration", {
        "vocab_size": 37, "d_model": 16, "d_kv": 3, "num_heads": 6, "d_ff": 22, "num_layers": 2,
        "num_decoder_layers": 3, "feed_forward_proj": "gated-gelu", "dropout_rate": 0.0,
        "relative_attention_num_buckets": 8, "decoder_start_token_id": 0, "tie_word_embeddings": False,
    }),
    "gpt2": ("GPT2LMHeadModel", {
        "vocab_size": 37, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_inner": 28, "n_positions": 40,
        "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "bos_token_id": 1, "eos_token_id": 2,
    }),
    "llama": ("LlamaForCausalLM", {
        "vocab_size": 37, "hidden_size": 18, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2,
        "head_dim": 4, "intermediate_size": 28, "max_position_embeddings": 40,
    }),
    "vit": ("ViTForImageClassification", {
        "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 24, "image_size": 12,
        "patch_size": 4, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "num_labels": 3,
    }),
}  # fmt: skip
STAGED: dict[str, tuple[str, dict[str, Any]]] = {
    "swin": ("SwinForImageClassification", {
        "embed_dim": 6, "depths": [1, 2, 2, 1], "num_heads": [1, 2, 3, 4], "window_size": 2, "mlp_ratio": 2.5,
        "image_size": 32, "patch_size": 2, "num_channels": 2, "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0, "drop_path_rate": 0.0, "num_labels": 3,
    }),
}  # fmt: skip
"""Models of which the layers have different widths. Only a sample of the methods runs on them."""
TOWERS: dict[str, tuple[str, dict[str, Any]]] = {
    "clip": ("CLIPModel", {
        "projection_dim": 10, "num_labels": 3,
        "text_config": {
            "vocab_size": 37, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
            "intermediate_size": 22, "max_position_embeddings": 12, "bos_token_id": 0, "eos_token_id": 1,
        },
        "vision_config": {
            "hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 20,
            "image_size": 12, "patch_size": 4,
        },
    }),
}  # fmt: skip
"""Models that compare images with a text for each label. The methods made for them run on them, and a sample of the
others."""
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {}
"""Models of other families that are used for their shapes only. Tests that need them add them."""


def every() -> dict[str, tuple[str, dict[str, Any]]]:
    """Return the tiny models with values, by family."""
    return CONFIGS | STAGED | TOWERS


def config(name: str) -> dict[str, Any]:
    """Return the content of the config.json of a family's tiny model."""
    kind, settings = every()[name]
    config_class = getattr(transformers, kind).config_class
    return {**config_class(**copy.deepcopy(settings)).to_dict(), "model_type": config_class.model_type}


def seed(number: int) -> None:
    """Seed the generator of the CPU. `torch.manual_seed` takes 80 times as long: it also seeds every accelerator."""
    torch.default_generator.manual_seed(number)


@functools.cache
def plain(name: str) -> nn.Module:
    """Return the shared tiny model of a family. Callers must not change it."""
    return built(*every()[name])


@functools.cache
def shaped(name: str) -> nn.Module:
    """Return a tiny model of one of the other families, which has shapes and no values."""
    kind, settings = SHAPES[name]
    model_class = getattr(transformers, kind)
    with torch.device("meta"):
        model: nn.Module = model_class(model_class.config_class(**copy.deepcopy(settings)))
    return model


def built(kind: str, settings: dict[str, Any]) -> nn.Module:
    """Return a model of a class with these settings, always with the same values.

    It does not affect the state of the random generator.
    """
    model_class = getattr(transformers, kind)
    settings = copy.deepcopy(settings)      # a config takes the settings of its parts as its own
    config = model_class.config_class(**settings, attn_implementation="eager", use_cache=False)
    with torch.random.fork_rng(devices=[]):
        seed(0)
        model: nn.Module = model_class(config).double().eval()
        with torch.no_grad():
            for parameter in (p for p in model.parameters() if p.ndim):     # a single number keeps its start
                scale = 0.5 if parameter.ndim == 1 else 1.2 * parameter.shape[-1] ** -0.5
                parameter.copy_((parameter == 1) + scale * torch.randn_like(parameter))
    return model


def model(name: str) -> nn.Module:
    """Return a fresh copy of the tiny model, always with the same values and with a config of its own."""
    return _pattern(name).copy()


class _Pattern(pickle.Pickler):
    """A model that is copied often: pickled once, without its tensors. A copy takes a fifth of the time of deepcopy."""

    def __init__(self, model: nn.Module):
        self.text, self.tensors, self._numbers = io.BytesIO(), list[Tensor](), dict[int, int]()
        super().__init__(self.text, pickle.HIGHEST_PROTOCOL)
        self.dump(model)

    def persistent_id(self, value: Any) -> int | None:
        """Return the number of a tensor, in whose place the pickle has the number."""
        if not isinstance(value, Tensor):
            return None
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self.tensors)
            self.tensors.append(value)
        return self._numbers[id(value)]

    def copy(self) -> nn.Module:
        """Return a copy of the model, with copies of its tensors."""
        memo: dict[int, Any] = {}
        reader = pickle.Unpickler(io.BytesIO(self.text.getbuffer()))
        reader.persistent_load = lambda i: copy.deepcopy(self.tensors[i], memo)  # type: ignore[method-assign]
        copied: nn.Module = reader.load()
        return copied


@functools.cache
def _pattern(name: str) -> _Pattern:
    return _Pattern(plain(name))


def copied(model: nn.Module) -> nn.Module:
    """Return a copy of a model with a config of its own, in which a method may choose another attention function."""
    return copy.deepcopy(model)


@functools.cache
def plain_outputs(name: str) -> Tensor:
    """Return the outputs of the shared tiny model of a family."""
    with torch.no_grad():
        return outputs(plain(name), name)


@functools.cache
def batch(name: str) -> dict[str, Tensor]:
    """Return the model's input: four sequences, two of them padded, or four images, with a text for each label."""
    generator = torch.Generator().manual_seed(1)
    if name in ("vit", "swin", *TOWERS):
        settings = every()[name][1]
        sizes = {"num_channels": 3, **settings.get("vision_config", settings)}
        shape = 4, sizes["num_channels"], sizes["image_size"], sizes["image_size"]
        images = {"pixel_values": torch.randn(shape, generator=generator, dtype=torch.float64)}
        return images | _texts(settings, generator) if name in TOWERS else images
    ids = torch.randint(3, 37, (4, 7), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 5:] = mask[2, 4:] = 0
    given = {"input_ids": ids, "attention_mask": mask}
    if name == "t5":
        given["decoder_input_ids"] = torch.randint(3, 37, (4, 5), generator=generator)
    return given


def _texts(settings: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
    """Return a text for each label, which ends in the token that marks the end; one is padded behind it."""
    ids = torch.randint(3, 37, (settings["num_labels"], 7), generator=generator)
    mask = torch.ones_like(ids)
    ids[:, -1] = ids[1, -2:] = settings["text_config"]["eos_token_id"]
    mask[1, -1] = 0
    return {"input_ids": ids, "attention_mask": mask}


def outputs(model: nn.Module, name: str) -> Tensor:
    """Return the model's output for its family's batch: logits, or the last hidden state. Padding is left out."""
    given = batch(name)
    found = model(**given)
    if name in TOWERS:
        similarities: Tensor = found.logits_per_image
        return similarities
    values: Tensor = found.logits if hasattr(found, "logits") else found.last_hidden_state
    if values.ndim == 3 and name != "t5":
        values = values[given["attention_mask"].bool()]
    return values


def loss(model: Any, name: str) -> Tensor:
    """Return the distance of the outputs from fixed random targets.

    A classifier uses the state of one position only. To reach a method's change at the other positions of the last
    layer, the last hidden states count as well.
    """
    if name in TOWERS or "num_labels" not in every()[name][1]:
        return _error(outputs(model, name))
    states: list[Tensor] = []
    hook = model.base_model.register_forward_hook(lambda _, __, found: states.append(found.last_hidden_state))
    values = outputs(model, name)
    hook.remove()
    return _error(values) + _error(states[-1])


def _error(values: Tensor) -> Tensor:
    target = torch.randn(values.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return ((values - target) ** 2).mean()
