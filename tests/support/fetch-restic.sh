#!/bin/bash
# Fetch the restic of Debian 12 and of Debian 13 into .cache/restic-VERSION/usr/bin/restic, through apt: from the
# archive this system is configured for, checked with the archive's keys, without touching the system's own lists.
set -euo pipefail
cd "$(dirname "$0")/../.."

note() { printf 'fetch-restic: %s\n' "$*" >&2; }

archive=$(apt-get indextargets --format '$(LABEL) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
    awk '$1 == "Debian" && $2 == "main" { print $3; exit }')
if [ -z "$archive" ]; then
    note "apt knows no Debian archive here (apt-get update brings its lists)"
    exit 1
fi
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -e "$keyring" ] || keyring=/usr/share/keyrings/debian-archive-keyring.pgp

work=
trap 'rm -rf "$work"' EXIT

# The steps are chained, for the shell's -e is off in a function whose failure is looked at.
fetch() {
    local version=$1 suite=$2 goal=.cache/restic-$1
    [ ! -x "$goal/usr/bin/restic" ] || return 0
    mkdir -p .cache && rm -rf "$goal" && work=$(mktemp -d "$PWD/.cache/restic-fetch.XXXXXX") || return
    local apt=(apt-get --quiet=2
        -o "Dir::State::Lists=$work/lists" -o "Dir::State::Status=$work/status" -o "Dir::Cache=$work/cache"
        -o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o Acquire::Languages=none -o "APT::Sandbox::User=$(id -un)")
    mkdir -p "$work"/lists/partial "$work"/cache/archives/partial &&
        : >"$work/status" &&
        echo "deb [signed-by=$keyring] $archive $suite main" >"$work/sources.list" &&
        "${apt[@]}" update &&
        (cd "$work" && "${apt[@]}" download restic) &&
        dpkg-deb --extract "$work"/restic_*.deb "$work/restic" &&
        mv "$work/restic" "$goal" &&
        rm -rf "$work" &&
        note "$("$goal/usr/bin/restic" version) ($suite)"
}

result=0
while read -r version suite; do
    fetch "$version" "$suite" || { note "restic $version could not be fetched"; result=1; }
done <<'SUITES'
0.14 bookworm
0.18 trixie
SUITES
exit $result
