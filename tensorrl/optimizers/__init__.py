"""What turns gradients into updates, beside PyTorch's own optimizers."""
