"""Real Atari: ALE's vector environment, one game in training and many in evaluation."""
