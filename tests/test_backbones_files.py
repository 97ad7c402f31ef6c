"""Files of families and models: every problem with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftonomy.backbones.backbone import load_model
from peftonomy.errors import DataError
from peftonomy.schema.family import load_family, load_roles

from .backbones_kit import DATA, FAMILIES

pytestmark = pytest.mark.torch


# Files of the catalogue.


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_all_problems_of_a_family_file_are_reported_at_their_lines(tmp_path: Path) -> None:
    text = (DATA / "families" / "gpt2.yaml").read_text(encoding="utf-8")
    for old, new in [
        ("model_type: gpt2", "model_type: gpt3"),
        ('default: "4 * n_embd"', 'default: "4 * n_emb"'),
        ('d_kv: "n_embd"', 'width: "n_embd"'),
        ("tied_to: wte", "tied_to: wte_token"),
        ('when: "add_cross_attention"', 'when: "add_cross_attn"'),
    ]:
        assert old in text
        text = text.replace(old, new)
    path = written(tmp_path, "gpt2.yaml", text)
    with pytest.raises(DataError) as caught:
        load_family(path, "families/gpt2.yaml")
    lines = str(caught.value).splitlines()
    assert len(lines) == 4 + 4
    for words in ("model_type: found gpt3", "n_inner.default: found 4 * n_emb", "dims: found no d_kv"):
        assert sum(words in line for line in lines) == 1
    assert all(line.startswith("families/gpt2.yaml:") for line in lines)
    assert sum("did you mean add_cross_attention?" in line for line in lines) == 4
    number = 1 + text[: text.index("tied_to: wte_token")].count("\n")
    assert any(line.startswith(f"families/gpt2.yaml:{number}: modules[3].tied_to") for line in lines)


def test_unknown_fields_and_kinds_of_a_family_file(tmp_path: Path) -> None:
    text = (DATA / "families" / "vit.yaml").read_text(encoding="utf-8")
    text = text.replace("kind: conv,", "kind: conv3d,").replace("default_task:", "colour: red\ndefault_task:")
    with pytest.raises(DataError) as caught:
        load_family(written(tmp_path, "vit.yaml", text))
    assert len(caught.value.problems) == 2
    assert {p.line for p in caught.value.problems} == {
        1 + text[: text.index(word)].count("\n") for word in ("colour: red", "kind: conv3d")
    }


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("family: bert", "family: bret", 3, "family: found 'bret'; expected a family that .*did you mean bert"),
        ("family: bert", "family: mamba", 3, "family: found 'mamba'; expected a family that is described here"),
        ("hidden_size: 768", "hidden_size: 770", 7, "found hidden_size = 770, num_attention_heads = 12; expected"),
        ("vocab_size: 30522", "vocab_size: many", 8, "config.vocab_size: found 'many'; expected a whole number"),
        ("id: bert_base", "id: bert", 1, "id: found bert; expected the file's stem, bert_base"),
        ("checked: config", "checked: maybe", 6, "checked: found 'maybe'"),
    ],
)
def test_problems_of_a_model_file_have_their_line(old: str, new: str, line: int, message: str, tmp_path: Path) -> None:
    text = (DATA / "models" / "bert_base.yaml").read_text(encoding="utf-8")
    assert old in text
    path = written(tmp_path, "bert_base.yaml", text.replace(old, new))
    with pytest.raises(DataError, match=message) as caught:
        load_model(path, families=FAMILIES, name="bert_base.yaml")
    assert str(caught.value).startswith(f"bert_base.yaml:{line}: ")


def test_roles_are_explained_in_sentences(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"roles\.yaml:2: attn\.k: found 'keys'; expected a sentence"):
        load_roles(written(tmp_path, "roles.yaml", "attn.q: Makes queries.\nattn.k: keys\n"), "roles.yaml")
