"""MLflow's page of an experiment, opened as a comparison of runs: its columns, order and charts, and the link to it.

MLflow keeps the state of a shared page in a tag of the experiment. The format is internal to MLflow and may change, so
the tag is written for the version that a test checks in a browser (`VERSION`). A server of another version gets a link
to the plain page.
"""

from __future__ import annotations

import json
import logging
import shlex
from typing import Any, NamedTuple

from tensorrl.tracking import connection

VERSION = "3.17"
"""The minor version of MLflow that uses this format."""
_KEY = "tensorrl"
VIEW_TAG = f"mlflow.sharedViewState.{_KEY}"
NOTE_TAG = "mlflow.note.content"
LOCAL_SERVER = "http://127.0.0.1:5000"
"""The default address of `mlflow ui`."""

_PARAMETERS = ("game", "variant", "seed")
_METRICS = ("compression_ratio", "coefficients", "score", "human_normalized")
_CURVES = ("episode_return", "evaluation_return", "loss")
_SECTION = "tensorrl-charts"
_CHARTS = "&compareRunsMode=CHART"
_NOTE_START = "Runs of TensorRL"
_log = logging.getLogger(__name__)


class Link(NamedTuple):
    """The link to an experiment for a browser.

    Attributes:
        url: the URL of the page with the table of runs.
        command: the command to start first, if runs are kept in a file and need a server; otherwise None.
    """

    url: str
    command: str | None

    @property
    def charts(self) -> str | None:
        """The URL of the page with the charts, or None if the page is the plain one."""
        return f"{self.url}{_CHARTS}" if "?" in self.url else None


def view_state() -> dict[str, Any]:
    """Returns the page's state: its columns, their order and its charts.

    Charts show the mean of the runs with the same game and variant, because scores of different games do not compare.
    """
    grouped = [{"mode": "param", "groupByData": name} for name in ("game", "variant")]
    scatter = {
        **_card("scatter", "SCATTER", "human-normalised score by compression ratio"),
        "xaxis": {"key": "compression_ratio", "type": "METRIC"},
        "yaxis": {"key": "human_normalized", "type": "METRIC"},
        "runsCountToCompare": 100,
    }
    lines = [
        {
            **_card(name, "LINE", None),
            "metricKey": name,
            "selectedMetricKeys": [name],
            "lineSmoothness": 0,
            "xAxisScaleType": "linear",
            "scaleType": "linear",
            "range": {},
            "xAxisKey": "step",
            "selectedXAxisMetricKey": "",
            "yAxisKey": "metric",
            "yAxisExpressions": [],
            "useGlobalXaxisKey": True,
            "useGlobalLineSmoothing": True,
        }
        for name in _CURVES
    ]
    columns = [f"params.`{name}`" for name in _PARAMETERS] + [f"metrics.`{name}`" for name in _METRICS]
    return {
        "selectedColumns": columns,
        "columnOrder": ["attributes.`Run Name`", *columns],
        "orderByKey": "metrics.`human_normalized`",
        "orderByAsc": False,
        "compareRunCharts": [scatter, *lines],
        "compareRunSections": [{"uuid": _SECTION, "name": "TensorRL", "display": True, "isReordered": True}],
        "isAccordionReordered": True,
        "groupBy": {"aggregateFunction": "average", "groupByKeys": grouped},
        "useGroupedValuesInCharts": True,
        "runsHiddenMode": "SHOW_ALL",
    }


def keep_view(client: Any, experiment: Any, uri: str) -> None:
    """Saves the page's state in an experiment, with a description that links to it.

    A description that a person wrote is not changed. An experiment that this process may not tag is left alone, and so
    is a server of another version.

    Args:
        client: the server's client.
        experiment: MLflow's entity.
        uri: the server's URI, as `connection.tracking_uri_for` returns it.
    """
    import mlflow.exceptions

    held = experiment.tags
    wanted = {VIEW_TAG: json.dumps(view_state(), separators=(",", ":"))}
    if held.get(NOTE_TAG, _NOTE_START).startswith(_NOTE_START):
        wanted[NOTE_TAG] = _note(experiment.experiment_id)
    if all(held.get(name) == value for name, value in wanted.items()) or not understands(client, uri):
        return
    try:
        for name, value in wanted.items():
            client.set_experiment_tag(experiment.experiment_id, name, value)
    except mlflow.exceptions.MlflowException as error:
        _log.info("MLflow keeps no view of %s: %s", experiment.name, error)


def understands(client: Any, uri: str) -> bool:
    """Returns whether this server has the version that the view is written for.

    Raises:
        Exception: any error of MLflow, if a server does not answer.
    """
    import mlflow
    from mlflow.utils.rest_utils import http_request

    version = str(mlflow.__version__)
    if uri.startswith(("http://", "https://")):
        credentials = client._tracking_client.store.get_host_creds()
        version = http_request(credentials, "/version", "GET").text.strip()
    return version == VERSION or version.startswith(f"{VERSION}.")


def page_link(client: Any, experiment_id: str, uri: str) -> Link:
    """Returns the link to an experiment: to the comparison, or to the plain page if the server has another version.

    Raises:
        Exception: any error of MLflow, if a server does not answer.
    """
    page = _comparison(experiment_id) if understands(client, uri) else f"#/experiments/{experiment_id}"
    if uri.startswith(("http://", "https://")):
        scheme, _, rest = uri.partition("://")
        place, slash, path = rest.rstrip("/").partition("/")
        return Link(f"{scheme}://{place.rpartition('@')[2]}{slash}{path}/{page}", None)
    return Link(f"{LOCAL_SERVER}/{page}", shlex.join(["mlflow", "ui", "--backend-store-uri", uri]))


def find_link(uri: str, experiment: str, *, experiment_id: str | None = None) -> Link | None:
    """Returns the link to an experiment, or None if it does not exist or the server does not answer.

    Args:
        uri: the server's URI, as `connection.tracking_uri_for` returns it.
        experiment: the experiment's name.
        experiment_id: its id where that is known; then the name does not matter.
    """
    try:
        client = connection.connect(uri)
        if experiment_id is None:
            found = client.get_experiment_by_name(experiment)
            experiment_id = None if found is None else found.experiment_id
        return None if experiment_id is None else page_link(client, experiment_id, uri)
    except Exception as error:
        _log.info("MLflow at %s: %s", experiment, type(error).__name__)
        return None


def _card(name: str, kind: str, title: str | None) -> dict[str, Any]:
    titled = {"displayName": title} if title else {}
    identity = {"uuid": f"tensorrl-{name}", "metricSectionId": _SECTION}
    return {"type": kind, **identity, **titled, "deleted": False, "isGenerated": False, "runsCountToCompare": 100}


def _comparison(experiment_id: str) -> str:
    return f"#/experiments/{experiment_id}/runs?viewStateShareKey={_KEY}&workflowType=machine_learning"


def _note(experiment_id: str) -> str:
    return (
        f"{_NOTE_START}: data-efficient Rainbow on Atari with fewer coefficients. A run is one trial: a game, a "
        "variant and a seed. `compression_ratio` says how many times fewer coefficients it learns than `rainbow` on "
        "the same game; `human_normalized` is its score where 0 is a random agent and 1 a human tester.\n\n"
        f"[Compare the runs]({_comparison(experiment_id)}) in a table, or in [charts]"
        f"({_comparison(experiment_id)}{_CHARTS}): scores against compression ratio, and curves over training."
    )
