#!/usr/bin/env bash
# What a container is: `head`, `worker`, `mlflow-server`, or any command. It stays in the foreground.
#
#   head                the environment's token is the cluster's; RAY_HEAD_CPUS trials may run here (0)
#   worker              joins RAY_HEAD (host:port)
#   mlflow-server       serves MLFLOW_BACKEND_STORE_URI and MLFLOW_ARTIFACTS on MLFLOW_HOST:5000, passwords asked for;
#                       MLFLOW_TRIALS_USERNAME is who trials are, and no admin
set -euo pipefail

need() {
    local name
    for name in "$@"; do
        if [ -z "${!name:-}" ]; then
            echo "$name is not set" >&2
            exit 2
        fi
    done
}

# Ray without a token runs anybody's code, so none is started.
need_token() {
    if [ "${RAY_AUTH_MODE:-}" != token ]; then
        echo "RAY_AUTH_MODE is '${RAY_AUTH_MODE:-}' (allowed: token)" >&2
        exit 2
    fi
    if [ -z "${RAY_AUTH_TOKEN:-}" ] && [ ! -s "${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}" ]; then
        echo "no token: set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file that holds it" >&2
        exit 2
    fi
}

address() {
    hostname --all-ip-addresses | cut -d ' ' -f 1
}

case "${1:-}" in
    head)
        need_token
        here=$(address)
        exec ray start --head --block --port="${RAY_PORT:-6379}" --node-ip-address="$here" \
            --dashboard-host="$here" --include-dashboard=true --num-cpus="${RAY_HEAD_CPUS:-0}" --num-gpus=0 \
            --metrics-export-port="${RAY_METRICS_PORT:-8080}" --disable-usage-stats "${@:2}"
        ;;
    worker)
        need_token
        need RAY_HEAD
        exec ray start --block --address="$RAY_HEAD" --metrics-export-port="${RAY_METRICS_PORT:-8080}" \
            --disable-usage-stats "${@:2}"
        ;;
    mlflow-server)
        need MLFLOW_BACKEND_STORE_URI MLFLOW_ARTIFACTS MLFLOW_AUTH_DATABASE_URI MLFLOW_AUTH_ADMIN_USERNAME \
            MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY MLFLOW_ALLOWED_HOSTS \
            MLFLOW_TRIALS_USERNAME MLFLOW_TRIALS_PASSWORD
        # Trials have a user of their own, who is no admin.
        python "$(dirname "$0")/mlflow_user.py"
        unset MLFLOW_TRIALS_USERNAME MLFLOW_TRIALS_PASSWORD
        settings=$(mktemp)
        printf '[mlflow]\ndefault_permission = NO_PERMISSIONS\ndatabase_uri = %s\nadmin_username = %s\n' \
            "${MLFLOW_AUTH_DATABASE_URI//%/%%}" "$MLFLOW_AUTH_ADMIN_USERNAME" >"$settings"
        # Each request would otherwise hash the password anew, which takes longer than the request.
        printf 'authorization_function = %s\nauth_cache_ttl_seconds = 300\n' \
            mlflow.server.auth:authenticate_request_basic_auth >>"$settings"
        export MLFLOW_AUTH_CONFIG_PATH="$settings" MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
        exec mlflow server --app-name basic-auth --host "${MLFLOW_HOST:-0.0.0.0}" --port "${MLFLOW_PORT:-5000}" \
            --workers "${MLFLOW_WORKERS:-2}" --artifacts-destination "$MLFLOW_ARTIFACTS" \
            --allowed-hosts "$MLFLOW_ALLOWED_HOSTS" "${@:2}"
        ;;
    *)
        exec "$@"
        ;;
esac
