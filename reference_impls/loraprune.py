"""LoRAPrune: structured pruning meets low-rank fine-tuning (zhang2024loraprune).

    h = (W_0 + s B A) (m * x);   I = |(g_B A + B g_A - g_B g_A) * (W_0 + s B A)|, summed over groups, averaged 0.9 / 0.1

Trained: A (r, d_in), B (d_out, r) beside every targeted weight. Masks m switch off groups of attention heads that
share keys and values, and feed-forward channels, at the input of the matrix that follows them. A training loop calls
`observe(model)` after each backward pass and, every few steps, `prune(model, share)` with a share from `schedule`.
`finish` prunes to `ratio`. `merge` adds the product to W_0 and zeroes what is masked, so that nothing is left beside
the model; `cut` then takes the zeroed groups out of the matrices. Differences: the authors' code masks the outputs
before those matrices, which is the same, and knows LLaMA with 32 heads only.
"""

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import _recorded as recorded


class Pruned(kit.Child):
    """At one linear map: its low-rank correction, if targeted, and the mask on its input, if it ends a block."""

    site: kit.Site

    def __init__(self, d_in: int, d_out: int, *, r: int, alpha: float, dropout: float):
        super().__init__()
        self.r = r                  # 0 where only a mask is wanted
        if r:
            self.A = nn.Parameter(torch.empty(r, d_in))
            self.B = nn.Parameter(torch.zeros(d_out, r))
            nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
            self.scale = alpha / r
        self.dropout = nn.Dropout(dropout)
        self.block: kit.Block | None = None
        self.kind = ""              # "heads" or "channels", the name of the mask
        self.ratio = 0.0
        self.importance: Tensor | float = 0.0               # of each group, a running average

    def mask(self) -> Tensor:
        """Of each entry of the input, (d_in,)."""
        groups = cast(Tensor, getattr(self, self.kind))     # (groups,)
        width = self.site.d_in // len(groups)
        return groups.repeat_interleave(width)              # neighbours form a group

    def before(self, x: Tensor) -> Tensor:
        return x * self.mask() if self.kind else x          # (..., d_in)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        if not self.r:
            return y
        low: Tensor = self.dropout(x) @ self.A.T            # (..., d_in) -> (..., r)
        return y + self.scale * (low @ self.B.T)            # (..., r) -> (..., d_out)

    def delta(self) -> Tensor | float:
        return self.scale * (self.B @ self.A) if self.r else 0.0            # (d_out, d_in)


@torch.no_grad()
def sensitivity(child: Pruned) -> Tensor:
    """Of every entry of the weight (d_out, d_in), from the gradients of A and B alone."""
    a, b, g_a, g_b = child.A, child.B, child.A.grad, child.B.grad
    assert g_a is not None
    assert g_b is not None
    step = g_b @ a + b @ g_a - g_b @ g_a                    # how B A changes in a gradient step of size one, negated
    corrected: Tensor = child.site.weight + child.delta()
    return (step * corrected).abs()


@torch.no_grad()
def observe(model: nn.Module) -> None:
    """Take the gradients of the factors into the running averages of the groups' importance."""
    pairs = {(site.path, site.role): child for site, child in kit.at_sites(model, "loraprune", Pruned) if child.r}
    for last in _lasts(model):
        assert last.block is not None
        groups, total = len(getattr(last, last.kind)), 0.0
        for role, site in last.block.sites.items():
            child = pairs.get((site.path, role))
            if child is not None:
                scores = sensitivity(child)
                by_group = (scores.T if site.path == last.site.path else scores).reshape(groups, -1).sum(1)
                total = total + by_group / by_group.norm().clamp(min=1e-8)              # (groups,)
        last.importance = 0.9 * last.importance + 0.1 * total


@torch.no_grad()
def prune(model: nn.Module, share: float) -> None:
    """Switch off this share of each block's groups, the least important ones; what is off stays off."""
    for last in _lasts(model):
        mask = getattr(last, last.kind)
        scores = torch.zeros(len(mask)).to(last.site.weight) + last.importance
        order = torch.argsort(scores.masked_fill(~mask, -1.0), stable=True)
        mask[order[: int(share * len(mask))]] = False


def schedule(step: int, *, total: int, ratio: float, warmup: float = 0.1, cooldown: float = 0.1) -> float:
    """The share at this step: none during the warm-up, then more by a cubic, at last `ratio`."""
    done = (step / total - warmup) / (1 - warmup - cooldown)
    return ratio * (1 - (1 - min(max(done, 0.0), 1.0)) ** 3)


def apply(
    model: nn.Module, *, r: int = 8, alpha: float = 16.0, dropout: float = 0.05, ratio: float = 0.5,
    targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the model, put a correction beside every targeted weight and masks in all but the outermost layers."""
    kit.freeze(model)
    wanted = {(site.path, site.role): r for site in kit.sites(model, targets)}
    ends: dict[str, kit.Block] = {}
    for block in (*kit.blocks(model, "attention"), *kit.blocks(model, "mlp")):
        if block.dims["n_layers"] // 10 <= block.layer < block.dims["n_layers"] - 1:
            ends[_end(block).path] = block
    for site in kit.sites(model, ("attn.*", "xattn.*", "mlp.*")):
        rank, block_here = wanted.get((site.path, site.role), 0), ends.get(site.path)
        if rank or block_here:
            child = Pruned(site.d_in, site.d_out, r=rank, alpha=alpha, dropout=dropout)
            if block_here:
                child.block, child.ratio = block_here, ratio
                child.kind = "heads" if block_here.kind == "attention" else "channels"
                groups = block_here.dims["n_kv_heads"] if child.kind == "heads" else site.d_in
                child.register_buffer(child.kind, torch.ones(groups, dtype=torch.bool))
            kit.attach(site, "loraprune", child)
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Observe recorded batches, prune, and run what is left; for the golden vectors."""
    for loss in recorded.losses(model, inputs):
        model.zero_grad()
        loss.backward()
        observe(model)
    prune(model, inputs["share"].item())
    shares = [schedule(step, total=100, ratio=0.5) for step in inputs["steps"].tolist()]
    found = {"output": model(input_ids=inputs["input_ids"][0]).logits, "schedule": torch.tensor(shares)}
    for last in _lasts(model):
        found |= {f"importance {last.kind}": last.importance, last.kind: last.get_buffer(last.kind)}
    return found


def finish(model: nn.Module) -> nn.Module:
    """Prune to the ratio that was asked for."""
    for ratio in {last.ratio for last in _lasts(model)}:
        prune(model, ratio)
    return model


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights, and zero what is masked."""
    for site, child in kit.at_sites(model, "loraprune", Pruned):
        site.weight.add_(child.delta())
        if child.kind:
            site.weight.mul_(child.mask())                  # columns
    kit.detach(model, "loraprune")
    return model


@torch.no_grad()
def cut(model: nn.Module) -> nn.Module:
    """Merge, and make the matrices smaller by what is masked. Raises ValueError where the model's code forbids it."""
    kept = [(last.block, last.mask(), last.kind) for last in _lasts(model)]
    for block, _, _ in kept:
        fused = any(not site.whole or site.transposed for site in block.sites.values())
        if fused or hasattr(block.module, "has_relative_attention_bias"):
            raise ValueError(f"{block.path}: heads that are fused or have biases of their own cannot be cut out")
    merge(model)
    for block, stays, kind in kept:
        end, n_kv = _end(block), block.dims["n_kv_heads"]
        for site in block.sites.values():
            rows = stays if kind == "channels" else stays.view(n_kv, -1)[:, :1].expand(-1, site.d_out // n_kv).flatten()
            _cut(site.module, stays if site is end else rows, columns=site is end)
    return model


def _cut(module: nn.Linear, stays: Tensor, *, columns: bool) -> None:
    module.weight.data = module.weight[:, stays] if columns else module.weight[stays]
    if module.bias is not None and not columns:
        module.bias.data = module.bias[stays]
    module.out_features, module.in_features = module.weight.shape


def _end(block: kit.Block) -> kit.Site:
    """The matrix that reads what the block's groups give."""
    return next(site for role, site in block.sites.items() if role.endswith((".o", ".down")))


def _lasts(model: nn.Module) -> list[Any]:
    return [child for _, child in kit.at_sites(model, "loraprune", Pruned) if child.kind]
