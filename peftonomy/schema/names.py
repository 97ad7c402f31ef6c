"""The names for formulas besides hyperparameters: sizes of a model, of a location in it, and of a step; and tasks."""

from __future__ import annotations

__all__ = [
    "BLOCKS", "BY_TEXTS", "DIMS", "LABELLED", "LOCAL", "MODEL_NAMES", "OF_PARAMETERS", "OF_STEP", "OF_UPDATE", "TASKS",
]  # fmt: skip

DIMS = (
    "d_model", "d_embed", "d_ff", "n_heads", "n_kv_heads", "head_dim", "d_attn", "d_kv", "vocab", "max_positions",
)  # fmt: skip
"""The sizes that every family must declare as formulas, so that methods may use them on every model.

`d_embed` is the width of the embeddings of tokens (or patches), before any projection to the width of the layers. It
equals `d_model` unless a family declares another formula. `d_attn` and `d_kv` are the widths of queries and of keys (or
values) over all heads. `vocab` is 0 without a vocabulary, and `max_positions` is 0 if positions have no limit."""
MODEL_NAMES = frozenset({
    *set(DIMS) - {"max_positions"}, "n_layers", "n_encoder_layers", "n_decoder_layers", "n_attention", "n_encoders",
    "n_inputs", "n_labels", "n_sites", "max_d_in", "max_d_out", "sum_d_in", "sum_d_out", "backbone",
})  # fmt: skip
"""Dimensions that every formula of an entry may name.

`n_encoders` is the number of encoder stacks. It is above 1 if an encoder has stages that merge positions, or if the
model has an encoder for each kind of input. `n_inputs` is the number of kinds of input: texts, images and sounds.
`n_labels` is the number of labels of a task that has them (see `LABELLED`), otherwise 0."""
OF_PARAMETERS = ("weight", "bias", "norm")
"""Scopes whose locations are the backbone's own parameters."""
BLOCKS = ("attention", "mlp", "layer")
"""Scopes whose locations are parts of every layer."""
LOCAL: dict[str, frozenset[str]] = {
    "site": frozenset({"d_in", "d_out", "bias", "layer"}),
    "role": frozenset({"d_in", "d_out", "n_sharing"}),
    "model": frozenset(),
    **dict.fromkeys(BLOCKS, frozenset({"layer", "cross"})),
    **dict.fromkeys(OF_PARAMETERS, frozenset({"numel", "rows", "columns", "outputs", "bias", "layer"})),
}
"""Dimensions that a formula may name besides the model's, by the scope of its tensor.

`rows` and `columns` are the sides of a linear module's matrix, as it is held. Both are 0 for any other parameter.
`outputs` is the number of outputs of a linear module's matrix or of a convolution's kernel, and 0 for any other.
`bias` is 1 for a module that has a bias, and for a parameter that is one."""
OF_STEP = frozenset({"width", "post_norm"})
"""Names that formulas of a method's operations may use too.

`width` is the bytes of one frozen parameter. `post_norm` is 1 if norms follow the residual sums. A hyperparameter of
the same name hides them."""
OF_UPDATE = frozenset({"width"})
"""Names that formulas of a method's updates may use too: `width` is the bytes of one trained parameter."""
TASKS = {
    "none": "base model",
    "causal_lm": "language model",
    "seq_cls": "classification",
    "masked_lm": "masked language model",
    "token_cls": "token classification",
    "question_ans": "question answering",
    "multiple_choice": "multiple choice",
    "image_cls": "image classification",
    "zero_shot_image_cls": "image classification by texts",
    "audio_cls": "audio classification",
}
"""The tasks, each with its meaning in a few words."""
BY_TEXTS = "zero_shot_image_cls"
"""The task whose labels are texts: the model compares each image with a text for each label."""
LABELLED = ("seq_cls", "token_cls", "question_ans", BY_TEXTS, "image_cls", "audio_cls")
"""The tasks with a number of labels of the user's choice, the first of a model's being the one that is trained."""
