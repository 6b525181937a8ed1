#!/bin/bash
# Install the Debian packages that the tests need: those named as arguments, or else those of system-packages.txt.
#
# As root on a Debian-like system installs what is missing, without recommended packages, starts no service and leaves
# none enabled.  Without root, or elsewhere, it says what is missing and succeeds; with CI=true that is a failure.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
POLICY=/usr/sbin/policy-rc.d
SAVED=$POLICY.before-rootsrv
MARK='# made by the tests of rootsrv'

wanted=("$@")
if [ ${#wanted[@]} = 0 ]; then
    mapfile -t wanted < <(sed 's/#.*//' "$here/system-packages.txt" | tr -s ' \t' '\n' | sed '/^$/d')
fi

say() { echo "system packages: $*"; }
fail() { say "$*" >&2; exit 1; }
cannot() { say "$*"; if [ "${CI:-}" = true ]; then fail "and CI=true allows nothing to be missing"; fi; exit 0; }

command -v dpkg-query >/dev/null && command -v apt-get >/dev/null ||
    cannot "not a Debian-like system; tests that need one of these are skipped: ${wanted[*]}"

missing_packages() {
    local installed
    installed=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' 2>/dev/null | sed -n 's/^installed //p')
    printf '%s\n' "${wanted[@]}" | grep -Fxv -f <(printf '%s\n' "$installed") || true
}

mapfile -t missing < <(missing_packages)
[ ${#missing[@]} != 0 ] || exit 0
[ "$(id -u)" = 0 ] ||
    cannot "not root, so not installed (tests that need them are skipped): ${missing[*]}"

# One installation at a time, or the second would take the first one's policy for the machine's own.
exec 9>/run/rootsrv-system-packages.lock
flock 9
mapfile -t missing < <(missing_packages)
[ ${#missing[@]} != 0 ] || exit 0

# A policy with our mark was left behind by a run that was killed; what it saved, if anything, is still the machine's own.
restore_policy() {
    if [ -e $SAVED ]; then mv -f $SAVED $POLICY
    elif [ -e $POLICY ] && grep -Fqx "$MARK" $POLICY; then rm -f $POLICY
    fi
}
trap restore_policy EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
restore_policy
if [ -e $POLICY ] || [ -L $POLICY ]; then mv $POLICY $SAVED; fi
printf '#!/bin/sh\n%s\nexit 101\n' "$MARK" >$POLICY
chmod 755 $POLICY

export DEBIAN_FRONTEND=noninteractive
apt() { apt-get -q -y -o DPkg::Lock::Timeout=600 -o Acquire::Retries=5 "$@" </dev/null 9>&-; }

say "installing ${missing[*]}"
log=$(mktemp)
for try in 1 2 3 4 5; do
    # Exit status 0 with a warning means that a list could not be had and an old one is used.
    if apt update -o APT::Update::Error-Mode=any >"$log" 2>&1; then break; fi
    [ "$try" != 5 ] || { tail -5 "$log" >&2; say "package lists could not be refreshed; trying with those at hand" >&2; }
    [ "$try" = 5 ] || sleep $((try * 2))
done
# Never at the cost of a package that is there (a time service, say, that one of ours would displace).
if ! apt install --no-install-recommends --no-remove "${missing[@]}" >"$log" 2>&1; then
    tail -30 "$log" >&2
    rm -f "$log"
    fail "apt-get could not install: ${missing[*]}"
fi
rm -f "$log"

# The policy kept them from starting now; this keeps them from starting at the next boot.
if command -v systemctl >/dev/null; then
    for package in "${missing[@]}"; do
        mapfile -t units < <(dpkg-query -L "$package" | sed -n 's!^\(/usr\)\?/lib/systemd/system/\([^/@]*\.\(service\|timer\|socket\)\)$!\2!p')
        [ ${#units[@]} = 0 ] || systemctl --quiet disable "${units[@]}" >/dev/null 2>&1 || true
    done
fi
