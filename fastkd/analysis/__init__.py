"""What papers measure of networks that are trained: likelihoods, corruptions, frozen features, pruning, pictures."""
