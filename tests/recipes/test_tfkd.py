"""The recipes of the Tf-KD paper."""

import pytest

from fastkd.recipes import RECIPES, cifar100_tfkd


class TestTfKDWeights:
    """Weights of KL (batch mean, without τ²) as read from the code's runs on CIFAR-100 by themselves."""

    @pytest.mark.parametrize(
        "teacher, student, ce, kl",
        [
            ("ResNet18", "tf_mobilenet_v2", 0.05, 3.8),
            ("tf_densenet121", "tf_shufflenet_v2", 0.05, 3.8),
            ("tf_resnext29_8x64d", "ResNet18", 0.4, 2.4),
            ("tf_mobilenet_v2", "ResNet18", 0.4, 2.4),  # Re-KD
        ],
    )
    def test_kd(self, teacher, student, ce, kl):
        given = cifar100_tfkd(teacher_net=teacher, student=student).stages[1].settings["kd"]
        assert (given.ce_weight, given.kl_weight * given.temperature**2) == pytest.approx((ce, kl))

    def test_kd_on_cifar10(self):
        given = RECIPES["cifar10-tfkd"]().stages[1].settings["kd"]
        assert given.kl_weight * given.temperature**2 == pytest.approx(36)

    @pytest.mark.parametrize(
        "network, ce, kl",
        [
            ("tf_mobilenet_v2", 0.05, 3.8),
            ("tf_shufflenet_v2", 0.05, 3.8),
            ("ResNet18", 0.05, 17.1),
            ("tf_googlenet", 0.6, 80),
            ("tf_densenet121", 0.1, 180),
            ("tf_resnext29_8x64d", 0.1, 360),
        ],
    )
    def test_self(self, network, ce, kl):
        given = cifar100_tfkd(teacher_net=network, student=network, method="tfkd_self").stages[1].settings["tfkd_self"]
        assert given.arithmetic == "code"
        weight = given.alpha * given.multiplier * given.temperature**2 / 100
        assert (1 - given.alpha, weight) == pytest.approx((ce, kl))

    @pytest.mark.parametrize(
        "network, kl",
        [("tf_mobilenet_v2", 0.0095), ("tf_shufflenet_v2", 0.0095), ("ResNet18", 0.1), ("tf_googlenet", 0.05)],
    )
    def test_reg(self, network, kl):
        recipe = cifar100_tfkd(student=network, method="tfkd_reg")
        given = recipe.stages[0].settings["tfkd_reg"]
        assert [stage.name for stage in recipe.stages] == ["student"]
        assert given.alpha * given.multiplier / 100 == pytest.approx(kl)

    @pytest.mark.parametrize(
        "network, batch, lr",
        [("ResNet18", 128, 0.1), ("ResNet50", 64, 0.05), ("tf_densenet121", 128, 0.1), ("tf_googlenet", 64, 0.05)],
    )
    def test_batches_and_rates(self, network, batch, lr):
        training = cifar100_tfkd(student=network).stages[1].training
        assert (training.batch_size, training.lr, training.factor, training.warmup_epochs) == (batch, lr, 0.2, 1)

    @pytest.mark.parametrize(
        "teacher, student, batch",
        [
            ("tf_mobilenet_v2", "ResNet50", 128),
            ("ResNet50", "ResNet18", 64),
            ("tf_resnext29_8x64d", "tf_mobilenet_v2", 64),
            ("tf_mobilenet_v2", "tf_densenet121", 128),
            ("tf_shufflenet_v2", "tf_densenet121", 100),
        ],
    )
    def test_the_codes_batches_are_those_of_a_pair(self, teacher, student, batch):
        """params.json of the released code; the baseline beside it has batches of its own."""
        made = cifar100_tfkd(teacher_net=teacher, student=student, control=True).stages
        assert (made[1].training.batch_size, made[1].training.lr) == (batch, round(0.1 * batch / 128, 3))
        assert made[2].training == cifar100_tfkd(teacher_net=student).stages[0].training


def test_de_kds_teachers_stop_early():
    assert [
        RECIPES["cifar100-dekd"](teacher_net=net).stages[0].training.epochs for net in ("ResNet18", "ResNet50")
    ] == [1, 50]
