#!/usr/bin/env bash
# Makes the secrets of a cluster, each random, in files that only you may read (mode 600). Run it in the source's root.
#
#   cluster/make-secrets.sh compose     docker/.env
#   cluster/make-secrets.sh launcher    cluster/secrets.env for every host, cluster/mlflow.env for the head alone
#   cluster/make-secrets.sh kuberay     Kubernetes secrets on standard output: … | kubectl apply -f -
#
# A file that is there is left as it is, and the exit code is 2.
set -euo pipefail
umask 077

usage() {
    sed -n 's/^#   /  /p' "$0" >&2
    exit 2
}

random() {
    od -An -N32 -tx1 /dev/urandom | tr -d ' \n'
}

# Reads standard input into a file that was not there, whole or not at all.
create() {
    if [ -e "$1" ] || [ -L "$1" ]; then
        echo "$1: is there already (allowed: remove it first, which forgets its secrets)" >&2
        exit 2
    fi
    cat >"$1.draft"
    mv --no-clobber "$1.draft" "$1"
    echo "$1: made" >&2
}

# Fills the empty secrets of an example: names keep what stands there.
filled() {
    while IFS= read -r line; do
        case $line in
            *_USERNAME=) printf '%s%s\n' "$line" "$([[ $line == *TRIALS* ]] && echo trials || echo admin)" ;;
            *=) printf '%s%s\n' "$line" "$(random)" ;;
            *) printf '%s\n' "$line" ;;
        esac
    done <"$1"
}

[ $# -eq 1 ] || usage
case $1 in
    compose)
        filled docker/.env.example | create docker/.env
        ;;
    launcher)
        trials=$(random)
        for file in cluster/secrets.env cluster/mlflow.env; do
            if [ -e "$file" ] || [ -L "$file" ]; then
                create "$file" </dev/null
            fi
        done
        sed "s/^MLFLOW_TRACKING_USERNAME=$/&trials/; s/^MLFLOW_TRACKING_PASSWORD=$/&$trials/" \
            cluster/secrets.env.example | create cluster/secrets.env
        filled <(sed "s/^MLFLOW_TRIALS_PASSWORD=$/&$trials/" cluster/mlflow.env.example) | create cluster/mlflow.env
        ;;
    kuberay)
        trials=$(random)
        cat <<SECRETS
apiVersion: v1
kind: Secret
metadata: {name: mlflow, namespace: tensorrl}
stringData:
  username: admin
  password: $(random)
  session-key: $(random)
  database-password: $(random)
---
# What Ray's pods have: a user of MLflow's who is no admin.
apiVersion: v1
kind: Secret
metadata: {name: mlflow-trials, namespace: tensorrl}
stringData:
  username: trials
  password: $trials
SECRETS
        ;;
    *) usage ;;
esac
