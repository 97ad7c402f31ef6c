"""CoOp: learning to prompt for vision-language models (zhou2022coop; code_coop#trainers/coop.py:PromptLearner).

    t_i <- g([s; P; c_i])

with g the text tower, s the embedded token at the start of a text, and c_i the embedded name of class i with everything
behind it.

Trained, and kept at inference: P (prompt_length, d_embed), the context of all classes, or with `class_specific` P_c
(classes, prompt_length, d_embed). Both start normal with a deviation of 0.02. The number of classes is the config's
`num_labels`. Texts are given without placeholders; the positions of the context are inserted behind the first token.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from peftonomy import UsageError

from . import _kit as kit
from ._prompt import behind_first


class Context(kit.Child):
    """The context in the texts of all classes."""

    def __init__(self, labels: int, d: int, *, prompt_length: int, class_specific: bool):
        super().__init__()
        self.tensor, shape = ("P_c", (labels, prompt_length, d)) if class_specific else ("P", (prompt_length, d))
        self.register_parameter(self.tensor, nn.Parameter(torch.empty(shape).normal_(std=0.02)))
        self.length = prompt_length

    def lengthen(self, _: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
        """Insert positions into the tokens and the mask. The first token stands there until its vector is replaced."""
        given = {**dict(zip(("input_ids", "attention_mask"), args, strict=False)), **given}
        for name in ("input_ids", "attention_mask"):
            if (x := given.get(name)) is not None:
                given[name] = torch.cat([x[:, :1].expand(-1, 1 + self.length), x[:, 1:]], dim=1)
        return (), given

    def enter(self, _: nn.Module, args: Any, x: Tensor) -> Tensor:
        context = self.get_parameter(self.tensor).to(x.dtype)
        if context.dim() == 3 and len(context) != len(x):
            expected = f"{len(context)}, one for each label in the model's config"
            raise UsageError(f"texts: found {len(x)}; expected {expected}")
        context = context.expand(len(x), -1, -1)
        return behind_first(x, self.length, context)        # (classes, n + length, d)


def apply(
    model: nn.Module, *, prompt_length: int = 16, class_specific: bool = False, name: str = "coop"
) -> nn.Module:  # fmt: skip
    """Freeze the model and put a context into its texts. Raises UsageError for a model without two towers."""
    parts = kit.inventory(model)
    if parts.dims["n_inputs"] != 2 or parts.dims["n_decoder_layers"]:
        raise UsageError("a model that compares images with texts was expected; this one has no two towers")
    kit.freeze(model)
    text = cast(Any, model).text_model
    child = Context(parts.num_labels, parts.dims["d_embed"], prompt_length=prompt_length, class_specific=class_specific)
    hooks = kit.attach(model, name, child)
    hooks.append(text.register_forward_pre_hook(child.lengthen, with_kwargs=True))
    hooks.append(text.embeddings.token_embedding.register_forward_hook(child.enter))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors: the embedded texts with their context."""
    entered: list[Tensor] = []
    text = cast(Any, model).text_model
    handle = text.embeddings.token_embedding.register_forward_hook(lambda _, __, x: entered.append(x))
    text(input_ids=inputs["x"])
    handle.remove()
    return entered[0]
