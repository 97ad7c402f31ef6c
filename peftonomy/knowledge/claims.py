"""Recompute numbers printed in papers to the printed digits.

A claim is reproduced if our value, rounded (or truncated) at the last printed digit, equals the printed number. There
is no other tolerance.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import ROUND_DOWN, ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal, localcontext
from typing import TYPE_CHECKING, Any

from ..formula import MAX_BITS
from ..schema.claims import Claim, ClaimPart, Share

if TYPE_CHECKING:
    from ..catalogue.records import MethodRecord
    from ..costs.cost import Cost

__all__ = ["QUANTITIES", "Verdict", "judge", "share"]

QUANTITIES = (
    "trained", "stored", "stored_bits", "stored_bytes", "shared", "served", "served_bits", "head", "backbone",
    "percent", "base_bytes",
)  # fmt: skip
"""The names that the quantity of a claim may use."""
ADDED = ("trained", "stored", "stored_bits", "stored_bytes", "shared", "served", "percent")
"""The quantities that add up over several methods on one model."""
PRINTED = re.compile(r"(?P<digits>(\d{1,3}(,\d{3})+|\d+)(\.\d+)?)\s*(?P<unit>[KMBGT]?)\s*(?P<percent>%?)\Z")
UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of recomputing a claim: our `value` (in the quantity's own unit), the printed text, and the agreement.

    agreement: `rounded`, `truncated` (the printed digits are ours truncated) or `differs`.
    """

    claim: Claim
    value: Decimal
    agreement: str

    @property
    def agrees(self) -> bool:
        """True if our value reproduces the printed digits."""
        return self.agreement != "differs"

    @property
    def consistent(self) -> bool:
        """True if the entry declares no verdict, or if recomputing gives the declared one."""
        stated = self.claim.verdict
        return stated in (None, "unverifiable") or self.agrees == (stated in ("reproduced", "convention"))

    @property
    def shown(self) -> str:
        """Our value for readers: whole numbers with separators, others to four digits."""
        return f"{int(self.value):,}" if self.value == int(self.value) else f"{float(self.value):.4g}"


def printed(text: str) -> tuple[Decimal, Decimal] | None:
    """Return a printed number and the size of its last digit, or None if the text is not such a number.

    >>> printed("37.7M")
    (Decimal('37700000.0'), Decimal('100000.0'))
    """
    match = PRINTED.match(text.strip())
    if match is None:
        return None
    digits = match["digits"].replace(",", "")
    decimals = len(digits.partition(".")[2])
    unit = UNITS[match["unit"]]
    return Decimal(digits) * unit, Decimal(1).scaleb(-decimals) * unit


def judge(method: MethodRecord, claim: Claim) -> Verdict:
    """Recompute one claim. Raises UsageError for an invalid setting, FormulaError for a quantity without a value."""
    counted = claim.quantity(_known(method, claim))
    found = printed(claim.reported)
    assert found is not None, claim.reported
    target, digit = found
    with localcontext(prec=MAX_BITS):  # a formula's value has fewer digits
        value = Decimal(str(+counted))  # the sign makes a number of a truth value
        scaled = value / digit
        if any(scaled.quantize(Decimal(1), mode) * digit == target for mode in (ROUND_HALF_UP, ROUND_HALF_EVEN)):
            return Verdict(claim, value, "rounded")
        truncated = scaled.quantize(Decimal(1), ROUND_DOWN) * digit == target
        return Verdict(claim, value, "truncated" if truncated else "differs")


def share(method: MethodRecord, found: Share) -> float:
    """Compute a share. Raises UsageError for an invalid setting."""
    assert found.quantity is not None
    known = _known(method, found)
    if found.beside is not None:
        other = _known(method, found.model_copy(update={"parts": [found.beside]}))
        known |= {f"other_{name}": other[name] for name in QUANTITIES}
    return float(found.quantity(known))


def _known(method: MethodRecord, claim: Claim | Share) -> dict[str, Any]:
    """Return the dimensions of the claim's model and the sums of the counted ledgers."""
    assert claim.model is not None
    parts = claim.parts or [
        ClaimPart(method=method.id, set=claim.set, targets=claim.targets, target_modules=claim.target_modules)
    ]
    known: dict[str, Any] = {}
    for part in parts:
        plan = method.kb[part.method].plan(
            claim.model,
            targets=part.targets,
            target_modules=part.target_modules,
            task=claim.task,
            num_labels=claim.num_labels,
        )
        counted = quantities(plan.cost(part.set))
        known = plan.common | counted | {n: known.get(n, 0) + part.times * counted[n] for n in ADDED}
    return known


def quantities(cost: Cost) -> dict[str, Any]:
    """Return the values of the names that a claim's quantity may use."""
    return {name: getattr(cost, name) for name in QUANTITIES}
