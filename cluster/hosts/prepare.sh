#!/usr/bin/env bash
# Makes hosts of one's own ready for `ray up`, and writes its file. Run it in the source's root, from any machine that
# reaches all hosts over SSH and has the shared folder too; again whenever hosts or versions change.
#
#   cluster/hosts/prepare.sh HOSTS STORAGE >cluster/hosts/mine.yaml
#
#   HOSTS      a file with one host a line (address or user@address), the head first
#   STORAGE    the folder that every host has mounted under the same path, as with NFS
set -euo pipefail

if [ $# -ne 2 ]; then
    sed -n 's/^#   /  /p' "$0" >&2
    exit 2
fi
hosts_file=$1
export STORAGE=$2
here=$(cd "$(dirname "$0")" && pwd)

fail() {
    echo "prepare.sh: $*" >&2
    exit 2
}

[ -r "$hosts_file" ] || fail "$hosts_file: cannot be read (allowed: a file with one host a line)"
# Both stand in commands that other hosts' shells run, and in YAML.
[[ $STORAGE =~ ^[A-Za-z0-9_./-]+$ ]] || fail "$(printf %q "$STORAGE"): a folder of another name (allowed: letters, digits and . _ / -)"
[ -d "$STORAGE" ] || fail "$STORAGE: no folder here (allowed: the folder that all hosts share)"
case $STORAGE in /*) ;; *) fail "$STORAGE: not absolute, so not the same on every host" ;; esac
mapfile -t hosts < <(sed -e 's/#.*//' -e 's/[[:space:]]//g' -e '/^$/d' "$hosts_file")
[ "${#hosts[@]}" -ge 2 ] || fail "$hosts_file: ${#hosts[@]} hosts (allowed: a head and one worker or more)"
for host in "${hosts[@]}"; do
    [[ $host =~ ^([A-Za-z0-9_][A-Za-z0-9_.-]*@)?[A-Za-z0-9:][A-Za-z0-9.:-]*$ ]] ||
        fail "$hosts_file: $(printf %q "$host") is no host (allowed: address or user@address, one a line)"
done

user=${hosts[0]%@*}
[ "$user" != "${hosts[0]}" ] || user=$USER
addresses=()
for host in "${hosts[@]}"; do
    addresses+=("${host#*@}")
done

# Ray carries the token in the clear, so a host that is not reached through a network of one's own wants a VPN first.
if [ ! -x "$STORAGE/venv/bin/tensorrl" ]; then
    echo "installing into $STORAGE/venv ..." >&2
    dist=$(mktemp -d)
    docker/install.sh dependencies "$STORAGE/venv" >&2
    docker/install.sh wheel "$dist" >&2
    docker/install.sh project "$STORAGE/venv" "$dist" >&2
    rm -rf "$dist"
fi

# A folder that is not shared, or a clock that is off, shows here and not in the middle of a sweep.
mark=$STORAGE/.prepared-$$
date +%s >"$mark"
trap 'rm -f "$mark"' EXIT
for address in "${addresses[@]}"; do
    ssh -o BatchMode=yes -o ConnectTimeout=10 "$user@$address" \
        "test -s '$mark' && '$STORAGE/venv/bin/tensorrl' --help >/dev/null" ||
        fail "$user@$address: not reached, or $STORAGE is not shared with it, or its Python differs"
    theirs=$(ssh -o BatchMode=yes "$user@$address" date +%s)
    here_now=$(date +%s)
    if [ $((theirs - here_now)) -gt 5 ] || [ $((here_now - theirs)) -gt 5 ]; then
        fail "$user@$address: its clock is $((theirs - here_now)) s off"
    fi
    echo "$user@$address is ready" >&2
done

HEAD=${addresses[0]} SSH_USER=$user
WORKERS=$(printf '%s, ' "${addresses[@]:1}")
WORKERS=${WORKERS%, }
export HEAD SSH_USER WORKERS
# shellcheck disable=SC2016  # envsubst is told the names
envsubst '$HEAD $WORKERS $SSH_USER $STORAGE' <"$here/cluster.yaml"
