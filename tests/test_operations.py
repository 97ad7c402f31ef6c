"""Memory by lists of operations: against simulated steps of tiny models, to the byte, and of public ones."""

from __future__ import annotations

import csv
import random
import statistics
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

import peftonomy
from benchmarks import published
from peftonomy import DataError, UsageError
from peftonomy.memory.answer import remembered
from peftonomy.memory.program import compressed, padded
from peftonomy.memory.setting import Memory, Setting
from peftonomy.memory.step import Step
from peftonomy.schema.programs import parse
from peftonomy.site._memory import length
from tests.knowledge import KB
from tests.operations_kit import Case, predicted, tiny

from .grid import WHOLE

pytestmark = pytest.mark.slow

FAMILIES = sorted(name for name, family in KB.families.items() if family.operations is not None)
METHODS = sorted(
    name for name, method in KB.items()
    if all(part.entry.memory is not None and part.entry.memory.operations is not None for part in method.parts)
)  # fmt: skip
PLAIN = ("full_fine_tuning", "bitfit")
"""Methods that train parameters of the backbone only, and compute nothing of their own."""
HOMES = ("roberta", "llama", "t5")
SETTINGS: dict[str, dict[str, Any]] = {
    "eager": {"attention": "eager"}, "sdpa": {}, "checkpointing": {"checkpointing": True, "dtype": "bfloat16"},
    "mixed": {"dtype": "mixed", "attention": "eager"}, "one sequence": {"batch": 1},
}  # fmt: skip
EXCEPTIONS = {
    row["value"]: row["reason"]
    for row in published.read(published.TABLE.parent / "exceptions.tsv")
    if row["table"] == "operations" and row["column"] == "case"
}
"""Cases whose bytes differ from those of a simulated step (`METHOD FAMILY SETTING`, or `METHOD MODEL` of a public
model), each with the reason."""
PEAKS = {
    row["value"]: row["reason"]
    for row in published.read(published.TABLE.parent / "exceptions.tsv")
    if row["table"] == "operations" and row["column"] == "peak"
}
"""The same for cases of which only the peak differs."""
MEDIAN, WORST, TINY = 1e-4, 1e-2, 2e-2


def home(method: str) -> str:
    """The first of the homes on which a method finds something to act on."""
    for family in (*HOMES, "vit", "clip"):
        case = Case(family, method)
        try:
            KB[method].cost(case.model, **case.hyperparameters)
        except UsageError:
            continue
        return family
    raise AssertionError(method)


def settings(family: str) -> dict[str, dict[str, Any]]:
    """The settings in which steps of a family are simulated, by name."""
    operations = KB.families[family].operations
    assert operations is not None
    able = {name: s for name, s in SETTINGS.items() if operations.checkpointing or not s.get("checkpointing")}
    only = tiny(family).get("simulated_in")
    if only is None:
        return able
    return {name: {**given, "dtype": only} for name, given in able.items() if given.get("dtype") != "mixed"}


def cases() -> Iterator[tuple[str, str, str]]:
    """Every family with two methods, and every method on its home."""
    for family in FAMILIES:
        for setting in settings(family):
            yield family, "full_fine_tuning", setting
            yield family, "lora", setting
    for method in (*METHODS, *PLAIN):
        if method != "lora":
            for setting in ("eager", "checkpointing", "mixed"):
                yield home(method), method, setting


ELSEWHERE = 2
"""On so many further families each method has a step of its own, in any setting."""


def elsewhere() -> Iterator[tuple[str, str, str]]:
    """Every method on families that are drawn by its id; with GRID=whole, on all."""
    for method in METHODS:
        draw = random.Random(method)
        for family in draw.sample(FAMILIES, len(FAMILIES) if WHOLE else ELSEWHERE):
            yield family, method, draw.choice(sorted(settings(family)))


def chosen() -> list[tuple[str, str, str]]:
    """Choose a case for each family and for each method, and some of methods on other families than their home.

    With GRID=whole (`make grid`), all of them.
    """
    everything = sorted(set(cases()))
    if WHOLE:
        return sorted({*everything, *elsewhere()})
    drawn = random.Random("operations").sample(everything, len(everything))
    first: dict[str, tuple[str, str, str]] = {}
    for case in drawn:
        family, method, _ = case
        first.setdefault(family if method in ("full_fine_tuning", "lora") else method, case)
    return sorted({*first.values(), *elsewhere()})


@pytest.mark.torch
@pytest.mark.parametrize("setting", [
    {"batch": 3}, {"checkpointing": True}, {"targets": ("encoder_text:attn.q",)}, {"task": "image_cls"},
    {"config": {"text_config": {**tiny("clip")["text_config"], "hidden_act": "gelu", "attention_dropout": 0.1}},
     "attention": "eager"},
], ids=["batch", "checkpointing", "text", "image_cls", "text dropout"])  # fmt: skip
def test_two_towers_take_what_a_simulated_step_takes(setting: dict[str, Any]) -> None:
    case = Case("clip", "lora", **setting)
    ours, theirs = predicted(case), case.simulate()
    assert (ours.kept, ours.peak, ours.step_flops) == (theirs.kept, theirs.peak, theirs.step_flops)


@pytest.mark.torch
def test_what_is_added_beside_fused_experts_is_updated_in_the_order_of_the_model() -> None:
    """The update's peak depends on which tensor comes before the largest."""
    case = Case("mixtral", "llama_pro", dtype="bfloat16")
    ours, theirs = predicted(case), case.simulate()
    assert (ours.phase, ours.peak) == ("optimizer", theirs.peak)


@pytest.mark.torch
@pytest.mark.parametrize(("family", "method", "setting"), chosen())
def test_bytes_kept_are_those_of_a_simulated_step(family: str, method: str, setting: str) -> None:
    """A step on real tensors takes a fifth of the time. If it fails or differs, the simulated step decides."""
    case = Case(family, method, **settings(family)[setting])
    try:
        ours = predicted(case)
    except UsageError:
        with pytest.raises((UsageError, RuntimeError, TypeError, ValueError)):
            case.simulate()
        return
    if not ours.trained:
        pytest.skip("nothing is trained, so torch has no step")
    excepted = f"{method} {family} {setting}" in EXCEPTIONS
    try:
        real = None if excepted else case.run()
        if real is not None and agree(ours, real):
            return
        found = case.simulate()
    except UsageError as error:  # the model's weights lie so that the implementation cannot change them
        if not any(reason in str(error) for reason in ("no view shows them", "that can be taken hold of")):
            raise
        pytest.skip(str(error))
    except RuntimeError as error:  # the method's start is computed where torch has no such operation
        if not any(reason in str(error) for reason in ("Low precision", "expected a tensor with 2 or more dimensions")):
            raise
        pytest.skip(f"torch refuses to simulate it: {error}")
    assert (ours.kept == found.kept) != excepted, (ours.kept, found.kept)
    if f"{method} {family} {setting}" in PEAKS:
        assert not agree(ours, found)
        assert agree(replace(ours, temporaries=ours.temporaries + found.peak - ours.peak), found)
        return
    assert agree(ours, found, ("kept", "optimizer_states", "peak") if excepted else ()), (ours, found)


def agree(ours: Memory, step: Any, but: tuple[str, ...] = ()) -> bool:
    """Return True if a prediction has the bytes and operations of a step that was run. Peaks may differ a little."""
    same = ["kept", "trained", "optimizer_states"]
    if ours.setting.attention == "eager":
        same += ["forward_flops", "step_flops"]
    alike = all(getattr(ours, name) == getattr(step, name) for name in same if name not in but)
    return alike and ("peak" in but or ours.peak == pytest.approx(step.peak, rel=TINY))


def public() -> list[tuple[dict[str, str], Memory]]:
    """The simulated steps of public models that operations can be asked about, with what they say."""
    lines = (published.TABLE.parent / "simulated.tsv").read_text(encoding="utf-8").splitlines()
    found = []
    for row in csv.DictReader(lines, delimiter="\t"):
        known = row["method"] in METHODS or row["method"] in PLAIN
        if row["refused"] or not known or KB.models[row["model"]].family.model_type not in FAMILIES:
            continue
        targets = tuple(row["targets"].split(",")) if row["targets"] else None
        plan = KB[row["method"]].plan(row["model"], task=row["task"], targets=targets)
        setting = Setting(
            int(row["batch"]), length(row), row["dtype"], row["optimizer"], row["checkpointing"] == "True",
            row["attends"],
        )  # fmt: skip
        found.append((row, remembered(KB, plan, {}, setting)))
    return found


def test_peaks_of_public_models_are_the_simulated() -> None:
    errors = []
    for row, memory in public():
        error = abs(memory.peak / int(row["peak"]) - 1)
        listed = f"{row['method']} {row['model']}" in EXCEPTIONS
        assert (error <= WORST) != listed, (row, memory.peak)
        errors += [] if listed else [error]
    assert len(errors) >= 50
    assert statistics.median(errors) <= MEDIAN


def test_operations_of_public_models_are_those_counted() -> None:
    for row, memory in public():
        if row["attends"] == "eager" and row["forward_flops"]:
            assert memory.forward_flops == int(row["forward_flops"]), row
            assert memory.step_flops == int(row["step_flops"]), row


def test_parameters_in_float32_take_four_bytes_in_every_type() -> None:
    case = Case("glm4_moe", "full_fine_tuning", dtype="bfloat16")
    asked, memory = case.asked(), predicted(case)
    routers = sum(m.numel for m in asked.inventory.modules if m.role == "moe.router")
    buffers = int(asked.model.operations.buffers(asked.model.config))
    assert routers > 0
    assert memory.weights == 2 * asked.inventory.total + 2 * routers + buffers
    step = Step(asked.program, asked.flags())
    step.run()
    tensors = sum(t.number for t in asked.ledger(step).backbone)
    assert memory.optimizer_states == 2 * memory.weights - 2 * buffers + 4 * tensors


def test_a_tensor_more_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken twin: with all that is kept counted twice, every family is off."""
    right = {family: predicted(Case(family, "lora")).kept for family in FAMILIES}
    keep = Step._keep

    def twice(self: Step, rule: Any, inputs: Any, numbers: Any, outputs: Any) -> None:
        keep(self, rule, inputs, numbers, outputs)
        if self.recording and self.tape.records:
            self.tape.records[-1].kept.append(self.tape.new(8))  # type: ignore[union-attr]

    monkeypatch.setattr(Step, "_keep", twice)
    assert all(predicted(Case(family, "lora")).kept > right[family] for family in FAMILIES)


def test_a_weight_that_is_made_anew_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """QLoRA keeps what LoRA at its rank and places keeps; the backward pass makes each weight again."""
    from peftonomy.memory.machine import SPECIAL

    targets = ("attn.q", "mlp.up")
    lora, qlora = (Case("roberta", name, targets=targets, hyperparameters={"r": 3}) for name in ("rslora", "qlora"))
    kept, weights = predicted(lora).kept, Case("roberta", "qlora").model["hidden_size"] ** 2 * 4
    assert predicted(qlora).kept == kept
    monkeypatch.setitem(SPECIAL, "anew", lambda machine, x: machine.tape.hold(x))
    assert predicted(qlora).kept > kept + weights


# The language


@pytest.mark.parametrize(
    ("head", "body", "message"),
    [
        ("f x", "", "no line; at least one was expected"),
        ("F-x", "same x", "a name and the names"),
        ("f x", "y = mm x ]", "in 'y = mm x ]': formula"),
        ("f x", "y[1, 2] = mm x", "found 2 sizes; expected 3"),
        ("f x", "1y = mm x", "found '1y'; expected a name"),
    ],
)
def test_a_line_that_makes_no_sense(head: str, body: str, message: str) -> None:
    with pytest.raises(ValueError, match="function") as caught:
        parse(head, body)
    assert message in str(caught.value)


def test_a_line_is_read() -> None:
    (line,) = parse("f x W", "a > 0 and b: y[a0, 1, 2*r] = mm x .A? attn.q 2*r   # why").lines
    assert (line.targets, line.kind) == (("y",), "mm")
    assert line.condition is not None
    assert line.condition.source == "a > 0 and b"
    assert [str(a) for a in line.arguments[:3]] == ["x", ".A?", "attn.q"]
    assert line.shape is not None
    assert [size.source for size in line.shape] == ["a0", "1", "2*r"]


@pytest.mark.parametrize(
    ("keys", "groups"),
    [
        ("a", [([0], 0)]),
        ("aaa", [([0], 0), ([1], 0), ([2], 0)]),
        ("aaaaaa", [([0], 0), ([1], 3), ([5], 0)]),
        ("xabababab", [([0], 0), ([1, 2], 0), ([3, 4], 1), ([7, 8], 0)]),
    ],
)
def test_layers_that_are_alike_are_counted(keys: str, groups: list[tuple[list[int], int]]) -> None:
    assert compressed(keys) == groups
    assert sum(len(numbers) * (1 + more) for numbers, more in groups) == len(keys)


@pytest.mark.parametrize(
    ("family", "method"), [*((family, "lora") for family in FAMILIES), ("deberta-v2", "bitfit"), ("deberta", "bitfit")]
)
def test_counted_layers_are_as_run(family: str, method: str) -> None:
    """Bytes kept and operations of a step are the same whether every layer is run or alike ones only count."""
    asked = Case(family, method).asked()
    found = []
    for whole in (False, True):
        step = Step(asked.program, asked.flags(whole))
        loss = step.run()
        kept = step.tape.now
        step.back(loss)
        found.append((kept, step.tape.peak, step.tape.flops, step.tape.now))
    assert found[0] == found[1]


def test_a_condition_of_a_method_over_layers_is_as_run() -> None:
    """LoRAPrune leaves out the first tenth of all layers, and the last one."""
    asked = Case("llama", "loraprune", config={"num_hidden_layers": 30}).asked()
    found = []
    for whole in (False, True):
        step = Step(asked.program, asked.flags(whole))
        step.back(step.run())
        found.append((step.tape.peak, step.tape.flops))
    assert found[0] == found[1]
    assert [numbers for numbers, _ in step.program.sequence("decoder", step.every["decoder"])][:3] == [[0], [1], [2]]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_name_of_the_family_does_not_hide_a_hyperparameter(checkpointing: bool) -> None:
    """BART's layers have a variable `r`, as BERT's have none: PVeRA's rank is its own in both."""
    kept = [
        predicted(Case("bart", "pvera", checkpointing=checkpointing, hyperparameters={"r": r})).forward_flops
        for r in (2, 3, 4)
    ]
    assert kept[2] - kept[1] == kept[1] - kept[0] > 0


@pytest.mark.torch
@pytest.mark.parametrize("setting", ["eager", "checkpointing", "mixed"])
def test_a_prompt_of_an_encoder_and_a_decoder_is_as_simulated(setting: str) -> None:
    """With checkpoints, T5's peak is where its table of relative positions is made again."""
    case = Case("t5", "prompt_tuning", **(SETTINGS[setting] | {"checkpointing": True}))
    assert predicted(case).peak == pytest.approx(case.simulate().peak, rel=WORST)


def test_a_type_that_torch_lacks_is_refused() -> None:
    with pytest.raises(UsageError, match="c3a needs rfft, which torch lacks for bfloat16; expected float32 or mixed"):
        predicted(Case("roberta", "c3a", dtype="bfloat16"))
    assert predicted(Case("roberta", "c3a", dtype="mixed")).kept


def test_what_a_method_does_to_gradients_is_run() -> None:
    """OSF projects the gradients of two of its tensors, which takes products and a moment's memory."""
    asked = Case("roberta", "osf", attention="eager").asked()
    plain = Case("roberta", "osf", attention="eager").asked()
    for hooks in plain.program.hooks.values():
        for hook in hooks:
            hook.functions = {name: f for name, f in hook.functions.items() if not name.startswith("gradient_")}
    with_, without = asked.memory(), plain.memory()
    assert with_.step_flops > without.step_flops
    assert with_.kept == without.kept


def test_a_part_of_sizes_may_call_functions_of_several_arguments() -> None:
    line = parse("f x", "y[1, max(a1, r), ceil(min(a1, 4)/r)] = view x").lines[0]
    assert line.shape is not None
    assert [size({"a1": 3, "r": 2}) for size in line.shape] == [1, 3, 2]


def test_the_first_that_is_there() -> None:
    """LoKr's second factor is a matrix, or a product of two where the rank is small: (6, 1) and (1, 6) at ten sites."""
    small, large = (
        predicted(Case("roberta", "lokr", attention="eager", hyperparameters={"r": r})).forward_flops for r in (1, 20)
    )
    assert small - large == 10 * 2 * 6 * 1 * 6


@pytest.mark.parametrize("family", ["electra", "xlm-roberta"])
def test_a_module_may_share_one_parameter_and_own_another(family: str) -> None:
    model = Case(family, "lora", task="causal_lm").asked().model
    head, table = (model.module("", -1, role) for role in ("head.lm", "embed.token"))
    assert head is not None
    assert table is not None
    assert model.owner(head) is model.owner(table)
    assert model.owner(head, "bias") is head


def test_what_no_operation_reads_has_no_states() -> None:
    kept, gone = (
        predicted(Case("dinov2", "full_fine_tuning", config={"use_mask_token": mask})) for mask in (True, False)
    )
    assert kept.trained - gone.trained == 24
    assert kept.optimizer_states == gone.optimizer_states


def test_tables_are_as_wide_as_the_model() -> None:
    """BART adds a table of a number for each word to what it predicts."""
    one, two = (predicted(Case("bart", "full_fine_tuning", dtype=dtype)) for dtype in ("float32", "bfloat16"))
    assert (one.weights - 4 * one.trained, two.weights - 2 * two.trained) == (4 * 61, 2 * 61)


def test_some_parameters_are_always_in_float32() -> None:
    one, two = (predicted(Case("deepseek_v2", "full_fine_tuning", dtype=dtype)) for dtype in ("float32", "bfloat16"))
    router = 6 * 6 * 24
    assert 2 * two.weights - one.weights == 4 * router + 8 * 2  # and so are the frequencies, two buffers of two
    assert 2 * two.optimizer_states - one.optimizer_states > 2 * 4 * router


def test_sizes_are_three() -> None:
    assert [padded(shape) for shape in [(), (2,), (2, 3), (2, 3, 5, 7)]] == [(1, 1, 1), (1, 1, 2), (1, 2, 3), (6, 5, 7)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("y = mmm x", "unknown operation mmm; did you mean mm?"),
        ("y = mm x attn.qq", "unknown name attn.qq; did you mean attn.q"),
        ("hidden_sise > 1: y = mm x attn.q", "unknown name 'hidden_sise'"),
        ("y = dropout x", "found 0 numbers; expected 1: p"),
        ("y z = mm x attn.q", "found 1 results; expected 2"),
        ("y = mm x .A", "no tensor .A here"),
        ("y[a0, a1, a2] = gelu_new x", "sizes for the function gelu_new; expected sizes for operations only"),
    ],
)
def test_a_mistake_in_operations_is_one_line(line: str, message: str) -> None:
    asked = Case("llama", "lora").asked()
    asked.model.functions["mlp"] = parse("mlp x", line)
    with pytest.raises(DataError) as caught:
        Step(asked.program, asked.flags()).run()
    assert message in str(caught.value)
    assert "operations of llama" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", ["bloom", "deberta", "deberta-v2", "falcon", "gpt_neo", "mpt"])
def test_nothing_is_put_into_attention_without_the_interface(family: str) -> None:
    reason = r"adds keys, values or terms to attention, and that of .* does not go through the interface"
    with pytest.raises(UsageError, match=reason):
        predicted(Case(family, "prefix_tuning"))
    assert predicted(Case(family, "lora")).kept


@pytest.mark.torch
@pytest.mark.parametrize(
    ("family", "method", "setting"),
    [
        ("albert", "loreft", {}),  # a layer runs several times, and what is around it too
        ("vit", "attempt", {}),  # images have positions, and no tokens
        ("vit", "invertible_adapter", {}),
        ("swin", "llama_adapter", {}),  # attention sees more windows than inputs
        ("gpt_neo", "pfeiffer_adapter", {}),  # each layer puts aside what the next one replaces
        ("deberta", "prompt_tuning", {}),  # relative positions of a prompt too
        ("deberta-v2", "pals", {}),  # the queries' weight is used twice
        ("bert", "x_lora", {"checkpointing": True}),  # gradients to what was put aside before the layers
        ("t5", "coda", {}),  # a mask of each input
        ("opt", "lst", {}),  # the model calls its inner stack alone
    ],
)
def test_what_a_method_meets_on_a_family_is_counted(family: str, method: str, setting: dict[str, Any]) -> None:
    case = Case(family, method, **setting)
    ours, found = predicted(case), case.run()
    assert (ours.kept, ours.trained, ours.optimizer_states) == (found.kept, found.trained, found.optimizer_states)


def test_who_says_nothing_is_refused() -> None:
    kb = peftonomy.load()
    vars(kb.families["llama"])["operations"] = None
    plan = kb["full_fine_tuning"].plan("llama_2_7b", task=None)
    with pytest.raises(UsageError, match="does not say yet which operations"):
        remembered(kb, plan, {}, Setting(1, 8))


def test_a_tensor_that_is_several_parameters_is_updated_as_several() -> None:
    """SparseAdapter declares its two matrices as one tensor: AdamW counts the steps of each."""
    case = Case("roberta", "sparseadapter", targets=("mlp.down",), hyperparameters={"bottleneck": 7})
    asked = case.asked()
    step = Step(asked.program, asked.flags())
    step.run()
    d = case.model["hidden_size"]
    assert [[(7, d), (d, 7)]] == [several for several in asked.parts(step).values() if len(several[0]) == 2]


def test_a_method_without_targets_acts_on_modules_of_its_roles() -> None:
    asked = Case("gpt2", "parallel_adapter").asked()
    names = {path.rpartition(".")[2] for _, path in asked.program.hooks}
    assert names == {"c_fc", "c_proj"}


def test_a_layer_takes_one_copy_of_a_tensor() -> None:
    """Lily shares a first factor among `stride_A` layers: each of its copies gets a gradient, and no more."""
    asked = Case("roberta", "lily", targets=("attn.q",), hyperparameters={"stride_A": 2}).asked()
    step = Step(asked.program, asked.flags())
    step.back(step.run())
    copies = {key[1] for key in step.tape.arrived if key[0][1] == "A"}
    assert copies == {0, 1, 2}


def test_a_function_is_given_the_gradient_of_an_intermediate() -> None:
    """IncreLoRA makes its correction once more when the gradient of it arrives."""
    asked, plain = (Case("roberta", "increlora", attention="eager").asked() for _ in range(2))
    for hooks in plain.program.hooks.values():
        for hook in hooks:
            hook.functions = {**hook.functions, "scored": parse("scored g", "same g")}
    with_, without = asked.memory(), plain.memory()
    assert with_.step_flops > without.step_flops
    assert with_.kept == without.kept


def test_a_pass_without_the_method_keeps_nothing() -> None:
    """X-LoRA runs the whole model before; it keeps only the states that its router reads."""
    asked = Case("llama", "x_lora", attention="eager").asked()
    step = Step(asked.program, asked.flags())
    flops, states = step.tape.flops, step.unadapted(None, 1)
    assert step.tape.flops > flops
    assert step.tape.now == sum(state.bytes for state in states)
    assert not step.tape.records


def test_a_graph_that_nothing_reads_is_let_go() -> None:
    """A checkpoint of LST's backbone keeps nothing, since the side network takes its states without a gradient."""
    kept = [predicted(Case("t5", "lst", checkpointing=checkpointing)).kept for checkpointing in (False, True)]
    assert kept[0] == kept[1]
    asked = Case("t5", "lst", checkpointing=True).asked()
    step = Step(asked.program, asked.flags())
    loss = step.run()
    left = step.tape.now
    assert step.tape.only([loss])
    assert step.tape.now == left
    step.tape.only([])
    assert step.tape.now < left


def test_what_a_layer_was_given_may_be_put_aside_in_a_checkpoint() -> None:
    """The queries of RoBERTa read what their layer was given."""
    plain, shared = (Case("roberta", "pfeiffer_adapter", checkpointing=True).asked() for _ in range(2))
    ((stack, path),) = shared.program.hooks
    hooks = shared.program.hooks[stack, path]
    query = path.replace("output.LayerNorm", "attention.self.query")
    put_aside = replace(hooks[0], name="before", function=parse("before x", "share s x\nsame x"))
    shared.program.hooks[stack, query] = [put_aside]
    assert shared.memory().step_flops == plain.memory().step_flops
    assert shared.memory().kept == plain.memory().kept


def test_layers_that_count_let_go_of_what_they_lose() -> None:
    """Of twenty layers most are counted: they keep as little as if each had been run."""
    asked = Case("llama", "lst", checkpointing=True, config={"num_hidden_layers": 20},
                 hyperparameters={"drop_every": 0}).asked()  # fmt: skip
    found = []
    for whole in (False, True):
        step = Step(asked.program, asked.flags(whole))
        loss = step.run()
        kept = step.tape.now
        step.back(loss)
        found.append((kept, step.tape.peak, step.tape.flops))
    assert found[0] == found[1]


def test_a_shadow_is_the_model_with_fewer_layers() -> None:
    """ShadowPEFT runs the first layers with parameters of its own; each layer more trains and computes as much."""
    one, two, three = (
        predicted(Case("llama", "shadow_peft", attention="eager", hyperparameters={"shadow_layers": n}))
        for n in (1, 2, 3)
    )
    assert three.trained - two.trained == two.trained - one.trained > 0
    assert three.forward_flops - two.forward_flops == two.forward_flops - one.forward_flops > 0


def test_chunks_are_those_of_the_prompt_and_its_input() -> None:
    """Qwen3-Next pads its states to chunks of 64. A prompt of 20 and 44 tokens fill one chunk; 45 tokens need two."""
    one, full, two = (
        predicted(Case("qwen3_next", "prompt_tuning", seq=seq, hyperparameters={"prompt_length": 20})).kept
        for seq in (43, 44, 45)
    )
    assert two - full > 10 * (full - one) > 0


def test_a_tensor_without_a_gradient_has_no_states() -> None:
    """The loss does not read WARP's answers, so that PyTorch gives its class vectors no gradient."""
    memory = predicted(Case("llama", "warp", hyperparameters={"prompt_length": 3}))
    d_model = Case("llama", "warp").model["hidden_size"]
    assert memory.trained == 3 * d_model + 2 * (d_model + 1)
    assert memory.optimizer_states == 2 * 4 * 3 * d_model + 4


def test_hyperparameters_hide_names_of_the_model() -> None:
    """A function of CLIP has a variable `r`, which PVeRA's rank is not."""
    assert predicted(Case("clip", "pvera", attention="eager")).kept


def test_a_part_that_lies_apart_is_refused() -> None:
    with pytest.raises(UsageError, match="outputs lie apart, head by head"):
        predicted(Case("bloom", "para"))


def run_with(case: Case, head: str, body: str) -> None:
    """Run a step in which each function of the method is this one."""
    asked = case.asked()
    for hooks in asked.program.hooks.values():
        for hook in hooks:
            hook.function = parse(head, body)
    Step(asked.program, asked.flags()).run()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("w = part A 0 r d_in", "found no such part; expected a tensor of the method's own, a number and sizes"),
        ("w = part .A 0", "found 2 arguments; expected 4 to 5"),
        ("w = part .C 0 r d_in", "no tensor .C here"),
    ],
)
def test_a_part_that_makes_no_sense(line: str, message: str) -> None:
    with pytest.raises((UsageError, ValueError), match=message):
        run_with(Case("llama", "lora"), "after x y", line)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("w = nth .g_last 2", "found copy 2; expected one of 2, from 0"),
        ("w = nth .xattn.W_q 0", "no tensor .xattn.W_q here"),
        ("w = doubled boddy 1", "found no function boddy"),
    ],
)
def test_a_word_of_a_method_that_makes_no_sense(line: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run_with(Case("t5", "lst"), "before x", line)


def test_a_layer_runs_again_only_at_a_layer() -> None:
    with pytest.raises(UsageError, match="found no layer here; expected a function that acts at the layers"):
        run_with(Case("vit", "ssf", task="image_cls"), "after x y", "another x .gain")


def test_a_copy_of_a_layer_costs_a_layer() -> None:
    """Each copy of LLaMA Pro computes, keeps and trains as much as the layer that it copies."""
    plain, one, two = (
        predicted(Case("llama", "llama_pro", hyperparameters={"every": every}, config={"num_hidden_layers": layers}))
        for every, layers in ((5, 5), (4, 5), (2, 5))
    )
    deeper = predicted(Case("llama", "llama_pro", hyperparameters={"every": 6}, config={"num_hidden_layers": 6}))
    assert deeper.forward_flops - plain.forward_flops == two.forward_flops - one.forward_flops > 0
    assert two.trained == 2 * one.trained == 2 * plain.trained
    assert two.kept > one.kept
