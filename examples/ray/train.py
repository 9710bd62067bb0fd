"""fastkd in Ray Train: Ray starts the processes and makes their group, fastkd takes both as they are.

    pip install "fastkd[ray]"
    python examples/ray/train.py 2 digits --method crd --run /shared/runs/first --resume auto

The first word is the number of workers, the others are those of `fastkd.train`. The run's folder is an absolute path
that all workers see: where one is lost, Ray starts them again, and they go on there.
"""

import sys

import torch


def work(words: list[str]) -> None:
    from fastkd.train import main

    if code := main(words):
        raise SystemExit(code)


def train(workers: int, words: list[str]) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    scaling = ScalingConfig(num_workers=workers, use_gpu=torch.cuda.is_available())
    again = RunConfig(failure_config=FailureConfig(max_failures=100))
    TorchTrainer(work, train_loop_config=words, scaling_config=scaling, run_config=again).fit()


if __name__ == "__main__":
    train(int(sys.argv[1]), sys.argv[2:])
