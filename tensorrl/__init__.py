"""How few coefficients can a value-based Atari agent have before it gets worse?"""
