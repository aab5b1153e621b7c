"""README and docs/ under test: their Python runs, their commands parse, their files are there, their figures are those
that were measured."""

import importlib.util
import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest

import model.__main__ as recipe_commands
from model.card_sections import LABELS
from qformer_viz import METHODS
from qformer_viz.cli.commands.app_command import app_parser
from qformer_viz.cli.dispatch import parser
from qformer_viz.version import __version__

ROOT = Path(__file__).parents[2]
PATHS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PATHS}
BLOCKS = [
    (name, kind, block)
    for name, text in TEXTS.items()
    for kind, block in re.findall(r"^```(\w+)\n(.*?)^```", text, re.S | re.M)
]
PYTHON = {
    name: [
        block
        for document, kind, block in BLOCKS
        if (document, kind) == (name, "python")
        and not block.startswith(("# needs the app", "# qformer_viz/"))
    ]
    for name in TEXTS
}
BENCHMARKS, FINDINGS, README = (
    TEXTS[name] for name in ("docs/benchmarks.md", "docs/findings.md", "README.md")
)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, blocks in PYTHON.items() if blocks])
def test_python_runs(name, monkeypatch, capsys):
    """The blocks of a document, one after another as a reader would run them; each prints something."""
    monkeypatch.chdir(ROOT)
    namespace = {}
    for block in PYTHON[name]:
        exec(compile(block, name, "exec"), namespace)
        assert capsys.readouterr().out.strip(), block


def test_there_are_python_blocks():
    assert len(PYTHON["README.md"]) == 1 and len(PYTHON["docs/library.md"]) == 3


RECIPES = [block for _, kind, block in BLOCKS if kind == "python" and block.startswith("# qformer_viz/")]
RECORDS = {
    "qformer_viz/attribution/methods": ("METHOD", "Method"),
    "qformer_viz/cli/commands": ("COMMAND", "Command"),
    "qformer_viz/evaluation/metrics": ("METRIC", "Metric"),
    "qformer_viz/runtime/families": ("FAMILY", "Family"),
    "qformer_viz/ui/exports": ("EXPORT", "Export"),
    "qformer_viz/ui/inspector": ("VIEW", "InspectorView"),
}
"""What a registry finds in the files of a folder: the name of the record, and its class."""


@pytest.mark.slow  # the first one imports Gradio
@pytest.mark.parametrize("block", RECIPES, ids=[block.splitlines()[0] for block in RECIPES])
def test_a_recipe_is_a_file_that_a_registry_finds(block):
    path = Path(block.splitlines()[0].removeprefix("# "))
    name, kind = RECORDS[path.parent.as_posix()]
    assert not (ROOT / path).exists()
    namespace = {}
    exec(compile(block, path.as_posix(), "exec"), namespace)
    assert type(namespace[name]).__name__ == kind


def test_every_registry_has_a_recipe():
    folders = [Path(block.splitlines()[0].removeprefix("# ")).parent.as_posix() for block in RECIPES]
    assert sorted(folders) == sorted(RECORDS)


@pytest.mark.slow  # imports Gradio
def test_the_views_are_those_of_the_page():
    from qformer_viz.ui.inspector import inspector_views

    titles = {view.title for view in inspector_views()}
    described = re.findall(r"^\| ([A-Z]\w+(?: \w+)*)[^|]* \|", TEXTS["docs/views.md"], re.M)
    assert len(described) == len(set(described)) and set(described) == titles - {"About"}
    table = README.split("## I want to ...\n")[1].split("\n## ")[0]
    named = {line.split("|")[2].strip() for line in table.splitlines()[3:] if line.startswith("|")}
    assert named - {"", "all of them", "canvas, contact sheet", "chat"} == set(described)


def test_the_methods_are_those_of_the_library():
    named = re.findall(r"^\| `(\w+)` \| \[\w+\.py\]\((\S+)\)", TEXTS["docs/methods.md"], re.M)
    assert [name for name, _ in named] and {name for name, _ in named} == set(METHODS)
    for name, link in named:
        assert METHODS[name].compute.__module__.endswith(f".methods.{Path(link).stem}"), name


def test_there_is_one_command_that_tests():
    """`.ci/run` reads it from there."""
    assert len(re.findall(r"^pip install .*pytest.*$", README, re.M)) == 1


def commands(prefix: str) -> list[list[str]]:
    """The arguments of every command with a beginning, in blocks and in prose."""
    lines = [line for _, kind, block in BLOCKS if kind == "bash" for line in block.splitlines()]
    prose = [
        code
        for text in TEXTS.values()
        for code in re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    ]
    found = [part.strip() for line in lines + prose for part in line.split("&&")]
    return [
        shlex.split(line.removeprefix(prefix), comments=True) for line in found if line.startswith(prefix)
    ]


def without_placeholders(words: list[str]) -> list[str]:
    return [] if any(word in ("NAME", "CHECKPOINT", "--help", "--version") for word in words) else words


def test_commands_of_the_library_parse_and_all_are_named():
    words = list(filter(None, map(without_placeholders, commands("python -m qformer_viz "))))
    # In prose a command may stand without its arguments.
    whole = [each for each in words if len(each) > 1 or each[0] not in ("caption", "ask", "explain")]
    assert len(whole) > 10
    found = {parser().parse_args(each).command for each in whole}
    assert found == set(current_commands())


def current_commands() -> list[str]:
    """Those that the parser lists; old names that it still takes are not listed."""
    listed = re.findall(r"^    ([a-z][\w-]*)", parser().format_help(), re.M)
    assert len(listed) > 8
    return listed


def test_the_table_of_wishes_names_commands_that_exist():
    section = README.split("## I want to ...\n")[1].split("\n## ")[0]
    cells = [line.strip("|").split("|")[-1] for line in section.splitlines() if line.startswith("| ")]
    assert {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)} == set(current_commands())


def test_commands_of_the_recipe_parse():
    words = list(filter(None, map(without_placeholders, commands("python -m model "))))
    assert len(words) >= 4
    for each in words:
        recipe_commands.parser().parse_args(each)


def test_commands_of_the_app_parse():
    words = commands("python app.py")
    assert len(words) >= 3
    for each in words:
        app_parser().parse_args(each)


def test_extras_are_those_of_the_package():
    given = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    section = TEXTS["docs/library.md"].split("| extra | brings |\n")[1].split("\n\n")[0]
    table = {name for line in section.splitlines() for name in re.findall(r"`([\w-]+)`", line.split("|")[1])}
    assert table == set(given)
    named = {
        name
        for text in TEXTS.values()
        for each in re.findall(r"\.\[([\w,-]+)\]\"", text)
        for name in each.split(",")
    }
    assert named and named <= set(given)


def test_modules_of_the_tests_exist():
    found = {words[0] for words in commands("python -m tests.")}
    assert len(found) >= 6
    for name in found:
        assert importlib.util.find_spec(f"tests.{name}"), name


def test_options_and_environment_variables_exist():
    help_text = app_parser().format_help()
    rows = re.findall(r"^\| `(--\w+)[^|]*\| `(\w+)`", TEXTS["docs/deployment.md"], re.M)
    assert len(rows) >= 9
    for option, variable in rows:
        assert option in help_text
        assert variable in help_text


def rows(heading: str) -> dict[str, list[str]]:
    """The cells of the tables below a heading of the benchmarks, by the first of each row."""
    section = BENCHMARKS.split(f"## {heading}\n")[1].split("\n## ")[0]
    found = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return {first.strip(): [cell.strip() for cell in cells] for first, *cells in found[2:]}


def read(name: str) -> dict:
    return json.loads((ROOT / "assets/blip2-emoji" / name).read_text(encoding="utf-8"))


def test_the_table_of_truth_is_what_was_measured():
    found, shown = read("faithfulness.json"), rows("Are the maps true?")
    assert len(shown) >= 15 and f"\n{found['cases']} words that fall" in BENCHMARKS
    for title, cells in shown.items():
        one = found["summary"][title]
        measures = ("pointing", "deletion", "insertion", "redrawn")
        assert cells == ["{:.3f} ({:.2f} to {:.2f})".format(*one[measure]) for measure in measures], title


def test_the_table_of_bits_is_what_was_measured():
    found, shown = read("bottleneck.json"), rows("What passes the queries")
    assert list(shown) == list(LABELS.values()) and f"over {found['images']} scenes" in BENCHMARKS
    for name, title in LABELS.items():
        patches, queries = (found[side]["attention"][name] for side in ("patches", "queries"))
        bits = [f"{one['bits']:.2f} ({one['low']:.2f} to {one['high']:.2f})" for one in (patches, queries)]
        assert shown[title] == [f"{patches['entropy']:.2f}", *bits], title


def test_what_is_inside_is_what_was_measured():
    found, shown = read("inside.json"), rows("Inside the Q-Former")
    assert found["cross_layers"] == [0, 2, 4] and f"over {found['images']} scenes" in BENCHMARKS
    for question, one in found["asked"].items():
        losses = (one["head"], one["unheard"], one["apart"], one["cross"][-1])
        cells = ["{:.2f} ({:.2f} to {:.2f})".format(*each) for each in losses]
        follow = [f"{share:.0%}" for share in (one["follows_talk"], *one["follows_cross"])]
        name = f"“{question}”" if question else "the caption"
        answer = f"the answer to {name}" if question else "the caption itself"
        assert (shown[name], shown[answer]) == (cells, follow), name


def test_what_was_found_is_what_was_measured():
    """The figures of README's three lines, and the same ones in the findings."""
    truth, bits, inside = read("faithfulness.json"), read("bottleneck.json"), read("inside.json")
    pointing = {title: f"{one['pointing'][0]:.3f}" for title, one in truth["summary"].items()}
    sentences = re.sub(r"\s+", " ", README.split("## What was found\n")[1].split("\n## ")[0])
    last = truth_layer(truth["summary"])
    assert (
        f"for a share of {pointing[f'Query knock-out, layer {last}']} of {truth['cases']} words" in sentences
    )
    assert f"raw attention for {pointing[f'Raw attention, layer {last}']}" in sentences
    nouns, background = (bits["queries"]["attention"][name] for name in ("nouns", "background"))
    assert f"keep {nouns['bits']:.2f} of {nouns['entropy']:.2f} bits" in sentences
    assert f"and {background['bits']:.2f} of {background['entropy']:.2f} bits" in sentences
    caption, count = inside["asked"][""], inside["asked"]["how many objects are there?"]
    assert f"loses {caption['head'][0]:.2f} nats" in sentences
    assert f"it loses {caption['cross'][-1][0]:.2f}" in sentences
    findings = re.sub(r"\s+", " ", FINDINGS)
    for expected in (
        f"{pointing[f'Query knock-out, layer {last}']} of {truth['cases']} words",
        f"reach {pointing['Integrated gradients']} and RISE {pointing['RISE']}",
        f"in the object for a share of {pointing[f'Raw attention, layer {last}']} of the words",
        f"Of {nouns['entropy']:.2f} bits of which nouns are there, probes read {nouns['bits']:.2f} off the 32 queries "
        f"and {bits['patches']['attention']['nouns']['bits']:.2f} off the 257 patches",
        f"the count loses {count['apart'][0]:.2f} nats",
        f"in {count['follows_talk']:.0%} of pairs",
        f"does so in {count['follows_cross'][-1]:.0%}",
    ):
        assert expected in findings, expected


def truth_layer(summary: dict) -> str:
    """The last cross-attention layer that the benchmark names."""
    return max(re.findall(r"layer (\d+)$", "\n".join(summary), re.M), key=int)


@pytest.mark.parametrize("name", TEXTS)
def test_linked_files_exist(name):
    links = re.findall(r"\]\(([^)#\s]+)\)|\]\(([^)#\s]+)#", TEXTS[name])
    inside = [link for pair in links for link in pair if link and "://" not in link]
    assert [link for link in inside if not (ROOT / name).parent.joinpath(link).resolve().exists()] == []


def test_documents_link_to_files_at_all():
    assert all("](" in text for text in (README, BENCHMARKS, TEXTS["CONTRIBUTING.md"]))


def test_the_map_of_the_house_names_every_package():
    named = re.findall(r"^\| `qformer_viz\.(\w+)` \|", TEXTS["CONTRIBUTING.md"], re.M)
    packages = {path.parent.name for path in (ROOT / "qformer_viz").glob("*/__init__.py")}
    assert len(named) == len(set(named)) and set(named) == packages


def test_readme_is_short():
    assert len(README.splitlines()) <= 160


def test_front_matter_agrees_with_the_pins():
    version = re.search(r"^sdk_version: (\S+)$", README, re.M)[1]
    assert f"gradio=={version}\n" in (ROOT / "requirements.txt").read_text()


def test_citations_and_changelog_name_the_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {__version__}\n" in citation and f"version = {{{__version__}}}" in README
    newest, date = re.search(
        r"^## (\S+) \((\S+)\)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M
    ).groups()
    assert newest == __version__ and f"\ndate-released: {date}\n" in citation
