"""How it is learned: targets, replay, exploration and the update. Torch only."""
