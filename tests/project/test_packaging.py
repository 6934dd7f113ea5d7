"""What the wheel and the source distribution carry."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

import azr_mlx
from azr_mlx.config import shipped

pytestmark = pytest.mark.pure

DATA = {"kernels": "azr_mlx/_kernels", "config": "azr_mlx/_config"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution of this checkout."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling is not installed: pip install 'azr-mlx[dev]'")
    folder = tmp_path_factory.mktemp("dist")
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.ZipFile:
    (path,) = built.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def sdist(built: Path) -> set[str]:
    """The names in the source distribution, without its top folder."""
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


def data_files(root: Path, folder: str) -> set[str]:
    found = (p for p in (root / folder).rglob("*") if p.is_file())
    return {p.relative_to(root / folder).as_posix() for p in found if "__pycache__" not in p.parts}


def test_the_wheel_has_every_file_of_the_package(wheel: zipfile.ZipFile) -> None:
    """The style and the script of the report, and nano, are no Python."""
    root = Path(azr_mlx.__file__).parent
    assert data_files(root.parent, root.name) <= {
        name.removeprefix("azr_mlx/") for name in wheel.namelist()
    }


def test_nothing_is_large_but_the_model_in_the_package(built: Path) -> None:
    """A converted model that was left in the checkout would be in the source distribution."""
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        large = [m.name.partition("/")[2] for m in archive.getmembers() if m.size > 1 << 20]
    assert large == ["azr_mlx/nano/model/model.safetensors"]


def test_the_wheel_has_one_top_level_package(wheel: zipfile.ZipFile) -> None:
    """A `kernels`, `config` or `convert` beside it would shadow other projects' modules."""
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert tops == {"azr_mlx", f"azr_mlx-{azr_mlx.__version__}.dist-info"}


@pytest.mark.parametrize("folder", sorted(DATA))
def test_the_wheel_carries_all_the_data(wheel: zipfile.ZipFile, root: Path, folder: str) -> None:
    wanted = {f"{DATA[folder]}/{name}" for name in data_files(root, folder)}
    assert wanted
    assert wanted <= set(wheel.namelist())


def test_the_wheel_carries_every_module(wheel: zipfile.ZipFile, root: Path) -> None:
    wanted = {p.relative_to(root).as_posix() for p in (root / "azr_mlx").rglob("*.py")}
    assert wanted <= set(wheel.namelist())


@pytest.mark.parametrize("folder", sorted(DATA))
def test_the_source_distribution_can_build_the_wheel(
    sdist: set[str], root: Path, folder: str
) -> None:
    assert {f"{folder}/{name}" for name in data_files(root, folder)} <= sdist
    assert {"pyproject.toml", "LICENSE", "README.md", "run.sh", "convert.py"} <= sdist


def test_the_metadata_name_the_command_and_the_bounds(wheel: zipfile.ZipFile) -> None:
    info = f"azr_mlx-{azr_mlx.__version__}.dist-info"
    entry = wheel.read(f"{info}/entry_points.txt").decode()
    assert "azr-mlx = azr_mlx.cli:main" in entry
    metadata = wheel.read(f"{info}/METADATA").decode()
    required = re.findall(r"^Requires-Dist: (.+)$", metadata, re.MULTILINE)
    unbounded = [line for line in required if "<" not in line and "==" not in line]
    assert unbounded == []


def test_the_metadata_are_whole(wheel: zipfile.ZipFile) -> None:
    text = wheel.read(f"azr_mlx-{azr_mlx.__version__}.dist-info/METADATA").decode()
    given = message_from_string(text)
    one = ("Name", "Version", "Summary", "Author", "License-Expression", "License-File", "Keywords")
    assert [name for name in (*one, "Project-URL", "Classifier") if not given[name]] == []
    assert given["Description-Content-Type"] == "text/markdown"
    assert given.get_payload().strip().startswith("# azr-mlx")


def test_twine_finds_nothing_wrong(built: Path) -> None:
    if importlib.util.find_spec("twine") is None:
        pytest.skip("twine is not installed: pip install 'azr-mlx[dev]'")
    (path,) = built.glob("*.whl")
    (source,) = built.glob("*.tar.gz")
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", str(path), str(source)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2


@pytest.mark.slow
def test_the_wheel_works_in_a_clean_environment(built: Path, tmp_path: Path) -> None:
    """Installed by pip, without this checkout. The dependencies are those of this Python, which
    come after the environment's own packages: nothing is downloaded."""
    clean = tmp_path / "clean"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def run(*command: str | Path) -> str:
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(sys.executable, "-m", "venv", clean)
    python = clean / "bin" / "python"
    (path,) = built.glob("*.whl")
    run(python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", path)
    (own,) = clean.glob("lib/python*/site-packages")
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    home = run(python, "-c", "import azr_mlx; print(azr_mlx.__file__)").strip()
    assert Path(home) == own / "azr_mlx" / "__init__.py"
    version = f"azr-mlx {azr_mlx.__version__}\n"
    assert run(clean / "bin" / "azr-mlx", "--version") == version
    assert run(python, "-m", "azr_mlx", "--version") == version
    code = "from azr_mlx.config import json_schema as s; print(s.to_text(), end='')"
    assert run(python, "-c", code) == (own / "azr_mlx/_config" / "schema.json").read_text("utf-8")


def test_resources_are_found_in_an_unpacked_wheel(
    wheel: zipfile.ZipFile, root: Path, tmp_path: Path
) -> None:
    wheel.extractall(tmp_path)
    code = (
        "from azr_mlx.config import shipped as r; from azr_mlx.config import load;"
        "print(r.config_dir()); print(r.kernels_dir()); print(*r.shipped_configs());"
        "load('quickstart')"
    )
    done = subprocess.run(
        [sys.executable, "-P" if sys.version_info >= (3, 11) else "-B", "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    config_dir, kernels_dir, stems = done.stdout.splitlines()
    assert Path(config_dir) == tmp_path / "azr_mlx" / "_config"
    assert Path(kernels_dir) == tmp_path / "azr_mlx" / "_kernels"
    assert stems.split() == list(shipped.shipped_configs())


def test_resources_are_found_in_the_checkout(root: Path) -> None:
    assert shipped.config_dir() == root / "config"
    assert shipped.kernels_dir() == root / "kernels"


def test_missing_resources_say_where_they_were_sought(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "_PACKAGE", Path("/nowhere/azr_mlx"))
    with pytest.raises(FileNotFoundError, match=r"/nowhere/azr_mlx/_kernels nor /nowhere/kernels"):
        shipped.kernels_dir()
