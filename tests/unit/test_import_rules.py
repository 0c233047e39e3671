"""What answers at once imports nothing heavy, and floors do not reach upwards."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {
    "torch", "prefect", "zarr", "transformers", "tokenizers", "anthropic", "openai", "llguidance", "matplotlib", "pyarrow",
    "numpy",
}  # fmt: skip


def loaded_after(program: str, tmp_path: Path) -> set[str]:
    """Heavy packages in ``sys.modules`` at the end of a program."""
    program += f"\nimport sys; sys.stderr.write(' '.join({HEAVY!r} & set(sys.modules)))"
    env = {"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


@pytest.mark.parametrize(
    "program",
    [
        "import flows.recipes, flows.realise, flows.running, flows.audit, flows.plan, flows.cli, flows.launcher",
        "from flows.cli import main; assert main(['plan']) == 0",
        "from flows.cli import main; assert main(['plan', '--json', 'capture.hookpoints=[layers.0,layers.2]']) == 0",
        "from flows.cli import main; assert main(['plan', '-m', 'sae.k=4,8']) == 0",
        "from flows.cli import main; assert main(['--help']) == 0 and main(['completion', 'bash']) == 0",
        "from flows.cli import main; assert main(['run', '--cfg', 'job']) == 0",
        "import os; os.mkdir('saint-store')\nfrom flows.cli import main; assert main(['ls']) == 0 and main(['verify']) == 0",
    ],
)
def test_what_answers_at_once_imports_nothing_heavy(program, tmp_path):
    assert loaded_after(program, tmp_path) == set()


def imports(path: Path, top_level_only: bool) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def modules(*packages: str) -> list[Path]:
    return [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]


PREFECT = {"interpret.py", "pool.py", "crew.py", "deploy.py"}
"""The modules that are Prefect's side of SAINT: imported only where a run needs a server."""


COPIED = {ROOT / "tasks/steering/standalone.py"}
"""Files that are handed out, and imported by nobody here."""


@pytest.mark.parametrize("path", modules("flows", "tasks", "artifacts"), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_module_imports_a_heavy_library_at_its_top(path):
    if path in COPIED:
        return
    allowed = {"prefect"} if path.parent.name == "flows" and path.name in PREFECT else set()
    assert not imports(path, top_level_only=True) & HEAVY - allowed


@pytest.mark.parametrize(
    "packages, may_not",
    [
        (("artifacts",), {"tasks", "flows", "conf", "prefect", "hydra", "omegaconf"}),
        (("tasks",), {"flows", "conf", "prefect", "hydra", "omegaconf"}),
    ],
)
def test_floors_do_not_reach_upwards(packages, may_not):
    for path in modules(*packages):
        assert not imports(path, top_level_only=False) & may_not, path


def test_hydra_is_touched_by_the_configuration_and_the_command_line_only():
    users = {path.name for path in modules("flows") if imports(path, top_level_only=False) & {"hydra", "omegaconf"}}
    assert users <= {"composing.py", "cli.py", "launcher.py", "sweep.py"}
