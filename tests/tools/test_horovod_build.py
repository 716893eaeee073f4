"""Horovod's build decides by the machine, says so, and names the true cause when it fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders.processes import ROOT
from tools.horovod_build import TOOLKIT, CannotBuild, Found, cause, decide, line, toolkit

CUDA = "/opt/cuda"


@pytest.mark.parametrize(
    ("found", "gpu", "said"),
    [
        (Found("13.0", True, CUDA), True, "NCCL"),
        (Found("13.0", False, CUDA), False, "not found here: a GPU."),
        (Found("13.0", True, ""), False, f"not found here: {TOOLKIT}."),
        (Found("", False, CUDA), False, "not found here: torch's CUDA build."),
        (Found("13.0", False, ""), False, f"not found here: {TOOLKIT}, a GPU."),
        (Found("13.0", False, CUDA, asked="NCCL"), True, "as HOROVOD_GPU_OPERATIONS says"),
        (Found("13.0", True, CUDA, asked=""), False, "as HOROVOD_GPU_OPERATIONS says"),
    ],
    ids=["all", "no GPU", "no compiler", "CPU torch", "a laptop", "for an image", "refused"],
)
def test_gpu_operations_are_built_where_they_serve(found: Found, gpu: bool, said: str) -> None:
    decision = decide(found)

    assert decision.gpu is gpu
    assert said in line(decision)
    assert ("Gloo" in line(decision)) is not gpu
    assert "\n" not in line(decision)


def test_what_is_asked_for_and_cannot_be_built_is_refused_with_what_is_missing() -> None:
    with pytest.raises(CannotBuild, match="needs torch's CUDA build and CUDA's compiler"):
        decide(Found("", False, "", asked="NCCL"))


def _toolkit(folder: Path) -> Path:
    nvcc = folder / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text("")
    nvcc.chmod(0o755)
    return folder


def test_the_toolkit_is_the_one_that_is_named_or_in_path(tmp_path: Path) -> None:
    named, found = _toolkit(tmp_path / "named"), _toolkit(tmp_path / "cuda-13.0")
    linked = tmp_path / "bin"
    linked.mkdir()
    (linked / "nvcc").symlink_to(found / "bin" / "nvcc")

    assert toolkit({"CUDA_HOME": str(named), "PATH": str(linked)}) == str(named)
    # A CUDA_HOME without a compiler is none.
    assert toolkit({"CUDA_HOME": str(tmp_path / "none"), "PATH": str(linked)}) == str(found)


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("CMake Error:\n  Could not find nvcc, please set CUDAToolkit_ROOT", "GPU"),
        ("x.cc:3:10: fatal error: Python.h: No such file or directory", "python3-dev"),
        ("g++: fatal error: Killed signal terminated program cc1plus", "memory"),
        ("CMake Error: CMAKE_CXX_COMPILER not set\nNo CMAKE_CXX_COMPILER could be found.", "g++"),
        ("cc1plus: error writing to x.s: No space left on device", "disk"),
        ("error: something else", ""),
    ],
)
def test_a_failed_build_is_explained_by_its_log_alone(log: str, words: str) -> None:
    assert words in cause(log)
    assert bool(cause(log)) is bool(words)


def test_the_wheel_of_each_decision_is_kept_apart(tmp_path: Path) -> None:
    """A wheel kept for one decision is not given for another."""
    version = "2.13.0"
    torch = tmp_path / "torch" / "__init__.py"
    torch.parent.mkdir()
    torch.write_text(
        "import os, types\n"
        f"__version__ = {version!r}\n"
        "version = types.SimpleNamespace(cuda='13.0')\n"
        "cuda = types.SimpleNamespace(is_available=lambda: 'GPU' in os.environ)\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(tmp_path),
        "CUDA_HOME": str(_toolkit(tmp_path / "cuda")),
    }
    environment.pop("HOROVOD_GPU_OPERATIONS", None)
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    recipe = subprocess.check_output(
        ["bash", "-c", "sha256sum tools/build_horovod.sh | cut -c1-8"], cwd=ROOT, text=True
    ).strip()
    kept = {}
    for operations in ("gloo", "NCCL"):
        built_for = f"torch-{version}-13.0-{operations}-{os.uname().machine}"
        name = f"horovod-0.28.1-{tag}-{built_for}-{recipe}"
        kept[operations] = tmp_path / "wheels" / name / "horovod-0.28.1.whl"
        kept[operations].parent.mkdir(parents=True)
        kept[operations].touch()

    for operations, more in (("gloo", {}), ("NCCL", {"GPU": "1"})):
        ended = subprocess.run(
            ["tools/build_horovod.sh", sys.executable, str(tmp_path / "wheels")],
            cwd=ROOT,
            env={**environment, **more},
            capture_output=True,
            text=True,
            check=True,
        )
        assert ended.stdout.strip() == str(kept[operations])
        assert len(ended.stderr.splitlines()) == 1
