"""peftonomy: a knowledge base of parameter-efficient fine-tuning methods that is checked by running it.

    >>> import peftonomy as pf
    >>> kb = pf.load()
    >>> kb["lora"].cost("llama_2_7b", r=8, targets=["attn.q", "attn.v"]).trained
    4194304
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .public import *  # noqa: F403

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the public names when one of them is first used, so that the command line can start before them."""
    from importlib import import_module

    public = vars(import_module(f"{__name__}.public"))
    if name != "__all__" and name not in public["__all__"]:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals().update({key: public[key] for key in ("__all__", *public["__all__"])})
    return public[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})
