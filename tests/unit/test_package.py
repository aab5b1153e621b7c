"""What `pip install` puts into somebody else's environment works there, without the repository."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
USE = """
import qformer_viz
from qformer_viz.asset_folder import ASSETS

pipe = qformer_viz.load("blip2-emoji", observe=qformer_viz.capture)
encoded = pipe.encode(ASSETS / "examples" / "cat-and-dog.png")
answer = pipe.caption(encoded)
why = qformer_viz.explain(pipe, encoded, answer)
page = qformer_viz.show(encoded, pipe=pipe, why=why).save("maps.html")
texts = qformer_viz.load_matcher("blip2-emoji-itm").rank(ASSETS / "examples" / "cat-and-dog.png", ["a cat", "a bus"])
print(qformer_viz.__file__, answer.text, why.words[1], page.stat().st_size > 100_000, texts[0].text, sep="|")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that nothing is left lying in the repository."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("qformer_viz", "assets"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyi"))
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-c", BUILD, str(out)], cwd=source, check=True, capture_output=True)
    return next(out.glob("qformer_viz-*.whl"))


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """python(*arguments) -> its output, in an empty folder, with the wheel's packages before any others."""
    site, folder = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("elsewhere")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(site)

    def run(*arguments):
        environment = os.environ | {"PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    run.site = site
    return run


def test_every_module_and_no_other_package_is_in_it(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"qformer_viz"}
    written = {path.relative_to(ROOT).as_posix() for path in (ROOT / "qformer_viz").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == written
    static = {path.name for path in (ROOT / "qformer_viz/ui/static").iterdir()}
    assert {Path(name).name for name in names if "/static/" in name} == static
    shipped = {
        path.relative_to(ROOT / "assets").as_posix()
        for path in (ROOT / "assets").rglob("*")
        if path.is_file()
    }
    bundled = {
        name.removeprefix("qformer_viz/bundled/") for name in names if name.startswith("qformer_viz/bundled/")
    }
    assert bundled == {name for name in shipped if not name.startswith("screenshots/")}
    assert "qformer_viz/py.typed" in names


def test_models_maps_and_explanations_work_without_the_repository(python):
    at, caption, word, written, best = python("-c", USE).splitlines()[-1].split("|")
    assert Path(at).is_relative_to(python.site)
    assert caption == "a cat to the left of a dog" and word == "cat" and written == "True" and best == "a cat"


def test_the_command_line_does_too(python):
    picture = python.site / "qformer_viz/bundled/examples/cat-and-dog.png"
    assert (
        python("-m", "qformer_viz", "caption", str(picture)).splitlines()[0] == "a cat to the left of a dog"
    )
    entry = (next(python.site.glob("*.dist-info")) / "entry_points.txt").read_text()
    assert "qformer-viz = qformer_viz.__main__:command" in entry
    assert "caption" in python(
        "-c",
        "import sys; sys.argv = ['qformer-viz', '--help']; from qformer_viz.__main__ import command; command()",
    )
