"""What a process has imported from which ``tests.warm`` forks commands. It starts no thread and reads no setting of Prefect."""

import importlib
import pkgutil

import flows.config
import flows.plan
import flows.running
import tasks


def _imported(name: str) -> None:
    try:
        importlib.import_module(name)
    except ImportError:
        pass  # an extra that is not here


for _name in (
    # what runs import
    "torch", "torch.optim", "transformers", "transformers.models.llama.modeling_llama", "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto", "tokenizers", "safetensors.torch", "pyarrow.parquet", "pyarrow.compute", "zarr",
    "scipy.sparse", "scipy.stats", "matplotlib.figure", "matplotlib.backends.backend_svg", "jinja2", "pandas", "anthropic", "openai",
    # what Prefect rests on
    "httpx", "fastapi", "sqlalchemy", "pydantic_settings", "jsonschema", "griffe", "rich.console", "rich.progress",
):  # fmt: skip
    _imported(_name)

for _found in pkgutil.walk_packages(tasks.__path__, "tasks."):
    _imported(_found.name)

flows.config.load([])  # Hydra is imported in pieces, the last of them when it composes
importlib.import_module("hydra.core.global_hydra").GlobalHydra.instance().clear()
