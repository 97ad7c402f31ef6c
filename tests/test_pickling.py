"""What crosses from one process to another: errors, answers, and the knowledge base itself."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from collections.abc import Iterator

import pytest

import peftonomy
from peftonomy import (
    ConfigError,
    Cost,
    DataError,
    FormulaError,
    KnowledgeBase,
    PeftonomyError,
    Problem,
    UnknownName,
    UsageError,
)
from peftonomy.patterns import SlowPatternError

PROBLEM = Problem("methods/lora.yaml", 3, "year", "soon", "a whole number", "", "schema")
EXAMPLES: dict[type[PeftonomyError], PeftonomyError] = {
    PeftonomyError: PeftonomyError("what went wrong"),
    DataError: DataError([PROBLEM, Problem("a.yaml", 1, "", "nothing", "something")]),
    FormulaError: FormulaError("r +", 4, "it ends too soon"),
    ConfigError: ConfigError("config.json", "hidden_size", -1, "a whole number", "as in every model"),
    UsageError: UsageError("what makes no sense"),
    SlowPatternError: SlowPatternError("(a+)+"),
    UnknownName: UnknownName("method", "lroa", ["lora", "dora"], "of these"),
}


def every(kind: type[PeftonomyError]) -> Iterator[type[PeftonomyError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from every(child)


@pytest.mark.parametrize("kind", [*every(PeftonomyError)])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_error_of_ours_can_be_pickled(kind: type[PeftonomyError], protocol: int) -> None:
    error = EXAMPLES[kind]
    assert type(error) is kind
    for again in (pickle.loads(pickle.dumps(error, protocol)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is kind
        assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))
        assert again.exit_code == error.exit_code


def asked(method: str) -> Cost:
    return peftonomy.load()[method].cost("bert_base")


def test_a_pool_passes_errors_and_answers_on() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pending = pool.map_async(asked, ["lora", "lroa"])
        with pytest.raises(UnknownName, match="unknown method 'lroa'; did you mean") as caught:
            pending.get(timeout=60)  # it would wait for ever
        cost = pool.apply_async(asked, ["lora"]).get(timeout=60)
    assert (caught.value.kind, caught.value.name) == ("method", "lroa")
    assert cost.to_dict() == asked("lora").to_dict()


def test_a_knowledge_base_and_its_methods_can_be_pickled(kb: KnowledgeBase) -> None:
    again = pickle.loads(pickle.dumps(kb))
    assert (again.root, [*again]) == (kb.root, [*kb])
    method = pickle.loads(pickle.dumps(kb["lora"]))
    assert method.kb.root == kb.root
    assert method.cost("bert_base") == kb["lora"].cost("bert_base")
