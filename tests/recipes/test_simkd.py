"""The recipes of the SimKD paper."""

import pytest

from fastkd.methods.crd import CRDSettings
from fastkd.methods.fitnet import FitNetSettings
from fastkd.methods.kd import KDSettings
from fastkd.methods.semckd import SemCKDSettings
from fastkd.methods.simkd import SimKDSettings
from fastkd.recipes import cifar100_simkd, imagenet_simkd
from fastkd.recipes.published import beside_the_paper

EVEN = KDSettings(ce_weight=1.0, kl_weight=1.0, temperature=4.0)


class TestCIFAR100:
    @pytest.mark.parametrize(
        "teacher, student, rates",
        [
            ("resnet32x4", "resnet8x4", (0.05, 0.05)),
            ("resnet32x4", "ShuffleV2", (0.05, 0.01)),
            ("resnet32x4", "MobileNetV2", (0.05, 0.01)),
            ("ShuffleV2", "resnet8x4", (0.01, 0.05)),
        ],
    )
    def test_trained_as_sftns_but_for_a_small_teachers_rate(self, teacher, student, rates):
        trainings = [stage.training for stage in cifar100_simkd(teacher_net=teacher, student=student).stages]
        assert tuple(training.lr for training in trainings) == rates
        for training in trainings:
            assert (training.epochs, training.batch_size, training.milestones) == (240, 64, (150, 180, 210))
            assert (training.weight_decay, training.nesterov) == (5e-4, False)

    def test_simkd_stands_alone_and_the_others_beside_kd(self):
        assert cifar100_simkd().stages[1].method == "simkd"
        fitnet = cifar100_simkd(method="fitnet").stages[1]
        assert (fitnet.method, fitnet.settings) == ("kd+fitnet", {"kd": EVEN, "fitnet": FitNetSettings(block=1)})
        assert cifar100_simkd(method="kd").stages[1].settings == {"kd": EVEN}
        assert "kd" not in cifar100_simkd(method="ce+at").stages[1].settings

    def test_the_teacher_is_a_standard_one(self):
        assert cifar100_simkd().stages[0].sftn is None

    def test_its_main_result_is_beside_it(self):
        recipe = beside_the_paper(cifar100_simkd())
        assert recipe.stages[1].published.top1 == 78.08
        assert all("nesterov off where the paper prints on" in words for words in recipe.deviations)

    def test_the_projector_reads_the_map_that_the_papers_parameter_counts_prove(self):
        for student, source in (("ShuffleV2", "final_map"), ("MobileNetV2x2", "final_map"), ("ShuffleV1", "feature")):
            assert cifar100_simkd(student=student).stages[1].settings["simkd"].source == source


class TestImageNet:
    def test_images_and_training_are_the_papers(self):
        recipe = imagenet_simkd()
        training, crop = recipe.stages[1].training, recipe.augmentation
        assert recipe.stages[0].training == training
        assert (training.epochs, training.batch_size, training.lr) == (120, 256, 0.1)
        assert (training.milestones, training.weight_decay) == ((30, 60, 90), 1e-4)
        assert (crop.crop, crop.area, crop.aspect) == ("resized", (0.1, 1.0), (0.8, 1.25))
        assert recipe.image_size == 224 and recipe.published_classes == 1000

    def test_the_projector_is_depthwise_there(self):
        assert imagenet_simkd().stages[1].settings == {"simkd": SimKDSettings(projector="depthwise")}

    @pytest.mark.parametrize("method, said", (("simkd", 0), ("kd", 0), ("at", 1), ("ce+at", 1), ("semckd", 1)))
    def test_weights_that_the_paper_does_not_print_are_a_deviation(self, method, said):
        words = ("the paper does not print this method's weight on ImageNet",) * said
        crops = "the paper does not print area and aspect of its crops: those of its code"
        assert imagenet_simkd(method=method).deviations == (crops, *words)

    def test_methods_have_their_authors_weights_for_imagenet(self):
        assert imagenet_simkd(method="semckd").stages[1].settings["semckd"] == SemCKDSettings(weight=50.0)
        assert imagenet_simkd(method="crd").stages[1].settings["crd"] == CRDSettings(replacement=True)
