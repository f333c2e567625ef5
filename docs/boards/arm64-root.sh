#!/bin/sh
# Make a root folder in which workers run on an emulated aarch64 board: Python of this machine's
# Debian or Ubuntu release, and the wheels of a runtime. Needs apt and pip, no privileges, and
# changes nothing outside the folder. Wheels come from wherever pip is configured to look.
#
#   sh arm64-root.sh FOLDER [RUNTIME...]        default runtime: onnxruntime==1.24.4
set -eu

[ $# -ge 1 ] || { echo "usage: sh arm64-root.sh FOLDER [RUNTIME...]" >&2; exit 2; }
root=$1
shift
[ $# -ge 1 ] || set -- onnxruntime==1.24.4
mkdir -p "$root"
root=$(cd "$root" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# apt's own files in the scratch folder: to it this is an empty arm64 machine, so that it finds
# everything the interpreter depends on. Only the list of sources is this machine's.
mkdir -p "$scratch/state/lists/partial" "$scratch/cache/archives/partial"
: > "$scratch/status"
fetch() {
    apt-get --quiet=2 --option APT::Architecture=arm64 --option APT::Architectures=arm64 \
        --option Dir::State="$scratch/state" --option Dir::State::status="$scratch/status" \
        --option Dir::Cache="$scratch/cache" --option Debug::NoLocking=true \
        --option APT::Sandbox::User="$(id -un)" "$@"
}
fetch update
fetch install --download-only --no-install-recommends --yes python3 libstdc++6
for package in "$scratch"/cache/archives/*.deb; do
    dpkg-deb --extract "$package" "$root"
done

# Wheels for that interpreter and C library, beside what Debian's own packages would be.
python=$(cd "$root/usr/bin" && ls python3.[0-9]* | grep -x 'python3\.[0-9]*')
packages="$root/usr/local/lib/$python/dist-packages"
glibc=$(dpkg-deb --field "$scratch"/cache/archives/libc6_*.deb Version | sed 's/^2\.\([0-9]*\).*/\1/')
platforms="--platform manylinux2014_aarch64"
while [ "$glibc" -ge 17 ]; do
    platforms="$platforms --platform manylinux_2_${glibc}_aarch64"
    glibc=$((glibc - 1))
done
# shellcheck disable=SC2086 # a list of words
python3 -m pip install --quiet --no-compile --upgrade --target "$packages" \
    --only-binary=:all: --implementation cp --python-version "${python#python}" $platforms \
    "$@" numpy onnx safetensors

qemu-aarch64 -L "$root" "$root/usr/bin/$python" -c \
    'import platform, numpy; print(platform.machine(), platform.python_version(), numpy.__version__)'
echo "root: $root"
