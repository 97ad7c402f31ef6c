"""S3Delta-M: sparse structure search over a mixed space (hu2022s3delta).

    h <- h + z Delta(h) for every candidate Delta,    z = sigmoid(logit(u) + logit(p)),  u uniform
    p = sigmoid(alpha - shift),    shift such that sum over candidates of p * size = budget

Candidates: at every targeted weight LoRA of rank one (A, B) and a bias b; behind the last maps of attention and
feed-forward an adapter with matrices of rank one (u_1 v_1, v_2 u_2 and biases c_1, c_2); at every norm of the layers a
difference n to its parameters. Each has one structure weight alpha. Trained while searching: all of them, alphas on
other data than the rest. `select` then takes candidates by p, largest first, as long as they fit into the budget (the
share `kept` of every tensor, rounded up and summed), drops the others and puts the winners back to their start; they
are trained again. Stored and served: the winners.

In evaluation z is p. As in the authors' code the p are scaled so that raising one lowers the others. On T5 that code
also has a bias behind every norm; here norms that have no bias get none.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu
from torch.nn.utils import parametrize

from . import _kit as kit

KINDS = {"lora": ("A", "B"), "bias": ("b",), "adapter": ("u_1", "v_1", "c_1", "v_2", "u_2", "c_2"), "norm": ("n",)}
"""The tensors of a candidate of each kind; its structure weight is `a_<kind>`."""
SCALE = 16
"""The factor of the LoRA candidates: the authors' alpha of 16 over a rank of one."""


class Candidates(kit.Child):
    """The candidates at one place. `z`: their gates, by kind, while the search lasts."""

    def __init__(self) -> None:
        super().__init__()
        self.z: dict[str, Tensor] = {}

    def kinds(self) -> list[str]:
        return [kind for kind, names in KINDS.items() if names[0] in self._parameters]

    def size(self, kind: str) -> int:
        return sum(getattr(self, name).numel() for name in KINDS[kind])

    def gate(self, kind: str) -> Tensor | float:
        return self.z.get(kind, 1.0)

    def drop(self, *names: str) -> None:
        for name in names:
            delattr(self, name)

    def add_alphas(self) -> None:
        for kind in self.kinds():
            self.register_parameter(f"a_{kind}", nn.Parameter(torch.zeros(1)))

    @torch.no_grad()
    def reset(self) -> None:
        """Put every tensor to its start."""
        for name, p in self.named_parameters():
            if name == "A":
                nn.init.kaiming_uniform_(p, a=math.sqrt(5))
            elif name[0] in "uv":
                p.uniform_(-1, 1).mul_((12 / (p.numel() + 1)) ** 0.5)       # Glorot of a one-row matrix, gain sqrt(2)
            else:
                p.zero_()


class AtSite(Candidates):
    """LoRA, bias and, behind a block, low-rank adapter at one linear map."""

    def __init__(self, d_in: int, d_out: int, *, width: int):
        super().__init__()
        self.A, self.B = nn.Parameter(torch.empty(1, d_in)), nn.Parameter(torch.empty(d_out, 1))
        self.b = nn.Parameter(torch.empty(d_out))
        if width:
            self.u_1, self.v_1, self.c_1 = (nn.Parameter(torch.empty(n)) for n in (d_out, width, width))
            self.v_2, self.u_2, self.c_2 = (nn.Parameter(torch.empty(n)) for n in (width, d_out, d_out))
        self.add_alphas()
        self.reset()

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        if hasattr(self, "A"):
            y = y + self.gate("lora") * SCALE * (x @ self.A.T @ self.B.T)       # (..., d_in) -> (..., d_out)
        if hasattr(self, "b"):
            y = y + self.gate("bias") * self.b
        if hasattr(self, "u_1"):
            low = (y @ self.u_1)[..., None] * self.v_1 + self.c_1       # (..., d_out) -> (..., width)
            low = gelu(low, approximate="tanh")
            y = y + self.gate("adapter") * ((low @ self.v_2)[..., None] * self.u_2 + self.c_2)  # (..., d_out)
        return y


class AtNorm(Candidates):
    """The difference to one parameter of a norm."""

    def __init__(self, numel: int):
        super().__init__()
        self.n = nn.Parameter(torch.zeros(numel))
        self.add_alphas()


class Moved(nn.Module):
    """A parametrisation: a norm's parameter is its pretrained value and the difference."""

    candidate: AtNorm       # not a submodule

    def __init__(self, candidate: AtNorm):
        super().__init__()
        kit.share(self, candidate=candidate)

    def forward(self, value: Tensor) -> Tensor:
        change = self.candidate
        return value + change.gate("norm") * change.n if hasattr(change, "n") else value


class Search(kit.Child):
    """Draws the gates of all candidates before every pass of the model."""

    def __init__(self, kept: float):
        super().__init__()
        self.kept, self.searching = kept, True

    def draw(self, model: nn.Module, *_: object) -> None:
        if self.searching:
            set_gates(model, torch.rand_like(chances(model)) if self.training else None)


def apply(
    model: nn.Module, *, kept: float = 0.06, reduction: int = 32, targets: tuple[str, ...] = ("attn.*", "mlp.*")
) -> nn.Module:
    """Freeze the model and hang every candidate into it, each with a gate."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        width = site.d_out // reduction if site.role in ("attn.o", "mlp.down") else 0
        kit.attach(site, "s3delta_m", AtSite(site.d_in, site.d_out, width=width))
    for weight in kit.weights(model):
        if weight.role in ("norm.attn", "norm.xattn", "norm.mlp", "norm.final") and weight.pretrained:
            path, _, suffix = weight.name.rpartition(".")
            norm, child = model.get_submodule(path), AtNorm(weight.value.numel())
            kit.attach(norm, f"s3delta_m.{suffix}", child)
            parametrize.register_parametrization(norm, suffix, Moved(child), unsafe=True)
    search = Search(kept)
    kit.attach(model, "s3delta_m", search).append(model.register_forward_pre_hook(search.draw))
    return model


def set_gates(model: nn.Module, u: Tensor | None) -> None:
    """Set every gate z from uniform numbers u; without them z is p."""
    p = chances(model)
    z = p if u is None else (u.clamp(1e-6, 1 - 1e-6).logit() + p.logit()).sigmoid()
    for (child, kind), gate in zip(candidates(model), z, strict=True):
        child.z[kind] = gate


def candidates(model: nn.Module) -> Iterator[tuple[Candidates, str]]:
    """Every candidate of the search: the module that holds it, and its kind."""
    for child in kit.attached(model, "s3delta_m"):
        if isinstance(child, Candidates):
            yield from ((child, kind) for kind in child.kinds())


def alphas(model: nn.Module) -> list[nn.Parameter]:
    """The structure weights, for an optimiser of their own."""
    return [getattr(child, f"a_{kind}") for child, kind in candidates(model)]


def sizes(model: nn.Module) -> Tensor:
    """How many numbers each candidate has."""
    return torch.tensor([float(child.size(kind)) for child, kind in candidates(model)]).to(alphas(model)[0])


def budget(model: nn.Module) -> int:
    """How many numbers may be chosen: the share `kept` of every tensor, rounded up."""
    [search] = (child for child in kit.attached(model, "s3delta_m") if isinstance(child, Search))
    tensors = (getattr(child, name) for child, kind in candidates(model) for name in KINDS[kind])
    return sum(math.ceil(search.kept * tensor.numel()) for tensor in tensors)


def chances(model: nn.Module) -> Tensor:
    """p of every candidate: sigmoids shifted so that the expected size is the budget."""
    a, n, most = torch.cat([*alphas(model)]), sizes(model), budget(model)
    low, high = float(a.detach().min()) - 40, float(a.detach().max()) + 40
    for _ in range(80):                                                     # bisection: the sum falls with the shift
        middle = (low + high) / 2
        low, high = (middle, high) if float((a.detach() - middle).sigmoid() @ n) > most else (low, middle)
    p = (a - low).sigmoid().clamp(1e-9, 1 - 1e-9)
    return p / p.sum() * p.sum().detach()                                   # raising one lowers the others


@torch.no_grad()
def winners(model: nn.Module) -> list[bool]:
    """Choose the candidates to keep: the likeliest that fit into the budget."""
    size, left = sizes(model).tolist(), budget(model)
    kept = [False] * len(size)
    for i in chances(model).argsort(descending=True, stable=True).tolist():
        kept[i] = size[i] <= left
        left -= int(size[i]) * kept[i]
    return kept


@torch.no_grad()
def select(model: nn.Module, *, reset: bool = True) -> nn.Module:
    """End the search: keep the winners, without gates, and drop the rest."""
    for (child, kind), kept in zip(list(candidates(model)), winners(model), strict=True):
        if not kept:
            child.drop(*KINDS[kind])
    _close(model)
    for child in dict.fromkeys(child for child, _ in candidates(model)) if reset else ():
        child.reset()
    return model


def finish(model: nn.Module) -> nn.Module:
    """Select, if that has not been done, and leave the winners as they are trained."""
    return select(model, reset=False) if _searching(model) else model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the method alone on recorded inputs; for the golden vectors."""
    [search] = (child for child in kit.attached(model, "s3delta_m") if isinstance(child, Search))
    search.searching = False                                                # the gates come from recorded noise
    set_gates(model, inputs["u"] if model.training else None)
    return {
        "output": model.get_submodule("model")(inputs_embeds=inputs["x"]).last_hidden_state,
        "chances": chances(model),
        "gates": torch.stack([torch.as_tensor(child.gate(kind)) for child, kind in candidates(model)]),
        "kept": torch.tensor(winners(model)),
    }


def pack(model: nn.Module) -> dict[str, Tensor]:
    """What one task stores: the winners, by name."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if "s3delta_m." in name}


@torch.no_grad()
def unpack(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """Take one task's winners in place of all that is there."""
    if _searching(model):
        _close(model)
    for path, child in list(model.named_modules()):
        if isinstance(child, Candidates):
            child.drop(*child._parameters)
            for name in (name for names in KINDS.values() for name in names):
                if f"{path}.{name}" in state:
                    child.register_parameter(name, nn.Parameter(state[f"{path}.{name}"].clone()))
    return model


def _searching(model: nn.Module) -> bool:
    return any(child.searching for child in kit.attached(model, "s3delta_m") if isinstance(child, Search))


def _close(model: nn.Module) -> None:
    """No gates any more, and no structure weights."""
    for child in kit.attached(model, "s3delta_m"):
        if isinstance(child, Search):
            child.searching = False
        if isinstance(child, Candidates):
            child.z = {}
            child.drop(*(name for name in list(child._parameters) if name.startswith("a_")))
