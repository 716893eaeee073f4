"""What Horovod's build on this machine is given, and why one that failed did.

    python tools/horovod_build.py decide     prints WITH TOOLKIT, or nothing where there are no GPU
                                             operations; the reason goes to standard error
    python tools/horovod_build.py explain LOG

GPU operations (NCCL) are built where they can be used: with torch's CUDA build, CUDA's compiler and
a GPU that torch can use. Elsewhere ranks add up over Gloo, on CPUs. HOROVOD_GPU_OPERATIONS=NCCL in
the environment asks for them without a GPU (an image is built on such machines), and
HOROVOD_GPU_OPERATIONS= for none.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TOOLKIT = "CUDA's compiler (nvcc in PATH, or CUDA_HOME)"
# The first that matches a log is why the build failed; the last words of the log alone are not.
CAUSES = (
    (r"No space left on device", "the disk is full"),
    (
        r"Killed signal terminated|std::bad_alloc|virtual memory exhausted",
        "the compiler ran out of memory; MAKEFLAGS=-j1 takes the least",
    ),
    (
        r"Could not find nvcc|CUDA_TOOLKIT_ROOT_DIR|No CMAKE_CUDA_COMPILER|Could NOT find CUDA",
        f"GPU operations need {TOOLKIT}; HOROVOD_GPU_OPERATIONS= builds without them",
    ),
    (
        r"Could NOT find NCCL",
        "no NCCL beside torch; set HOROVOD_NCCL_HOME, or HOROVOD_GPU_OPERATIONS= for none",
    ),
    (r"No CMAKE_CXX_COMPILER could be found", "no C++ compiler: sudo apt-get install -y g++"),
    (
        r"No such file or directory: '?cmake|CMake.* must be installed|not find program cmake",
        "no CMake: sudo apt-get install -y cmake",
    ),
    (
        r"CMAKE_MAKE_PROGRAM is not set|unable to find a build program",
        "no make: sudo apt-get install -y make",
    ),
    (r"Python\.h: No such file", "no Python headers: sudo apt-get install -y python3-dev"),
)


@dataclass(frozen=True)
class Found:
    """What a machine has.

    Attributes:
        cuda: that torch was built for, such as "13.0"; empty for torch's CPU build.
        gpu: torch can use one.
        toolkit: the folder of CUDA's toolkit, empty where there is no compiler.
        asked: HOROVOD_GPU_OPERATIONS as the user set it; None where it is not set.
    """

    cuda: str
    gpu: bool
    toolkit: str
    asked: str | None = None


@dataclass(frozen=True)
class Decision:
    """Whether GPU operations are built, and why."""

    gpu: bool
    why: str


class CannotBuild(Exception):
    """GPU operations were asked for, and cannot be built."""


def decide(found: Found) -> Decision:
    """Decides by the machine, or by what the user asks for.

    Raises:
        CannotBuild: the user asks for what the machine cannot build.
    """
    lacks = [
        what
        for what, there in (
            ("torch's CUDA build", bool(found.cuda)),
            (TOOLKIT, bool(found.toolkit)),
        )
        if not there
    ]
    if found.asked is not None:
        if found.asked and lacks:
            raise CannotBuild(
                f"HOROVOD_GPU_OPERATIONS={found.asked} needs {' and '.join(lacks)}, not found here"
            )
        return Decision(bool(found.asked), "as HOROVOD_GPU_OPERATIONS says")
    if not found.gpu and found.cuda:
        lacks.append("a GPU")
    if lacks:
        return Decision(False, f"not found here: {', '.join(lacks)}")
    return Decision(True, f"a GPU, torch for CUDA {found.cuda} and {found.toolkit}")


def line(decision: Decision) -> str:
    """What a user is told."""
    if decision.gpu:
        return f"Horovod with GPU operations (NCCL): {decision.why}."
    return f"Horovod without GPU operations, ranks add up over Gloo on CPUs; {decision.why}."


def toolkit(environment: Mapping[str, str]) -> str:
    """The folder of CUDA's toolkit, where torch and CMake look for it too; empty for none."""
    named = (environment.get(name) for name in ("HOROVOD_CUDA_HOME", "CUDA_HOME", "CUDA_PATH"))
    for folder in (*filter(None, named), _of_path(environment.get("PATH", "")), "/usr/local/cuda"):
        if folder and os.access(Path(folder, "bin", "nvcc"), os.X_OK):
            return folder
    return ""


def _of_path(path: str) -> str:
    nvcc = shutil.which("nvcc", path=path)
    return str(Path(nvcc).resolve().parents[1]) if nvcc else ""


def cause(log: str) -> str:
    """Why a build failed, as its log says it; empty for a reason that is not known here."""
    return next((words for pattern, words in CAUSES if re.search(pattern, log)), "")


def _found() -> Found:
    import torch

    # torch warns of a driver that is absent or too old: no GPU that it can use.
    warnings.simplefilter("ignore")
    cuda = torch.version.cuda or ""
    return Found(
        cuda=cuda,
        gpu=bool(cuda) and torch.cuda.is_available(),
        toolkit=toolkit(os.environ),
        asked=os.environ.get("HOROVOD_GPU_OPERATIONS"),
    )


def main(arguments: list[str]) -> int:
    if arguments[0] == "explain":
        log = Path(arguments[1]).read_text(encoding="utf-8", errors="replace")
        print(cause(log) or f"the reason is in {arguments[1]}")
        return 0
    found = _found()
    try:
        decision = decide(found)
    except CannotBuild as error:
        print(error, file=sys.stderr)
        return 1
    print(line(decision), file=sys.stderr)
    if decision.gpu:
        print(found.asked or "NCCL", found.toolkit)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
