#!/usr/bin/env bash
# Builds Horovod's wheel from its registry source against the environment's torch, and keeps it.
#
#   tools/build_horovod.sh PYTHON WHEEL_DIR    prints the wheel's path
#
# Horovod 0.28.1 asks for C++14 (17 for Gloo); the headers of torch 2.13 need C++20.
# The folder's name carries all that the binary depends on, so a change of any builds anew.
# tools/horovod_build.py decides whether there are GPU operations.
set -euo pipefail

python=$1
wheel_root=$2
version=0.28.1
tools=$(dirname "$0")

torch_version=$("$python" -c 'import torch; print(torch.__version__)')
python_tag=$("$python" -c 'import sys; print(f"cp{sys.version_info.major}{sys.version_info.minor}")')
cuda=$("$python" -c 'import torch; print(torch.version.cuda or "cpu")')
decided=$("$python" "$tools/horovod_build.py" decide)
read -r operations toolkit <<<"$decided" || true
recipe=$(sha256sum "$0" | cut -c1-8)
built_for="torch-$torch_version-$cuda-${operations:-gloo}"
wheel_dir="$wheel_root/horovod-$version-$python_tag-$built_for-$(uname -m)-$recipe"

kept=$(find "$wheel_dir" -name 'horovod-*.whl' 2>/dev/null | head -1 || true)
if [ -n "$kept" ]; then
    echo "$kept"
    exit 0
fi

echo "Building Horovod $version against torch $torch_version (about 4 minutes, once) ..." >&2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m pip download --quiet --no-deps --no-binary horovod --no-build-isolation \
    "horovod==$version" -d "$work" >&2
tar -xzf "$work/horovod-$version.tar.gz" -C "$work"
source="$work/horovod-$version"
sed -i 's/set(CMAKE_CXX_STANDARD 14)/set(CMAKE_CXX_STANDARD 20)/' \
    "$source/CMakeLists.txt" "$source/horovod/torch/CMakeLists.txt"
sed -i -e 's/"-std=c++17"/"-std=c++20"/' -e 's/(CMAKE_CXX_STANDARD 17)/(CMAKE_CXX_STANDARD 20)/' \
    "$source/CMakeLists.txt"
# Gloo's thread asks again at once when another thread holds a connection: it took a fifth of a
# rank's time, on a core that the holder waited for.
pair="$source/third_party/gloo/gloo/transport/tcp/pair.cc"
sed -i -e '/std::try_to_lock);/{n;s/if (!lock) {/& std::this_thread::sleep_for(std::chrono::microseconds(10));/}' \
    -e '1i #include <thread>' "$pair"
if ! grep -q 'if (!lock) { std::this_thread' "$pair"; then
    echo "Horovod's Gloo has changed: $pair does not try a lock as expected." >&2
    exit 1
fi
# Horovod's end leaves Gloo's connections open until it begins again, as the contexts of its sets of
# processes never count as enabled: of three ranks, those that are left waited for each other.
context="$source/horovod/common/gloo/gloo_context.cc"
sed -i '/^void GlooContext::Finalize() {/,/^}/{/if (!enabled_) {/,/}/d}' "$context"
if sed -n '/^void GlooContext::Finalize() {/,/^}/p' "$context" | grep -q enabled_ \
    || ! grep -q '^void GlooContext::Finalize() {' "$context"; then
    echo "Horovod has changed: $context does not end its contexts as expected." >&2
    exit 1
fi

export HOROVOD_WITH_PYTORCH=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1
export HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_MPI=1
unset HOROVOD_GPU_OPERATIONS
if [ -n "$operations" ]; then
    # torch and Horovod's CMake know the toolkit by a name each.
    export HOROVOD_GPU_OPERATIONS=$operations CUDA_HOME=$toolkit HOROVOD_CUDA_HOME=$toolkit
    # The NCCL that torch loads is there already, but not under the name that linkers look for.
    own_nccl=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib") + "/nvidia/nccl")')
    if [ -z "${HOROVOD_NCCL_HOME:-}" ] && [ -f "$own_nccl/lib/libnccl.so.2" ]; then
        mkdir -p "$work/nccl/lib"
        ln -s "$own_nccl/include" "$work/nccl/include"
        ln -s "$own_nccl/lib/libnccl.so.2" "$work/nccl/lib/libnccl.so"
        export HOROVOD_NCCL_HOME="$work/nccl" HOROVOD_NCCL_LINK=SHARED
    fi
else
    # Horovod would compile for CUDA wherever torch and a toolkit could, and needs neither here.
    sed -i 's/print(True if ((torch.version.cuda is not None).*CUDA_HOME is not None)) else False)/print(False)/' \
        "$source/cmake/Modules/FindPytorch.cmake"
    sed -i '/^check_language(CUDA)/,/^macro(ADD_CUDA)/{/^macro/!d}' "$source/CMakeLists.txt"
fi
log="$work/build.log"
if ! "$python" -m pip wheel --quiet --no-deps --no-build-isolation "$source" -w "$work/wheel" >"$log" 2>&1; then
    # CMake's reason comes long before the end.
    grep -A4 -e 'CMake Error' -e 'error:' "$log" | head -40 >&2 || true
    tail -20 "$log" >&2
    mkdir -p "$wheel_root"
    cp "$log" "$wheel_root/horovod-build.log"
    echo "Horovod did not build: $("$python" "$tools/horovod_build.py" explain "$wheel_root/horovod-build.log")" >&2
    exit 1
fi
mkdir -p "$wheel_root"
staged=$(mktemp -d "$wheel_root/.staged-XXXXXX")
mv "$work"/wheel/horovod-*.whl "$staged/"
# Two builds at once: the first rename wins, the other's result is the same.
mv -T "$staged" "$wheel_dir" 2>/dev/null || rm -rf "$staged"
find "$wheel_dir" -name 'horovod-*.whl' | head -1
