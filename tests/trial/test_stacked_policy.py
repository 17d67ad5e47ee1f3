"""The policy of evaluation."""

import numpy as np

from tensorrl.trial.settings import network_spec
from tensorrl.trial.training import StackedPolicy, build_network
from tensorrl.trial.variants import resolve


def test_the_network_is_asked_only_where_a_frame_has_changed():
    network = build_network(network_spec(resolve("trl-10x"), 6), 0).eval()
    asked = []
    network.register_forward_hook(lambda *_: asked.append(1))
    policy, fresh = StackedPolicy(network), StackedPolicy(network)
    rng = np.random.default_rng(0)
    still = rng.integers(0, 256, (3, 84, 84), dtype=np.uint8)
    frames = [still] * 6 + [rng.integers(0, 256, (3, 84, 84), dtype=np.uint8)] + [still] * 6
    given = []
    for step, frame in enumerate(frames):
        begins = np.full(3, step == 0)
        given.append(policy(frame, begins))
        before = len(asked)
        fresh._asked = None
        assert np.array_equal(fresh(frame, begins), given[-1])
        del asked[before:]
        given[-1][:] = -1  # what a caller does to the actions is not what it is given next
    # Four stacks differ until the still frame fills one, and four more after the change, its own among them.
    assert len(asked) == 4 + 1 + 4
