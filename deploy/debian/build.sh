#!/bin/sh
# deploy/debian/build.sh DIRECTORY [SUITE]: the Debian package of what is checked out.
#
# For the release that this runs on; with a SUITE (bookworm, trixie) for that one, in a debootstrap root that is removed
# afterwards (needs root).  $ROOTSRV_REVISION counts builds of one version, each newer than the one before; default 1.
set -eu
cd "$(dirname "$0")/../.."
fail() { echo "build.sh: $*" >&2; exit 1; }
[ $# -ge 1 ] || fail "where does the package go?  build.sh DIRECTORY [SUITE]"
output=$(realpath -m "$1")
suite=${2:-}
DEPENDENCIES="build-essential debhelper clang libbpf-dev linux-libc-dev libc6-dev python3 python3-venv ca-certificates"

elsewhere() { # SUITE: the same in a root of that release
    [ "$(id -u)" = 0 ] || fail "only root can build for another release ($1)"
    command -v debootstrap >/dev/null || fail "debootstrap is not installed (apt install debootstrap)"
    root=$(mktemp -d)
    trap 'rm -rf --one-file-system "$root"' EXIT
    debootstrap --variant=minbase --include="$(echo $DEPENDENCIES | tr ' ' ',')" "$1" "$root" >"$root.log" 2>&1 ||
        { tail -20 "$root.log" >&2; rm -f "$root.log"; fail "debootstrap could not make a $1"; }
    rm -f "$root.log"
    cp /etc/resolv.conf /etc/hosts "$root/etc/"
    mkdir "$root/src" "$root/out"
    copy "$root/src"
    # Of the environment only the way out: a bundle of certificates that it names may be another file there.
    set -- HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin
    [ -z "${PIP_CERT:-}" ] || { cp "$PIP_CERT" "$root/pip.crt"; set -- "$@" PIP_CERT=/pip.crt; }
    for name in http_proxy https_proxy no_proxy PIP_INDEX_URL ROOTSRV_REVISION SOURCE_DATE_EPOCH; do
        eval "value=\${$name:-}"
        [ -z "$value" ] || set -- "$@" "$name=$value"
    done
    # Its mounts go with the command.
    unshare --mount --propagation private sh -ec 'root=$1; shift; mount -t proc proc "$root/proc"; exec chroot "$root" /usr/bin/env -i "$@"' \
        sh "$root" "$@" sh /src/deploy/debian/build.sh /out || fail "the package for $suite could not be built"
    mkdir -p "$output"
    cp "$root"/out/*.deb "$output/"
}

copy() { # DIRECTORY: what is checked out goes there
    if [ -e .git ]; then git ls-files -z; else find . -type f ! -path './.venv/*' -print0; fi |
        tar --null --files-from=- --ignore-failed-read -cf - | tar -C "$1" -xf -
}

# shellcheck source=/dev/null
codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
if [ -n "$suite" ] && [ "$suite" != "$codename" ]; then
    elsewhere "$suite"
    ls "$output"/rootsrv_*.deb
    exit 0
fi
for tool in dh dpkg-buildpackage clang /usr/bin/python3; do
    command -v $tool >/dev/null || fail "$tool is not installed (apt install $DEPENDENCIES)"
done
# shellcheck source=/dev/null
release=$(. /etc/os-release && echo "${VERSION_ID:?}")
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml | head -1)
revision=${ROOTSRV_REVISION:-1}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/rootsrv"
mkdir -p "$output"
copy "$work/rootsrv"
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
