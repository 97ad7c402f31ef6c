"""A fuzzer: seeded hostile inputs, and what must not happen on any of them.

    python -m tests.fuzz                        20,000 cases for each of three seeds, in minutes
    python -m tests.fuzz --cases 2000 --group config --seed 7
    python -m tests.fuzz config:7:123           one case again

A case is named by its group, seed and number, and depends on nothing else. A problem is: a traceback, an exit code
other than 0, 1, 2 (and 130 for Ctrl-C), a message that is not one short line, output beside an error, a command of more
than `LIMIT` seconds of processor time, a partly written output, a page that fails, or an answer that differs from an
independent one.
"""

from . import addresses, agreement, calls, configs, kit, lines, processes, trees
from .kit import Case, Problems, World
from .kit import run_case as run_case

__all__ = ["GROUPS", "Case", "Problems", "World", "kit", "run_case"]

GROUPS: dict[str, kit.Generate] = {
    "command": lines.command_line, "config": configs.config, "adapter": configs.adapter, "entry": trees.entry,
    "text": trees.plain_text, "python": calls.python, "assistant": calls.tool, "site": trees.site,
    "agreement": agreement.agreement, "address": addresses.address, "process": processes.process,
}  # fmt: skip
