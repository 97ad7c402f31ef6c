"""BitFit: bias-term fine-tuning (benzaken2022bitfit).

    h = W x + b,    b trained, W frozen

Trained: every bias that the checkpoint holds, those of layer norms included. At inference the biases are where
they always were. The authors train the pooler's bias and the task head as well; the head is the caller's here.
Libraries that offer "BitFit" on models without biases add new ones: this one selects and never adds, so such
models leave nothing to train.
"""

from torch import Tensor, nn

from . import _kit as kit


def apply(model: nn.Module) -> nn.Module:
    """Let the optimiser move the biases only."""
    kit.freeze(model)
    for weight in kit.weights(model):
        if weight.pretrained and weight.name.endswith(".bias"):
            weight.value.requires_grad_(True)
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the model on recorded tokens; for the golden vectors."""
    logits: Tensor = model(input_ids=inputs["input_ids"]).logits
    return {"output": logits}                                       # (batch, labels)
