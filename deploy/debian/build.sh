#!/bin/sh
# deploy/debian/build.sh DIRECTORY: the Debian package of what is checked out, for the release that this runs on.
set -eu
cd "$(dirname "$0")/../.."
output=$(realpath -m "${1:?where the package goes}")
fail() { echo "build.sh: $*" >&2; exit 1; }
for tool in dh dpkg-buildpackage clang python3; do
    command -v $tool >/dev/null || fail "$tool is not installed (apt install debhelper clang libbpf-dev python3-venv)"
done
# shellcheck source=/dev/null
release=$(. /etc/os-release && echo "${VERSION_ID:?}")
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml | head -1)
# Each build is newer than those before it of the same version.
revision=${ROOTSRV_REVISION:-1}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/rootsrv" "$output" 2>/dev/null || [ -d "$output" ]
if [ -e .git ]; then git ls-files -z; else find . -type f ! -path './.venv/*' -print0; fi |
    tar --null --files-from=- --ignore-failed-read -cf - | tar -C "$work/rootsrv" -xf -
cd "$work/rootsrv"
cp -r deploy/debian debian
cat >debian/changelog <<EOF
rootsrv ($version+deb$release.$revision) stable; urgency=medium

  * Version $version; see CHANGELOG.md.

 -- The rootsrv maintainers <rootsrv@rootsrv.invalid>  $(date -R -d "@${SOURCE_DATE_EPOCH:-$(date +%s)}")
EOF
dpkg-buildpackage --build=binary --unsigned-changes --unsigned-buildinfo >"$work/log" 2>&1 ||
    { tail -40 "$work/log" >&2; fail "the package could not be built"; }
cp "$work"/*.deb "$output/"
ls "$output"/rootsrv_"$version+deb$release.$revision"_*.deb
