#!/usr/bin/env bash
# Compares the digests that the Dockerfile and the Compose file name with what the registry has under the tag beside them.
# It needs Docker with buildx and a way to the registry. Exit code 1 where one differs: the line says what to write.
set -euo pipefail

cd "$(dirname "$0")/.."
command -v docker >/dev/null || { echo "pin.sh: docker is not installed" >&2; exit 2; }

differ=0
while read -r image digest; do
    now=$(docker buildx imagetools inspect "$image" --format '{{.Manifest.Digest}}')
    if [ "$now" = "$digest" ]; then
        echo "$image: as pinned"
    else
        echo "$image: pinned $digest, the registry has $now"
        differ=1
    fi
done < <(grep -hoE '[a-z0-9./-]+:[A-Za-z0-9._-]+@sha256:[0-9a-f]{64}' \
    docker/Dockerfile docker/compose.yaml cluster/kuberay/mlflow.yaml | sort -u | sed 's/@/ /')
exit "$differ"
