"""From traces to weights: builders of data, packing, losses, the learner, checkpoints, metrics."""
