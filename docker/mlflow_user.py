"""Gives trials a user of MLflow of their own before the server starts: trials never know the admin's password.

It reads MLFLOW_AUTH_DATABASE_URI, MLFLOW_TRIALS_USERNAME and MLFLOW_TRIALS_PASSWORD. A user that there is gets the
password. What the user creates is the user's own; the admin sees everything.
"""

from __future__ import annotations

import os
import sys

from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore


def main() -> int:
    """Returns the exit code; 2 where the names are those of one user."""
    name, password = os.environ["MLFLOW_TRIALS_USERNAME"], os.environ["MLFLOW_TRIALS_PASSWORD"]
    if name == os.environ.get("MLFLOW_AUTH_ADMIN_USERNAME"):
        print("MLFLOW_TRIALS_USERNAME is the admin's name (allowed: another)", file=sys.stderr)
        return 2
    users = SqlAlchemyStore()
    users.init_db(os.environ["MLFLOW_AUTH_DATABASE_URI"])
    if users.has_user(name):
        users.update_user(name, password=password)
    else:
        users.create_user(name, password)
    return 0


if __name__ == "__main__":
    sys.exit(main())
