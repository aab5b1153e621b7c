"""The README under test: its Python runs, its commands parse, its files are there."""

import json
import re
import shlex
from pathlib import Path

import pytest

from model.card_sections import LABELS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.S)
PYTHON = [text for kind, text in BLOCKS if kind == "python" and not text.startswith("# needs the app")]


@pytest.mark.parametrize("block", PYTHON, ids=range(len(PYTHON)))
def test_python_block_runs(block, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_there_are_python_blocks():
    assert len(PYTHON) == 2


def test_there_is_one_command_that_tests():
    """`.ci/run` reads it from there."""
    assert len(re.findall(r"^pip install .*pytest.*$", README, re.M)) == 1


def commands(prefix: str) -> list[list[str]]:
    lines = "\n".join(text for kind, text in BLOCKS if kind == "bash").splitlines()
    return [shlex.split(line, comments=True)[3:] for line in lines if line.startswith(prefix)]


def test_command_lines_parse():
    from qformer_viz.cli.dispatch import parser

    found = commands("python -m qformer_viz ")
    assert {parser().parse_args(words).command for words in found} == {
        "caption",
        "ask",
        "explain",
        "faithfulness",
        "bottleneck",
        "inside",
        "compare",
        "doctor",
        "fidelity",
        "checkpoints",
    }


def test_options_and_environment_variables_exist():
    from app import parser

    help_text = parser().format_help()
    rows = re.findall(r"^\| `(--\w+)[^|]*\| `(\w+)` \|", README, re.M)
    assert len(rows) >= 6
    for option, variable in rows:
        assert option in help_text
        assert variable in help_text


def rows(heading: str) -> dict[str, list[str]]:
    """The cells of the table below a heading, by the first of each row."""
    section = README.split(f"## {heading}\n")[1].split("\n## ")[0]
    found = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return {first.strip(): [cell.strip() for cell in cells] for first, *cells in found[2:]}


def read(name: str) -> dict:
    return json.loads((ROOT / "assets/blip2-emoji" / name).read_text(encoding="utf-8"))


def test_the_table_of_truth_is_what_was_measured():
    found, shown = read("faithfulness.json"), rows("Are the maps true?")
    assert len(shown) >= 15 and f"\n{found['cases']} words that fall" in README
    for title, cells in shown.items():
        one = found["summary"][title]
        measures = ("pointing", "deletion", "insertion", "redrawn")
        assert cells == ["{:.3f} ({:.2f} to {:.2f})".format(*one[measure]) for measure in measures], title


def test_the_table_of_bits_is_what_was_measured():
    found, shown = read("bottleneck.json"), rows("What passes the queries")
    assert list(shown) == list(LABELS.values()) and f"over {found['images']} scenes" in README
    for name, title in LABELS.items():
        patches, queries = (found[side]["attention"][name] for side in ("patches", "queries"))
        told = [f"{one['bits']:.2f} ({one['low']:.2f} to {one['high']:.2f})" for one in (patches, queries)]
        assert shown[title] == [f"{patches['entropy']:.2f}", *told], title


def test_what_is_inside_is_what_was_measured():
    found, shown = read("inside.json"), rows("Inside the Q-Former")
    assert found["cross_layers"] == [0, 2, 4] and f"over {found['images']} scenes" in README
    for question, one in found["asked"].items():
        lost = (one["head"], one["unheard"], one["apart"], one["cross"][-1])
        cells = ["{:.2f} ({:.2f} to {:.2f})".format(*each) for each in lost]
        follow = [f"{share:.0%}" for share in (one["follows_talk"], *one["follows_cross"])]
        name = f"“{question}”" if question else "the caption"
        answer = f"the answer to {name}" if question else "the caption itself"
        assert (shown[name], shown[answer]) == (cells, follow), name


def test_linked_files_exist():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_front_matter_agrees_with_the_pins():
    version = re.search(r"^sdk_version: (\S+)$", README, re.M)[1]
    assert f"gradio=={version}\n" in (ROOT / "requirements.txt").read_text()
