"""Evaluation on full games: several at once, true rewards, each episode seeded on its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from tensorrl.environments.atari import Frame, action_count, game_seed, make_vector_env

BATCH = 16
"""Most stacks in a pass through the network."""
AHEAD = 4
"""Emulators with work for each thread, where there are several: a pass takes as long as some steps of the emulator."""
PATIENCE = 4
"""Steps that the other games take, each, while a game waits for a pass that is not full."""


class Episode(NamedTuple):
    """One full game."""

    score: float
    """Sum of true rewards."""
    steps: int
    """Length in agent steps."""


class Policy(Protocol):
    """Chooses greedy actions for several games, each at a seat of its own."""

    batch: int
    """Rows of a pass, which a call of `choose` makes."""

    def see(self, seat: int, frame: Frame, *, begins: bool) -> int | None:
        """Takes a game's newest frame, (84, 84) uint8; `begins` marks the first of a game.

        Returns the action where it is known at once; otherwise None, and `choose` is called for the seat before it sees
        another frame.
        """

    def choose(self, seats: list[int], rows: list[int]) -> npt.NDArray[np.int64]:
        """Returns the actions (seats,) for the newest frames of some seats, each at a row of its own in the pass."""


class EvaluationGames:
    """Seats at which full games are played at once, kept for the next evaluation: ALE takes 0.1 s to open one.

    Every seat has an emulator of its own, so that a seat whose games are over costs nothing.

    Args:
        game: ALE's name.
    """

    def __init__(self, game: str) -> None:
        self.game = game
        self._seats: list[_Seat] = []

    def play(
        self,
        policy: Policy,
        *,
        episodes: int,
        seed: int,
        epsilon: float = 0.001,
        at_once: int | None = None,
        threads: int = 1,
        on_action: Callable[[int], None] | None = None,
        on_episode: Callable[[int], None] | None = None,
    ) -> list[Episode]:
        """Plays full games with an ε-greedy policy and returns them in the order of their seeds.

        Every episode is finished, so short games are not over-represented. Episode k draws its no-ops and its random
        actions from (seed, k), and always has row k modulo `policy.batch`, whatever the number of games at once. The
        first episode is played at seat 0.

        Args:
            policy: chooses greedy actions; keeps its own stacks of frames, for as many seats as there are.
            episodes: how many games.
            seed: of the whole evaluation.
            epsilon: probability of a random action.
            at_once: games at once, at most; see `seats_of`.
            threads: cores for the emulators. With one, an emulator runs or the policy; with several, emulators run
                beside the policy, and a pass does not wait for them.
            on_action: called with every action of the first episode while ALE plays it, as for a film.
            on_episode: called with how many episodes are over, whenever one more is.
        """
        beginner = ThreadPoolExecutor(threads)
        try:
            return self._play(policy, beginner, episodes, seed, epsilon, at_once, threads, on_action, on_episode)
        except BaseException:
            # Some emulators still play, and their next frames would be taken for those of new games.
            beginner.shutdown(cancel_futures=True)
            self.close()
            raise
        finally:
            beginner.shutdown()

    def _play(
        self,
        policy: Policy,
        beginner: ThreadPoolExecutor,
        episodes: int,
        seed: int,
        epsilon: float,
        at_once: int | None,
        threads: int,
        on_action: Callable[[int], None] | None,
        on_episode: Callable[[int], None] | None,
    ) -> list[Episode]:
        results: list[Episode | None] = [None] * episodes
        seats = self._take(seats_of(episodes, threads, at_once))
        queues = _Queues(range(len(seats), episodes), policy.batch)
        waiting: list[_Seat] = []  # for the policy
        ready: deque[tuple[_Seat, int]] = deque()  # with the action chosen
        beginning: deque[_Seat] = deque(seats)  # with the first frame to come
        playing: deque[_Seat] = deque()  # with the next frame to come
        live, waited, most = len(seats), 0, 1 if threads == 1 else AHEAD * threads

        for seat in seats:
            seat.begin(seed, seat.number, beginner)
        while waiting or ready or beginning or playing:
            while ready and len(beginning) + len(playing) < most:
                seat, action = ready.popleft()
                action = seat.send(action, epsilon)
                if on_action is not None and seat.episode == 0:
                    on_action(action)
                playing.append(seat)
            # Of the games that have one row, the first to wait goes first.
            some = {seat.episode % policy.batch: seat for seat in reversed(waiting)}
            if some and (len(some) == policy.batch or not (beginning or playing) or waited >= PATIENCE * live):
                waiting = [seat for seat in waiting if seat not in some.values()]
                actions = policy.choose([seat.number for seat in some.values()], list(some)).tolist()
                ready.extend(zip(some.values(), actions, strict=True))
                waited = 0
                continue
            seat = (beginning if beginning and (not playing or beginning[0].has_begun) else playing).popleft()
            frame, over = seat.receive()
            waited += bool(waiting)
            if over:
                results[seat.episode] = Episode(seat.score, seat.steps)
                if on_episode is not None:
                    on_episode(episodes - results.count(None))
                following = queues.after(seat.episode)
                if following is None:
                    live -= 1
                else:
                    seat.begin(seed, following, beginner)
                    beginning.append(seat)
                continue
            known = policy.see(seat.number, frame, begins=seat.steps == 0)
            if known is None:
                waiting.append(seat)
            else:
                ready.append((seat, known))
        return [episode for episode in results if episode is not None]

    def _take(self, count: int) -> list[_Seat]:
        while len(self._seats) < count:
            self._seats.append(_Seat(self.game, len(self._seats)))
        return self._seats[:count]

    def close(self) -> None:
        """Ends the emulators; another evaluation opens new ones."""
        seats, self._seats = self._seats, []
        for seat in seats:
            seat.close()


class _Queues:
    """Episodes to come, by their rows in a pass."""

    def __init__(self, episodes: range, rows: int) -> None:
        self._queues: list[deque[int]] = [deque() for _ in range(rows)]
        for episode in episodes:
            self._queues[episode % rows].append(episode)

    def after(self, episode: int) -> int | None:
        """Takes the next episode when one is over: of its row, so that rows differ, else of the longest queue."""
        queue = self._queues[episode % len(self._queues)] or max(self._queues, key=len)
        return queue.popleft() if queue else None


class _Seat:
    """An emulator with a thread of its own, which plays one game after another."""

    def __init__(self, game: str, number: int) -> None:
        self.number = number
        self._env = make_vector_env(game, 1, threads=1)
        self._actions = action_count(self._env)
        self.episode, self.score, self.steps = -1, 0.0, 0
        self._begun: Future[Any] | None = None

    def begin(self, seed: int, episode: int, beginner: ThreadPoolExecutor) -> None:
        """Begins a game, whose first frame `receive` gives. ALE takes 0.1 s for it, in which other games go on."""
        self.episode, self.score, self.steps = episode, 0.0, 0
        self._explorer = np.random.default_rng((seed, episode))
        self._begun = beginner.submit(self._env.reset, seed=np.array([game_seed(seed, episode)]))

    @property
    def has_begun(self) -> bool:
        """Whether `receive` gives the first frame at once."""
        return self._begun is not None and self._begun.done()

    def send(self, action: int, epsilon: float) -> int:
        if self._explorer.random() < epsilon:
            action = int(self._explorer.integers(self._actions))
        self._env.send(np.array([action], dtype=np.int64))
        return action

    def receive(self) -> tuple[Frame, bool]:
        """Waits for the frame after what was begun or sent, and tells whether the game is over."""
        if self._begun is not None:
            begun, self._begun = self._begun, None
            return begun.result()[0][0, 0], False
        observed, rewards, terminated, truncated, info = self._env.recv()
        self.score += float(rewards[0])
        self.steps += 1
        return observed[0, 0], bool(truncated[0]) or (bool(terminated[0]) and int(info["lives"][0]) == 0)

    def close(self) -> None:
        self._env.close()


def seats_of(episodes: int, threads: int, at_once: int | None = None) -> int:
    """How many games are played at once: enough for a full pass, and as many again for ALE's other threads meanwhile.

    Args:
        episodes: of the evaluation.
        threads: emulators that run at the same time.
        at_once: the most, where the caller knows better.
    """
    return min(episodes, at_once or (BATCH if threads == 1 else 2 * BATCH))


def play_episodes(game: str, policy: Policy, **options: object) -> list[Episode]:
    """Plays one evaluation; see `EvaluationGames.play` for the options."""
    with closing(EvaluationGames(game)) as games:
        return games.play(policy, **options)  # type: ignore[arg-type]
