"""Films a game as it is played: the screen in its own colours, and beside it the score and the actions' Q-values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from tensorrl import files
from tensorrl.environments.atari import ACTION_REPEAT, game_seed
from tensorrl.environments.screen import ColorGame, Screen

FORMATS = (".mp4", ".gif")
STRIP = 160
"""Width of the strip beside the screen, in pixels. With 160 of the screen it makes a multiple of 16, as codecs want."""

_FRAMES_PER_SECOND = 60 // ACTION_REPEAT
_QUALITY = 8
# Every frame of a GIF gets its own palette: an Atari has 128 colours, so all are kept, and no frame waits for another.
_GIF = "split[a][b];[a]palettegen=stats_mode=single[p];[b][p]paletteuse=new=1:dither=none"

_GROUND, _DIM, _TEXT, _BEST, _TAKEN = (16, 16, 20), (150, 150, 158), (236, 236, 240), (255, 200, 60), (44, 74, 128)
_MARGIN, _HEAD, _ROW, _LETTER = 4, 30, 12, 6
_VALUE_LETTERS = 7

Values = npt.NDArray[np.float32]
"""(actions,)."""


class Film:
    """One game's film. Called with every action as it is played, it writes the screen on which that was chosen.

    It plays the game once more, in colour: the game that is filmed goes as it would without.

    Args:
        game: ALE's name.
        seed: that the game is reset with.
        write: takes frames (height, width + `STRIP`, 3) uint8 RGB, one an agent step; it must not keep them all.
    """

    def __init__(self, game: str, seed: int, write: Callable[[Screen], None] = lambda frame: None) -> None:
        self.game = ColorGame(game, seed)
        self.write = write
        self._font = ImageFont.load_default_imagefont()
        self.steps = 0

    def __call__(self, action: int, values: Values) -> None:
        """Writes one frame, then plays the action.

        Args:
            action: the one taken; by chance not always the best.
            values: the Q-values (actions,) it was chosen by.
        """
        self.write(self.frame(action, values))
        self.game.act(action)
        self.steps += 1

    def finish(self) -> None:
        """Writes the last screen, with the final score."""
        self.write(self.frame(None, None))

    def close(self) -> None:
        """Ends ALE's thread."""
        self.game.close()

    def frame(self, action: int | None, values: Values | None) -> Screen:
        """The present screen and its strip, (height, width + `STRIP`, 3) uint8 RGB.

        The action taken has a blue ground, the best Q-value is yellow; bars go from the least value to the best.
        """
        screen, names = self.game.screen, self.game.actions
        height, width = screen.shape[:2]
        image = Image.new("RGB", (width + STRIP, height), _GROUND)
        image.paste(Image.fromarray(screen), (0, 0))
        draw = ImageDraw.Draw(image)
        left, right = width + _MARGIN, width + STRIP - _MARGIN
        for line, (label, text) in enumerate((("score", f"{self.game.score:,.0f}"), ("step", f"{self.steps:,}"))):
            self._text(draw, left, 2 + 13 * line, label, _DIM)
            self._text(draw, right - _LETTER * len(text), 2 + 13 * line, text, _TEXT)
        row = min(_ROW, (height - _HEAD) // len(names))
        bars = left + _LETTER * max(map(len, names)) + _MARGIN
        most = right - _LETTER * _VALUE_LETTERS - _MARGIN - bars
        for k, name in enumerate(names):
            top = _HEAD + row * k
            if k == action:
                draw.rectangle((width + 1, top, width + STRIP - 2, top + row - 1), fill=_TAKEN)
            if values is None:
                self._text(draw, left, top - 1, name, _DIM)
                continue
            color = _BEST if k == int(values.argmax()) else _TEXT
            self._text(draw, left, top - 1, name, color)
            spread = float(values.max() - values.min())
            share = float(values[k] - values.min()) / spread if 0 < spread < np.inf else 1.0
            draw.rectangle((bars, top + 3, bars + max(round(share * most), 1), top + row - 4), fill=color)
            text = value_text(float(values[k]))
            self._text(draw, right - _LETTER * len(text), top - 1, text, color)
        return np.asarray(image)

    def _text(self, draw: ImageDraw.ImageDraw, x: int, y: int, text: str, color: tuple[int, int, int]) -> None:
        draw.text((x, y), text, fill=color, font=self._font)


def value_text(value: float) -> str:
    """A Q-value in at most seven letters: 0.012, -12.346, 1234.57."""
    for digits in (3, 2, 1, 0):
        if len(text := f"{value:.{digits}f}") <= _VALUE_LETTERS:
            return text
    return f"{value:.1e}"


@contextmanager
def filming(path: Path, game: str, seed: int) -> Iterator[Film]:
    """Gives a film of an evaluation's first game that is written to a file as it is played; whole or not at all.

    Args:
        path: the file, .mp4 or .gif.
        game: ALE's name.
        seed: of the evaluation.

    Raises:
        OSError: the file cannot be written.
    """
    from imageio_ffmpeg import write_frames

    options: dict[str, Any] = {
        "codec": "gif",
        "quality": None,
        "output_params": ["-f", "gif", "-vf", _GIF, "-loop", "0"],
    }
    if path.suffix != ".gif":
        options = {"codec": "libx264", "quality": _QUALITY}
    with (
        files.replacing(path, sync=False, keep_suffix=True) as draft,
        closing(Film(game, game_seed(seed, 0))) as film,
    ):
        height, width = film.frame(None, None).shape[:2]
        # The whole path, since ffmpeg reads what stands before a colon as a protocol.
        writer = write_frames(
            str(draft.absolute()),
            (width, height),
            pix_fmt_out="pal8" if path.suffix == ".gif" else "yuv420p",
            fps=_FRAMES_PER_SECOND,
            macro_block_size=2,
            ffmpeg_log_level="fatal",
            **options,
        )

        def write(frame: Screen) -> None:
            try:
                writer.send(np.ascontiguousarray(frame))
            except OSError:
                raise OSError(f"{path}: the film cannot be written (is the disk full?)") from None

        with closing(writer):
            writer.send(None)
            film.write = write
            yield film
            film.finish()
        _check(draft, path)


def _check(draft: Path, path: Path) -> None:
    """Raises OSError where a film has no readable beginning: ffmpeg's own exit is not told."""
    from imageio_ffmpeg import read_frames

    try:
        with closing(read_frames(str(draft.absolute()))) as reader:
            next(reader)
    except OSError:
        raise OSError(f"{path}: the film cannot be written (is the disk full?)") from None
