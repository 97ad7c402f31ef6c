"""S3Delta-M: sparse structure search over a mixed space (hu2022s3delta).

    h <- h + z Delta(h) for every candidate Delta,    z = sigmoid(logit(u) + logit(p)),  u uniform
    p = sigmoid(alpha - shift),    shift such that sum over candidates of p * size = budget

The candidates: LoRA of rank one (A, B) and a bias b at every targeted weight; an adapter with matrices of rank one
(u_1 v_1 and v_2 u_2, with biases c_1 and c_2) after the last linear layers of attention and feed-forward blocks; a
difference n to the parameters of every norm in the layers. Each candidate has a structure weight alpha.

1. During the search, all candidates are trained, and the alphas on other data than the rest. Every pass of the model
   draws the gates z anew. In evaluation z is p.
2. `select` keeps the candidates with the largest p that fit into the budget (the share `kept` of every tensor, rounded
   up and summed). It removes the other candidates, all alphas and all gates, and resets the kept ones to their start.
3. The kept candidates are trained again. They are stored, and they stay at inference.

As in the authors' code, p is scaled such that raising one p lowers the others. On T5 that code also has a bias after
every norm. Here a norm without a bias gets none.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu
from torch.nn.utils import parametrize

from . import _kit as kit

KINDS = {"lora": ("A", "B"), "bias": ("b",), "adapter": ("u_1", "v_1", "c_1", "v_2", "u_2", "c_2"), "norm": ("n",)}
"""The tensors of a candidate of each kind. The name of its structure weight is `a_<kind>`."""
SCALE = 16
"""The scale of LoRA candidates: the authors' alpha of 16 over a rank of one."""


class Candidates(kit.Child):
    """The candidates at one module."""

    def __init__(self) -> None:
        super().__init__()
        self.gates: dict[str, Tensor] = {}      # z by kind; empty after the search, when the factor is 1

    def kinds(self) -> list[str]:
        return [kind for kind, names in KINDS.items() if names[0] in self._parameters]

    def size(self, kind: str) -> int:
        return sum(getattr(self, name).numel() for name in KINDS[kind])

    def gate(self, kind: str) -> Tensor | float:
        return self.gates.get(kind, 1.0)

    def remove(self, *names: str) -> None:
        for name in names:
            delattr(self, name)

    def begin(self) -> None:
        """Add the structure weights and set every tensor to its start."""
        for kind in self.kinds():
            self.register_parameter(f"a_{kind}", nn.Parameter(torch.zeros(1)))
        self.reset()

    def end(self) -> None:
        """Remove the structure weights and the gates."""
        self.remove(*(name for name in list(self._parameters) if name.startswith("a_")))
        self.gates = {}

    @torch.no_grad()
    def reset(self) -> None:
        """Set every tensor to its start."""
        for name, p in self.named_parameters():
            if name == "A":
                nn.init.kaiming_uniform_(p, a=math.sqrt(5))
            elif name[0] in "uv":
                p.uniform_(-1, 1).mul_((12 / (p.numel() + 1)) ** 0.5)       # Glorot of a one-row matrix, gain sqrt(2)
            else:
                p.zero_()


class AtSite(Candidates):
    """LoRA and a bias at one linear layer. At the end of a block (`width` above 0) also an adapter."""

    def __init__(self, d_in: int, d_out: int, *, width: int):
        super().__init__()
        self.A, self.B = nn.Parameter(torch.empty(1, d_in)), nn.Parameter(torch.empty(d_out, 1))
        self.b = nn.Parameter(torch.empty(d_out))
        if width:
            self.u_1, self.v_1, self.c_1 = (nn.Parameter(torch.empty(n)) for n in (d_out, width, width))
            self.v_2, self.u_2, self.c_2 = (nn.Parameter(torch.empty(n)) for n in (width, d_out, d_out))
        self.begin()

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        kinds = self.kinds()
        if "lora" in kinds:
            y = y + self.gate("lora") * SCALE * (x @ self.A.T @ self.B.T)       # (..., d_in) -> (..., d_out)
        if "bias" in kinds:
            y = y + self.gate("bias") * self.b
        if "adapter" in kinds:
            low = (y @ self.u_1)[..., None] * self.v_1 + self.c_1       # (..., d_out) -> (..., width)
            low = gelu(low, approximate="tanh")
            y = y + self.gate("adapter") * ((low @ self.v_2)[..., None] * self.u_2 + self.c_2)  # (..., d_out)
        return y


class AtNorm(Candidates):
    """The difference to one parameter of a norm."""

    def __init__(self, numel: int):
        super().__init__()
        self.n = nn.Parameter(torch.empty(numel))
        self.begin()


class Moved(nn.Module):
    """A parametrisation: the norm's parameter is its pretrained value plus the difference."""

    candidate: AtNorm       # not a submodule

    def __init__(self, candidate: AtNorm):
        super().__init__()
        kit.share(self, candidate=candidate)

    def forward(self, value: Tensor) -> Tensor:
        change = self.candidate
        return value + change.gate("norm") * change.n if change.kinds() else value


class Search(kit.Child):
    """The share to keep, and a hook that sets all gates before every pass of the model."""

    def __init__(self, kept: float):
        super().__init__()
        self.kept = kept

    def draw(self, model: nn.Module, *_: object) -> None:
        if alphas(model):
            set_gates(model, torch.rand_like(sizes(model)) if self.training else None)


def apply(
    model: nn.Module, *, kept: float = 0.06, reduction: int = 32, targets: tuple[str, ...] = ("attn.*", "mlp.*")
) -> nn.Module:
    """Freeze the model and add all candidates."""
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


def modules(model: nn.Module) -> list[Candidates]:
    """Return the modules of the model that hold candidates."""
    return [child for child in kit.attached(model, "s3delta_m") if isinstance(child, Candidates)]


def candidates(model: nn.Module) -> list[tuple[Candidates, str]]:
    """Return every candidate: the module that owns it, and its kind."""
    return [(child, kind) for child in modules(model) for kind in child.kinds()]


def alphas(model: nn.Module) -> list[nn.Parameter]:
    """Return the structure weights, for an optimiser of their own. The list is empty after the search."""
    return [p for child in modules(model) for name, p in child.named_parameters() if name.startswith("a_")]


def sizes(model: nn.Module) -> Tensor:
    """Return how many parameters each candidate has."""
    return torch.tensor([float(child.size(kind)) for child, kind in candidates(model)]).to(alphas(model)[0])


def budget(model: nn.Module) -> int:
    """Return how many parameters may be kept: the share `kept` of every tensor, rounded up."""
    [search] = (child for child in kit.attached(model, "s3delta_m") if isinstance(child, Search))
    tensors = (getattr(child, name) for child, kind in candidates(model) for name in KINDS[kind])
    return sum(math.ceil(search.kept * tensor.numel()) for tensor in tensors)


def chances(model: nn.Module) -> Tensor:
    """Return p of every candidate: sigmoids, shifted such that the expected size is the budget."""
    a, n, most = torch.cat([*alphas(model)]), sizes(model), budget(model)
    low, high = float(a.detach().min()) - 40, float(a.detach().max()) + 40
    for _ in range(80):                                                     # bisection: the sum falls with the shift
        middle = (low + high) / 2
        low, high = (middle, high) if float((a.detach() - middle).sigmoid() @ n) > most else (low, middle)
    p = (a - low).sigmoid().clamp(1e-9, 1 - 1e-9)
    return p / p.sum() * p.sum().detach()                                   # raising one lowers the others


def set_gates(model: nn.Module, u: Tensor | None) -> None:
    """Set the gate z of every candidate from uniform numbers u, or to p without them."""
    p = chances(model)
    z = p if u is None else (u.clamp(1e-6, 1 - 1e-6).logit() + p.logit()).sigmoid()
    for (child, kind), gate in zip(candidates(model), z, strict=True):
        child.gates[kind] = gate


@torch.no_grad()
def winners(model: nn.Module) -> list[bool]:
    """Choose the candidates to keep: in the order of p, each that still fits into the budget."""
    size, left = sizes(model).tolist(), budget(model)
    kept = [False] * len(size)
    for i in chances(model).argsort(descending=True, stable=True).tolist():
        kept[i] = size[i] <= left
        left -= int(size[i]) * kept[i]
    return kept


def select(model: nn.Module, *, reset: bool = True) -> nn.Module:
    """End the search: remove all candidates except the winners, and reset these to their start."""
    for (child, kind), kept in zip(candidates(model), winners(model), strict=True):
        if not kept:
            child.remove(*KINDS[kind])
    for child in modules(model):
        child.end()
        if reset:
            child.reset()
    return model


def finish(model: nn.Module) -> nn.Module:
    """End the search if it is still running. The winners keep their trained values."""
    return select(model, reset=False) if alphas(model) else model


def pack(model: nn.Module) -> dict[str, Tensor]:
    """Return what one task stores: the winners, by name."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if "s3delta_m." in name}


@torch.no_grad()
def unpack(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """End the search and replace all candidates by the stored ones."""
    for path, child in list(model.named_modules()):
        if isinstance(child, Candidates):
            child.end()
            child.remove(*list(child._parameters))
            for name in (name for names in KINDS.values() for name in names):
                if f"{path}.{name}" in state:
                    child.register_parameter(name, nn.Parameter(state[f"{path}.{name}"].clone()))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the method alone on recorded inputs; for the golden vectors."""
    set_gates(model, inputs["u"] if model.training else None)
    return {
        "output": model.get_submodule("model")(inputs_embeds=inputs["x"]).last_hidden_state,     # past `Search.draw`
        "chances": chances(model),
        "gates": torch.stack([torch.as_tensor(child.gate(kind)) for child, kind in candidates(model)]),
        "kept": torch.tensor(winners(model)),
    }
