from __future__ import annotations

from pathlib import Path

import pytest

from tensorrl import games
from tensorrl.errors import InputError
from tensorrl.sweeps import SweepSpec, cells, load_sweep, select
from tensorrl.sweeps.grid.files import sweep_yaml
from tensorrl.trial.coefficients import count
from tensorrl.trial.spec import TrialSpec

ROOT = Path(__file__).parents[3]
GOOD = {"name": "a", "games": "[pong, breakout]", "variants": "[rainbow]", "seeds": "[0]", "steps": "3000"}


def write(path: Path, **changes: str | None) -> Path:
    fields = {name: text for name, text in (GOOD | changes).items() if text is not None}
    path.write_text("".join(f"{name}: {text}\n" for name, text in fields.items()))
    return path


def test_every_game_meets_every_variant_and_seed_once_first_seeds_first(tmp_path: Path) -> None:
    spec = load_sweep(write(tmp_path / "s.yaml", variants="[rainbow, denoised]", seeds="2"))
    assert [cell.name for cell in cells(spec)] == [
        "pong-rainbow-seed0",
        "pong-denoised-seed0",
        "breakout-rainbow-seed0",
        "breakout-denoised-seed0",
        "pong-rainbow-seed1",
        "pong-denoised-seed1",
        "breakout-rainbow-seed1",
        "breakout-denoised-seed1",
    ]
    assert {cell.trial.steps for cell in cells(spec)} == {3000}


def test_seeds_are_those_listed_or_counted_from_zero(tmp_path: Path) -> None:
    assert load_sweep(write(tmp_path / "s.yaml", seeds="[5, 3]")).seeds == (5, 3)
    assert load_sweep(write(tmp_path / "s.yaml", seeds="3")).seeds == (0, 1, 2)


def test_atari_100k_stands_for_all_games(tmp_path: Path) -> None:
    spec = load_sweep(write(tmp_path / "s.yaml", games="atari-100k"))
    assert spec.games == tuple(games.GAMES)
    assert len(spec.games) == 26


def test_trials_have_100k_steps_unless_told_otherwise_and_as_many_threads_as_cores(tmp_path: Path) -> None:
    spec = load_sweep(write(tmp_path / "s.yaml", steps=None, settings="{learning_rate: 0.001}", checkpoint_every="500"))
    trial = cells(spec)[0].trial
    assert (trial.steps, trial.threads, trial.checkpoint_every) == (100_000, 1, 500)
    assert trial.overrides == {"learning_rate": 0.001}
    assert cells(load_sweep(write(tmp_path / "s.yaml", cpus="2")))[0].trial.threads == 2
    assert cells(load_sweep(write(tmp_path / "s.yaml", resources="{cpus: 3}")))[0].trial.threads == 3


def test_a_folder_is_named_by_its_cell_and_the_start_of_its_key(tmp_path: Path) -> None:
    cell = cells(load_sweep(write(tmp_path / "s.yaml")))[0]
    assert cell.key == TrialSpec(game="pong", variant="rainbow", seed=0, steps=3000).key
    assert cell.folder == f"pong-rainbow-seed0-{cell.key[:8]}"


def test_a_variant_has_settings_of_its_own_over_those_of_all(tmp_path: Path) -> None:
    spec = load_sweep(
        write(
            tmp_path / "s.yaml",
            variants="[rainbow, trl-5x]",
            settings="{n_step: 10, learning_rate: 0.001}",
            variant_settings="{trl-5x: {learning_rate: 0.01}}",
        )
    )
    settings = {cell.trial.variant: cell.trial.settings for cell in cells(spec)}
    assert [settings[name].learning_rate for name in ("rainbow", "trl-5x")] == [0.001, 0.01]
    assert [settings[name].n_step for name in ("rainbow", "trl-5x")] == [10, 10]


def test_axes_multiply_the_cells_of_the_variants_they_apply_to(tmp_path: Path) -> None:
    axes = "{n_step: [3, 20], compression: {values: [2, 4, 8], variants: [trl-5x]}}"
    found = cells(load_sweep(write(tmp_path / "s.yaml", games="[pong]", variants="[denoised, trl-5x]", axes=axes)))
    assert [(cell.trial.variant, dict(cell.axes)) for cell in found] == [
        ("denoised", {"n_step": 3}),
        ("denoised", {"n_step": 20}),
        *(("trl-5x", {"n_step": n, "compression": ratio}) for n in (3, 20) for ratio in (2, 4, 8)),
    ]
    assert [cell.trial.settings.compression for cell in found[2:5]] == [2, 4, 8]
    assert len({cell.folder for cell in found}) == 8


def test_the_evaluation_is_part_of_what_a_cell_is(tmp_path: Path) -> None:
    plain = cells(load_sweep(write(tmp_path / "s.yaml")))[0]
    short = cells(load_sweep(write(tmp_path / "s.yaml", evaluation="{final_episodes: 5, epsilon: 0.05}")))[0]
    assert (short.trial.settings.final_episodes, short.trial.settings.evaluation_epsilon) == (5, 0.05)
    assert short.key != plain.key


def test_only_takes_the_cells_whose_name_matches(tmp_path: Path) -> None:
    grid = cells(load_sweep(write(tmp_path / "s.yaml", seeds="2")))
    assert [cell.name for cell in select(grid, "*-seed1")] == ["pong-rainbow-seed1", "breakout-rainbow-seed1"]
    assert select(grid, None) == grid
    assert [cell.name for cell in select(grid, "!*-seed1")] == ["pong-rainbow-seed0", "breakout-rainbow-seed0"]
    two = select(grid, "pong-*, breakout-*-seed0,!pong-*-seed0")
    assert [cell.name for cell in two] == ["breakout-rainbow-seed0", "pong-rainbow-seed1"]
    with pytest.raises(InputError, match=r"--only 'pnog-\*': matches no cell .*pong-rainbow-seed0"):
        select(grid, "pnog-*")


def test_a_sweep_written_out_in_full_is_the_same_sweep(tmp_path: Path) -> None:
    spec = load_sweep(
        write(
            tmp_path / "s.yaml",
            variants="[trl-5x]",
            axes="{compression: [2, 4]}",
            resources="{cpus: 2, gpus: 0.25, memory: 1.5GiB}",
            tracking="{uri: 'http://there', experiment: other}",
            retries="5",
        )
    )
    assert spec.resources.memory == 3 * 2**29
    assert (spec.experiment, spec.retries) == ("other", 5)
    (tmp_path / "full.yaml").write_text(sweep_yaml(spec))
    assert load_sweep(tmp_path / "full.yaml") == spec


BAD = [
    ({"games": "[pong, brekout]"}, "games: unknown game 'brekout'; did you mean 'breakout'?"),
    (
        {"games": "pong"},
        "games: 'pong' is not a list of games (allowed: a list of names, or the word atari-100k or atari-57)",
    ),
    ({"games": "[]"}, "games: [] is not a list of games"),
    ({"games": "[pong, pong]"}, "games: 'pong' is listed twice"),
    ({"variants": "[rainbo]"}, "variants: unknown variant 'rainbo'; did you mean 'rainbow'?"),
    ({"variants": None}, "variants: missing"),
    ({"seeds": "[0, 1, 0]"}, "seeds: 0 is listed twice"),
    ({"seeds": "[0, -1]"}, "seeds: [0, -1] (allowed: a list of whole numbers from 0 to 2^31 - 1, or how many seeds"),
    ({"seeds": "0"}, "seeds: 0 (allowed"),
    ({"seeds": "[4294967296]"}, "seeds: [4294967296] (allowed: a list of whole numbers from 0 to 2^31 - 1"),
    ({"seeds": "99999999999"}, "or how many seeds, 10,000 at most)"),
    ({"seeds": "yes"}, "seeds: True (allowed"),
    ({"steps": "0"}, "steps: 0 (allowed: a whole number from 1 to 100,000,000)"),
    ({"steps": "1e5"}, "steps: '1e5' (allowed: a whole number from 1 to 100,000,000)"),
    ({"cpus": "0.5"}, "cpus: 0.5 (allowed: a whole number from 1 to 256)"),
    ({"cpus": "2", "resources": "{cpus: 1}"}, "cpus: is given twice, at the top level and in resources"),
    ({"resources": "{cpu: 1}"}, "resources: unknown field 'cpu'; did you mean 'cpus'?"),
    ({"resources": "4"}, "resources: 4 (allowed: a mapping with cpus, gpus, mps, memory)"),
    ({"resources": "{gpus: -1}"}, "resources.gpus: -1 (allowed: a number from 0 to 64, or the word auto)"),
    (
        {"resources": "{memory: lots}"},
        "resources.memory: 'lots' (allowed: bytes, or a size such as 1.5GiB, 16TiB at most)",
    ),
    ({"retries": "-1"}, "retries: -1 (allowed: a whole number from 0 to 1,000)"),
    ({"evaluation": "{epsilon: 2}"}, "evaluation.epsilon: 2 (allowed: a number from 0 to 1; or null)"),
    (
        {"evaluation": "{final_episodes: 0}"},
        "evaluation.final_episodes: 0 (allowed: a whole number from 1 to 10,000; or null)",
    ),
    ({"tracking": "{url: x}"}, "tracking: unknown field 'url'; did you mean 'uri'?"),
    ({"variant_settings": "{denoised: {}}"}, "variant_settings: unknown variant 'denoised' (allowed: rainbow)"),
    ({"variant_settings": "{rainbow: {n_stp: 1}}"}, "unknown setting 'n_stp'; did you mean 'n_step'?"),
    ({"axes": "{compresion: [2]}"}, "axes: unknown setting 'compresion'; did you mean 'compression'?"),
    ({"axes": "{n_step: []}"}, "axes.n_step: [] (allowed: a list of at least one value)"),
    ({"axes": "{n_step: [3, 3]}"}, "axes.n_step: 3 is listed twice"),
    ({"axes": "{n_step: {value: [3]}}"}, "axes.n_step"),
    ({"axes": "{n_step: {values: [3], variants: [denoised]}}"}, "axes.n_step.variants: unknown variant 'denoised'"),
    ({"axes": "{n_step: [3]}", "settings": "{n_step: 3}"}, "axes.n_step: n_step is also set in settings"),
    ({"axes": "{n_step: [0]}"}, "axes (n_step 0), variant rainbow: setting n_step=0"),
    (
        {"axes": "{final_episodes: [1, 2]}", "evaluation": "{final_episodes: 3}"},
        "evaluation: final_episodes is also set in axes",
    ),
    (
        {"variants": "[trl-5x]", "axes": "{compression: [2, 900]}"},
        "axes (compression 900), variant trl-5x: budget of 863 coefficients",
    ),
    (
        {"variants": "[rainbow, denoised]", "settings": "{noisy: false}"},
        "pong-rainbow-seed0 and pong-denoised-seed0 are the same cell",
    ),
    (
        {"variants": "[trl-10x, trl-5x]", "axes": "{compression: {values: [5, 10], variants: [trl-5x]}}"},
        "pong-trl-10x-seed0 and pong-trl-5x-seed0 compression=10 are the same cell",
    ),
    (
        {"settings": "{learning_rate: .inf}"},
        "settings: setting learning_rate=inf (allowed: a number from 1e-12 to 100)",
    ),
    ({"settings": "{v_max: .nan}"}, "settings: setting v_max=nan (allowed: a number from 0.001 to 1,000,000)"),
    ({"evaluation": "{epsilon: .nan}"}, "evaluation.epsilon: nan (allowed: a number from 0 to 1; or null)"),
    ({"resources": "{gpus: .inf}"}, "resources.gpus: inf (allowed: a number from 0 to 64, or the word auto)"),
    ({"evaluation": "{epsilon: true}"}, "evaluation.epsilon: True (allowed: a number from 0 to 1; or null)"),
    ({"settings": "{hidden: true}"}, "settings: setting hidden=True (allowed: a whole number from 1 to 4,096)"),
    ({"resources": "{mps: 1}"}, "resources.mps: 1 (allowed: auto, on, off)"),
    ({"scheduler": "hyperband"}, "scheduler.name: 'hyperband' (allowed: asha)"),
    ({"scheduler": "{name: asha, reduction: true}"}, "scheduler.reduction: True (allowed: a whole number from 2 to"),
    ({"scheduler": "{name: asha, speed: 1}"}, "scheduler: unknown field 'speed'"),
    ({"tracking": '{uri: "http://h\\0"}'}, r"tracking.uri: 'http://h\x00' (allowed: printable characters)"),
    ({"tracking": '{experiment: " "}'}, "tracking.experiment: ' ' (allowed: printable characters)"),
    ({"resources": "{memory: 99999999999999999999}"}, "resources.memory: 99999999999999999999 (allowed"),
    ({"steps": "1000000000000"}, "steps: 1000000000000 (allowed: a whole number from 1 to 100,000,000)"),
    (
        {"axes": f"{{n_step: {list(range(1, 301))}, batch_size: {list(range(1, 301))}}}"},
        "variants and axes make 90,000 combinations of settings (allowed: 2,000 at most)",
    ),
    ({"name": "../up"}, "name: '../up' (allowed: letters"),
    ({"setings": "{}"}, "unknown field 'setings'; did you mean 'settings'?"),
    ({"settings": "{lerning_rate: 1}"}, "unknown setting 'lerning_rate'; did you mean 'learning_rate'?"),
    ({"settings": "{learning_rate: fast}"}, "learning_rate='fast'"),
    ({"settings": "[1]"}, "settings: [1] (allowed: a mapping of settings to values)"),
    ({"settings": "{compression: 3}"}, "compression needs factorization"),
    ({"variants": "[trl-5x]", "settings": "{compression: 900}"}, "settings: budget of 863 coefficients"),
    ({"steps": "-1", "cpus": "0"}, "steps: -1 (allowed: a whole number from 1 to 100,000,000) (and 1 more)"),
]


@pytest.mark.parametrize(("given", "mps"), [("on", "on"), ("off", "off"), ("'on'", "on"), ("auto", "auto")])
def test_on_and_off_need_no_quotes(tmp_path: Path, given: str, mps: str) -> None:
    path = write(tmp_path / "s.yaml", resources=f"{{mps: {given}}}")
    assert load_sweep(path).resources.mps == mps


@pytest.mark.parametrize(("changes", "said"), BAD, ids=[said[:30] for _, said in BAD])
def test_a_mistake_is_one_line_with_the_file_the_field_and_what_is_allowed(
    tmp_path: Path, changes: dict[str, str | None], said: str
) -> None:
    path = write(tmp_path / "s.yaml", **changes)
    with pytest.raises(InputError) as caught:
        load_sweep(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert said in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: a\ngames: [pong\nseeds: 1\n", "line 3: not valid YAML"),
        ("name: a\nname: b\n", "line 2: not valid YAML: 'name' is given twice"),
        ("- pong\n", "contains no fields (allowed: name, games"),
        ("", "contains no fields (allowed: name, games"),
        ("name: \x00\n", "not valid YAML"),
        ("5: a\n", "unknown field '5'"),
    ],
)
def test_a_file_that_is_no_sweep_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_sweep(path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: cannot be read: No such file"):
        load_sweep(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        load_sweep(tmp_path)


def shipped(name: str) -> SweepSpec:
    return load_sweep(ROOT / "tune_jobs" / f"{name}.yaml")


def test_every_shipped_sweep_is_named_as_its_file_and_has_cells() -> None:
    files = sorted(path for path in (ROOT / "tune_jobs").glob("*.yaml") if path.stem != "runtime_env")
    assert len(files) >= 7
    assert [load_sweep(path).name for path in files] == [path.stem for path in files]
    assert all(cells(load_sweep(path)) for path in files)


def test_the_tables_are_26_games_9_variants_and_3_seeds_with_their_baseline_in_common() -> None:
    one, two = cells(shipped("table1")), cells(shipped("table2"))
    assert len(one) == len(two) == 26 * 5 * 3
    assert len({cell.key for cell in one + two}) == 26 * 9 * 3
    assert {cell.trial.steps for cell in one + two} == {100_000}


def test_figure_1_is_50_runs_of_road_runner() -> None:
    found = cells(shipped("eigenvalues"))
    assert len(found) == 50
    assert {cell.trial.game for cell in found} == {"road_runner"}


def test_figures_3_and_4_are_pong_dqn_and_five_ranks_with_three_seeds() -> None:
    found = cells(shipped("pong_ranks"))
    assert len(found) == 6 * 3
    assert {cell.trial.game for cell in found} == {"pong"}
    assert len({cell.trial.variant for cell in found}) == 6


def test_the_pilot_is_72_cells_with_one_seed_of_everything_before_a_second_of_anything() -> None:
    found = cells(shipped("pilot"))
    assert [cell.trial.seed for cell in found] == [seed for seed in range(3) for _ in range(24)]
    without = select(found, "!*-kfac-*")
    assert len(without) == 48
    assert {cell.trial.variant for cell in without} == {"rainbow", "denoised", "trl-5x", "trl-10x"}
    # The keys of the trials that were begun with the first four variants alone.
    assert found[0].folder == "assault-rainbow-seed0-cd8e4f9c"
    assert found[1].folder == "assault-denoised-seed0-85cd7e5b"


def test_the_frontiers_reach_from_1_to_40_and_share_the_ratios_of_the_tables() -> None:
    found = cells(shipped("compression_frontier"))
    shared = {cell.key for cell in found} & {cell.key for cell in cells(shipped("table1")) + cells(shipped("table2"))}
    # Four games, three seeds; rainbow, denoised, kfac-denoised, and each optimizer's 5x and 10x; Adam's 2.5x.
    assert len(shared) == 4 * 3 * (3 + 2 * 2 + 1)
    ratios = [
        count(games.get(cell.trial.game), cell.trial.variant, cell.trial.overrides)["compression_ratio"]
        for cell in (*found, *cells(shipped("compression_frontier_nature")))
        if cell.trial.game == "road_runner" and cell.trial.seed == 0
    ]
    assert min(ratios) == 1
    assert max(ratios) == pytest.approx(40, rel=0.02)
