"""Tasks: every class that `transformers` has for a described family is there, by its own name, or is refused."""

from __future__ import annotations

from typing import Any

import pytest
from transformers.models.auto import modeling_auto as auto

from peftonomy import ConfigError, UnknownName, UsageError
from peftonomy.schema.names import LABELLED, TASKS

from .backbones_kit import FAMILIES, LABELS, TINY, built
from .cli_kit import Run
from .knowledge import KB
from .peft_counts import Counts, counts, wrapped

pytestmark = pytest.mark.torch
CLASSES = {
    "seq_cls": auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "masked_lm": auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "token_cls": auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    "question_ans": auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    "multiple_choice": auto.MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES,
    "zero_shot_image_cls": auto.MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    "image_cls": auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    "audio_cls": auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES,
}


@pytest.mark.parametrize("task", CLASSES)
def test_every_class_of_a_task_is_described(task: str) -> None:
    """`tests/test_backbones.py` compares the parameters of each."""
    theirs = {name: found for name, found in CLASSES[task].items() if name in FAMILIES}
    ours = {name: family.tasks[task].class_ for name, family in FAMILIES.items() if task in family.tasks}
    assert ours == {name: found if isinstance(found, str) else found[0] for name, found in theirs.items()}


def test_every_task_has_a_meaning_and_a_family() -> None:
    assert {task for family in FAMILIES.values() for task in family.tasks} == set(TASKS)
    assert set(LABELLED) < set(TASKS)


@pytest.mark.parametrize(("model", "task"), [("vit_base", "image_cls"), ("whisper_base", "audio_cls")])
def test_images_and_sounds_are_classified_by_their_own_names(model: str, task: str) -> None:
    backbone = KB.backbone(model)
    assert backbone.inventory(task, 5).task == backbone.inventory("seq_cls", 5).task == task
    assert KB["lora"].cost(model, task=task, num_labels=5).to_dict() == KB["lora"].cost(
        model, task="seq_cls", num_labels=5
    ).to_dict()
    with pytest.raises(UnknownName, match=f"unknown task '{task}' for bert_base"):
        KB.backbone("bert_base").inventory(task)


def test_labels_that_are_texts() -> None:
    """Each label is a text: it takes tokens, activations and operations, and no parameter of a head."""
    backbone = KB.backbone("clip_vit_b_16")
    found = [backbone.inventory("zero_shot_image_cls", n) for n in (2, 9)]
    assert [(i.head, i.total, i.dims["n_labels"]) for i in found] == [(0, 149_620_737, 2), (0, 149_620_737, 9)]
    assert backbone.inventory("none").dims["n_labels"] == 0
    few, many = (KB["lora"].on(backbone, num_labels=n).memory(batch=1, seq=77) for n in (2, 9))
    assert many.kept - few.kept >= 7 * 77 * 16
    assert many.forward_flops > 1.8 * few.forward_flops


@pytest.mark.parametrize(("targets", "modules"), [
    (["encoder_text:attn.q"], 12), (["encoder_vision:attn.q"], 12), (["attn.q"], 24), (["head.text"], 1),
    (["head.image"], 1),
])  # fmt: skip
def test_methods_name_the_tower(targets: list[str], modules: int) -> None:
    assert sum(site.count for site in KB.backbone("clip_vit_b_16").inventory().resolve_roles(targets)) == modules


def test_a_class_that_takes_one_number_of_labels() -> None:
    backbone = KB.backbone("distilbert_base")
    assert backbone.inventory("question_ans").head == 768 * 2 + 2
    message = "num_labels: found 3; expected 2, the only number that DistilBertForQuestionAnswering takes"
    with pytest.raises(UsageError, match=message):
        backbone.inventory("question_ans", 3)


@pytest.mark.parametrize("task", ["masked_lm", "token_cls", "question_ans", "multiple_choice"])
def test_memory_is_refused_where_the_computation_is_not_described(task: str) -> None:
    with pytest.raises(UsageError, match=f"memory: task {task} of BERT has no operations; expected causal_lm"):
        KB["lora"].on("bert_base", task=task).memory(batch=1, seq=8)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("model_type", "word", "task"), [
    ("bert", "TOKEN_CLS", "token_cls"), ("bert", "QUESTION_ANS", "question_ans"), ("roberta", "TOKEN_CLS", "token_cls"),
    ("llama", "TOKEN_CLS", "token_cls"), ("llama", "QUESTION_ANS", "question_ans"), ("t5", "TOKEN_CLS", "token_cls"),
])  # fmt: skip
def test_task_types_of_peft(model_type: str, word: str, task: str) -> None:
    """The head that peft trains in full is counted too, as peft counts it."""
    names = {"bert": ["query"], "roberta": ["query"], "llama": ["q_proj"], "t5": ["q"]}[model_type]
    config: dict[str, Any] = {"peft_type": "LORA", "r": 2, "target_modules": names, "task_type": word}
    model = built(FAMILIES[model_type], task, TINY[model_type])
    found = KB.adapter(config, TINY[model_type] | {"model_type": model_type}, num_labels=LABELS)
    assert found.plan.inventory.task == task
    reported = found.reported
    assert Counts(reported.trained, reported.total, reported.stored) == counts(wrapped(model, config))


@pytest.mark.filterwarnings("ignore")
def test_all_linear_selects_a_head_that_peft_trains_in_full() -> None:
    config = {"peft_type": "LORA", "target_modules": "all-linear", "task_type": "TOKEN_CLS"}
    with pytest.raises(ConfigError, match="expected names: PEFT fails, because all-linear selects classifier"):
        KB.adapter(config, TINY["bert"] | {"model_type": "bert"})
    with pytest.raises(TypeError, match="modules_to_save cannot be applied"):
        wrapped(built(FAMILIES["bert"], "token_cls", TINY["bert"]), config)


def test_a_task_type_that_the_model_lacks() -> None:
    config = {"peft_type": "LORA", "target_modules": ["q_proj"], "task_type": "TOKEN_CLS"}
    with pytest.raises(ConfigError, match="task_type: found TOKEN_CLS; expected a task of opt: none, causal_lm"):
        KB.adapter(config, TINY["opt"] | {"model_type": "opt"})


def test_on_the_command_line(run: Run) -> None:
    result = run("cost lora --model bert_base --task token_cls --num-labels 9")
    assert (result.code, result.out.split("\n")[0]) == (0, "lora on bert_base, task token_cls")
    assert "6,921" in result.out
    wrong = run("cost lora --model bert_base --task token_clas")
    assert (wrong.code, "token_cls" in wrong.err) == (2, True)
