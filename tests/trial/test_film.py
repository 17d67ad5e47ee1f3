"""A film shows the game that is evaluated, as people see it, and is written as it is played."""

import tracemalloc

import ale_py
import numpy as np
import pytest
from ale_py import roms
from imageio_ffmpeg import read_frames

from tensorrl.environments.atari import game_seed
from tensorrl.environments.screen import ColorGame
from tensorrl.trial import film as film_module
from tensorrl.trial.evaluation import evaluate
from tensorrl.trial.film import STRIP, Film, filming, value_text
from tensorrl.trial.settings import network_spec
from tensorrl.trial.training import build_network
from tensorrl.trial.variants import resolve


def raw_game(game, seed, noops):
    """ALE itself, without any wrapper."""
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    ale.setInt("random_seed", seed)
    ale.loadROM(roms.get_rom_path(game))
    ale.reset_game()
    for _ in range(noops):
        ale.act(0)
    return ale


def as_shown(ale, first, played, actions):
    """Whether ALE's last two screens of every step make the screens that were shown."""
    if not np.array_equal(ale.getScreenRGB(), first):
        return False
    score = 0
    for action, screen, shown_score in played:
        screens, greys = [], []
        for _ in range(4):
            score += ale.act(actions[action])
            screens.append(ale.getScreenRGB())
            greys.append(ale.getScreenGrayscale().astype(int))
        (before, last), (grey, last_grey) = screens[-2:], greys[-2:]
        clear = np.abs(grey - last_grey) > 3  # ALE rounds its own grey
        expected = np.where((grey > last_grey)[..., None], before, last)
        either = np.equal(screen, before).all(-1) | np.equal(screen, last).all(-1)
        if not (either.all() and np.array_equal(screen[clear], expected[clear]) and shown_score == score):
            return False
    return True


def decode(path):
    reader = read_frames(str(path))
    width, height = next(reader)["size"]
    return [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]


@pytest.mark.parametrize("game", ["assault", "breakout"])
def test_the_screen_is_ales_own_in_colour(game):
    seed = game_seed(5, 0)
    shown = ColorGame(game, seed)
    actions, rng = raw_game(game, seed, 0).getMinimalActionSet(), np.random.default_rng(0)
    assert shown.actions == [action.name for action in actions]
    first, played = shown.screen, []
    for action in rng.integers(len(actions), size=150).tolist():
        shown.act(action)
        played.append((action, shown.screen, shown.score))
    # How many no-ops the seed begins with, ALE's vector environment does not tell.
    assert any(as_shown(raw_game(game, seed, noops), first, played, actions) for noops in range(31))
    assert len(np.unique(shown.screen.reshape(-1, 3), axis=0)) > 3
    shown.close()


def test_a_filmed_game_scores_as_one_that_is_not_and_the_file_holds_all_of_it(tmp_path):
    network = build_network(network_spec(resolve("denoised"), 4), 0)
    options = {"episodes": 2, "seed": 3, "epsilon": 0.5}
    plain = evaluate(network, "breakout", **options)
    for name in ("game: one.mp4", "game.gif"):
        seen = []
        with filming(tmp_path / name, "breakout", 3) as film:
            write = film.write
            film.write = lambda frame, write=write, seen=seen: (seen.append(frame), write(frame))
            assert evaluate(network, "breakout", watch=film, **options) == plain
        assert (film.game.score, film.steps, film.game.over) == (*plain[0], True)
        decoded = decode(tmp_path / name)
        assert {frame.shape for frame in decoded} == {(210, 160 + STRIP, 3)}
        if name.endswith(".mp4"):
            assert len(decoded) == len(seen) == plain[0].steps + 1
            # Chroma is kept for two pixels by two, so edges differ a little.
            assert np.mean(np.abs(decoded[100].astype(int) - seen[100])) < 4
        else:
            assert np.array_equal(decoded[0], seen[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["game.gif", "game: one.mp4"]


def test_memory_does_not_grow_with_the_film(tmp_path):
    with filming(tmp_path / "game.mp4", "breakout", 0) as film:
        values = np.arange(4, dtype=np.float32)
        for k in range(420):
            if k == 20:
                tracemalloc.start()
            film(0, values)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert film.steps == 420
    assert peak < 20 * 210 * (160 + STRIP) * 3


def test_an_interrupted_film_leaves_nothing_and_spares_what_was_there(tmp_path):
    (tmp_path / "game.mp4").write_bytes(b"the film before")

    def begin():
        with filming(tmp_path / "game.mp4", "pong", 0) as film:
            film(0, np.zeros(6, dtype=np.float32))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        begin()
    assert [path.name for path in tmp_path.iterdir()] == ["game.mp4"]
    assert (tmp_path / "game.mp4").read_bytes() == b"the film before"


def test_the_strip_marks_the_action_taken_and_the_best_and_fits_eighteen_actions():
    frames = []
    film = Film("road_runner", 1, frames.append)
    values = np.linspace(-1, 1, 18, dtype=np.float32)
    film(3, values)
    film(4, np.full(18, np.nan, dtype=np.float32))
    film.close()
    strip = frames[0][:, 160:]
    rows = {k: strip[30 + 10 * k : 40 + 10 * k] for k in range(18)}
    taken = [k for k, row in rows.items() if (row == film_module._TAKEN).all(-1).mean() > 0.5]
    best = [k for k, row in rows.items() if (row == film_module._BEST).all(-1).sum() > 50]
    assert (taken, best) == ([3], [17])
    assert np.array_equal(frames[0][:, :160], ColorGame("road_runner", 1).screen)
    assert [value_text(v) for v in (0.0123, -12.3456, 1234.567, 123456.7)] == ["0.012", "-12.346", "1234.57", "123457"]
