"""One training from its first step to its last epoch: stages, the step and its speed-ups, checkpoints, evaluation."""
