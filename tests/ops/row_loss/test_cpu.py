"""The compiled kernel of a CPU, in vectors of every width that this machine has."""

import pytest
import torch
from helpers.crd_cases import needs_library
from helpers.instructions import every_instruction_set, instructions  # noqa: F401
from helpers.row_cases import DEFAULT, Options, assert_no_worse, exact, forced, gradient_of, make
from helpers.row_kernels import CAPPED, EVERY, HARD, HardCases, KernelContract, poisoned_memory  # noqa: F401
from helpers.row_operation import OperationContract

from fastkd.losses import SparseTeacher
from fastkd.ops.row_loss import Form, Found, Labels, Rows, Teacher, cpu

pytestmark = [
    needs_library,
    pytest.mark.usefixtures("poisoned_memory"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),  # Inductor's own
]
COMPARED = [case for case in EVERY if case[0] != "none"]


@every_instruction_set
class TestKernel(KernelContract):
    path = "cpu"

    @pytest.mark.parametrize("classes", (1, 16, 31, 4099))
    @pytest.mark.parametrize("kind, divergence", EVERY)
    def test_rows_of_whole_vectors_and_of_parts(self, kind, divergence, classes):
        assert_no_worse(make(kind, 2, classes, seed=classes), divergence, path="cpu")

    @pytest.mark.parametrize("kind, divergence", COMPARED)
    def test_without_labels(self, kind, divergence):
        assert_no_worse(make(kind, 3, 37, "none"), divergence, path="cpu")

    @pytest.mark.parametrize("kind, divergence", COMPARED)
    def test_a_temperature_of_1(self, kind, divergence):
        """CE and the divergence have their exponentials in common."""
        assert_no_worse(make(kind, 3, 37), divergence, Options(temperature=1.0), path="cpu")

    @pytest.mark.parametrize("beta", (0.0, 1.0))
    @pytest.mark.parametrize("kind", ("logits", "probabilities", "lumped"))
    def test_the_ends_of_jsd(self, kind, beta):
        assert_no_worse(make(kind, 3, 37), "jsd", Options(beta=beta), path="cpu")


@every_instruction_set
@pytest.mark.parametrize("kind, divergence", HARD)
class TestHardCases(HardCases):
    path = "cpu"


class TestOperation(OperationContract):
    path = "cpu"


@every_instruction_set
class TestAgreement:
    @pytest.mark.parametrize("apart", (0.0, 1e-5, 1e-3, 1e-1))
    @pytest.mark.parametrize("classes", (50, 4099))
    @pytest.mark.parametrize("divergence", ("forward", "reverse"))
    def test_every_error_of_kl_is_a_share_of_it(self, divergence, classes, apart):
        """KL of networks that nearly agree is far below the rounding of a logarithm."""
        case = make("logits", 4, classes, "none", seed=8)
        case = case._replace(student=case.teacher + apart * case.student)
        options = Options(pair_weight=1.0)
        with forced("cpu"):
            losses = gradient_of(case, divergence, options, torch.ones(4))[0]
        right = exact(case, divergence, options, torch.ones(4).double())[0]
        assert ((losses - right).abs() <= 2e-5 * right + 1e-14).all()

    @pytest.mark.parametrize("divergence", ("forward", "reverse", "jsd"))
    def test_kept_classes_of_networks_that_nearly_agree(self, divergence):
        case = make("lumped", 4, 50, "none", seed=8)
        teacher = make("logits", 4, 50, "none", seed=8).teacher
        assert_no_worse(case._replace(student=teacher + 1e-3 * case.student), divergence, path="cpu")


@every_instruction_set
class TestTeachers:
    def test_padding_is_no_class(self):
        case = make("lumped", 3, 9)
        kept, log_probs, tail = case.teacher
        padded = SparseTeacher(
            torch.cat([torch.full((3, 2), -1), kept], 1).int(), torch.cat([torch.zeros(3, 2), log_probs], 1), tail
        )
        with forced("cpu"):
            results = [
                gradient_of(case._replace(teacher=one), "forward", DEFAULT, torch.ones(3))
                for one in (padded, case.teacher)
            ]
        torch.testing.assert_close(*results, rtol=0, atol=0)

    @pytest.mark.parametrize("kind", ("lumped", "renormalised", "sampled"))
    def test_every_class_is_kept(self, kind):
        assert_no_worse(make(kind, 3, 2100, k=2100), "forward", path="cpu")

    @pytest.mark.parametrize("divergence", ("forward", "jsd"))
    def test_a_tail_that_is_beyond_float32(self, divergence):
        """The student gives the kept classes e^100 times what it gives the others."""
        case = make("lumped", 3, 9)
        case.student.scatter_add_(1, case.teacher.indices, torch.full((3, 3), 100.0))
        losses, gradient = exact(case, divergence, Options(temperature=1.0), torch.ones(3).double())
        with forced("cpu"):
            found = gradient_of(case, divergence, Options(temperature=1.0), torch.ones(3))
        torch.testing.assert_close(found[0].double(), losses, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found[1].double(), gradient, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("kind", ("probabilities", "sampled"))
    @pytest.mark.parametrize("mass", (0.0, 0.5, 2.0))
    def test_a_teacher_of_any_mass(self, kind, mass):
        case = make(kind, 3, 9)
        if kind == "sampled":
            teacher = case.teacher._replace(log_probabilities=case.teacher.log_probabilities + torch.tensor(mass).log())
        else:
            teacher = type(case.teacher)(case.teacher.probabilities * mass)
        assert_no_worse(case._replace(teacher=teacher), "forward", path="cpu")

    def test_probabilities_without_a_normal_logarithm(self):
        case = make("probabilities", 3, 9)
        case.teacher.probabilities[0, 3], case.teacher.probabilities[1, 4] = 0.0, 1e-40
        assert_no_worse(case, "jsd", path="cpu")

    def test_a_kept_class_out_of_range(self):
        case = make("lumped", 3, 9)
        case.teacher.indices[1, 0] = 9
        with forced("cpu"), pytest.raises(RuntimeError, match="a kept class is outside 0..8"):
            gradient_of(case, "forward", DEFAULT, torch.ones(3))


@pytest.mark.parametrize("kind, divergence", (("logits", "forward"), ("lumped", "jsd")))
def test_the_same_bits_for_any_number_of_threads(kind, divergence):
    case, threads = make(kind, 700, 100), torch.get_num_threads()
    try:
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            with forced("cpu"):
                results.append(gradient_of(case, divergence, DEFAULT, torch.ones(700)))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(*results, rtol=0, atol=0)


@every_instruction_set
class TestTypes:
    @pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
    def test_gradients_in_place_are_rounded_to_the_nearest(self, dtype):
        """Those of a layer's logits, the only ones that are stored in float16; denormal ones are among them."""
        case = make("logits", 64, 37, dtype=dtype)
        case = case._replace(weights=2.0 ** torch.linspace(-20, 12, 64))
        rows = Rows(
            case.student[None],
            Teacher("logits", case.teacher[None], None, None, None),
            Labels(case.labels, None),
            case.weights,
            torch.ones(16),
            Form("forward", True, False, False),
        )
        room = torch.empty(64), torch.empty(2, 64), torch.empty(64, dtype=torch.int64)
        exact, found = torch.empty(1, 64, 37), case.student[None].clone()
        cpu.fill(rows, Found(*room, exact), exact)
        cpu.fill(rows._replace(student_BRK=found), Found(*room, found), found)
        torch.testing.assert_close(found, exact.to(dtype), rtol=0, atol=0)
        assert (found.abs() < torch.finfo(dtype).tiny).any() or dtype == torch.bfloat16

    @pytest.mark.parametrize("dtype", (torch.float64, torch.bfloat16))
    def test_a_teacher_of_another_type(self, dtype):
        case = make("logits", 3, 9)
        with forced("cpu"):
            found = gradient_of(case._replace(teacher=case.teacher.to(dtype)), "forward", DEFAULT, torch.ones(3))
            same = gradient_of(case._replace(teacher=case.teacher.to(dtype).float()), "forward", DEFAULT, torch.ones(3))
        torch.testing.assert_close(found, same, rtol=0, atol=0)
