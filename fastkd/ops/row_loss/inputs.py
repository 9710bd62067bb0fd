"""What the operations of this folder take and give, as named tuples that `fastkd.ops.schema` makes flat."""

from typing import NamedTuple

from torch import Tensor


class Teacher(NamedTuple):
    """A teacher's rows, in one of the ways that `kind` names."""

    kind: str
    """"none"; "logits" or "probabilities", as dense rows; "renormalised", "lumped" or "sampled", as kept classes."""
    dense_BRK: Tensor | None
    kept_Nk: Tensor | None
    """[N,k] int32 or int64: classes, distinct within a row; below 0 is padding."""
    log_probs_Nk: Tensor | None
    log_rest_N: Tensor | None
    """[N]: the logarithm of what the classes that were not kept have together, if they are lumped."""


class Labels(NamedTuple):
    classes_N: Tensor | None
    """[N] int64. With probabilities, the class that the hits are counted for."""
    probabilities_BRK: Tensor | None


class Form(NamedTuple):
    """Which loss it is."""

    divergence: str
    """"forward" is KL(teacher ‖ student), "reverse" KL(student ‖ teacher), "jsd" goes from the
    one to the other."""
    tau_squared: bool
    """Whether the divergence is multiplied by the temperature squared."""
    capped: bool
    """Whether the student's logits are soft-capped."""
    teacher_capped: bool


class Rows(NamedTuple):
    """N = B·R rows of K classes; the dense tensors are [B,R,K] with any strides, so that pixels need no copy."""

    student_BRK: Tensor
    teacher: Teacher
    labels: Labels
    weights_N: Tensor
    """[N] float32: what each row's loss is multiplied by; one of weight 0 is not read."""
    numbers: Tensor
    """Those of a form, at the places of `fastkd.ops.numbers.Role`."""
    form: Form


class Found(NamedTuple):
    """What is found for every row."""

    losses_N: Tensor
    """[N]: weight · (ce_weight · CE + kl_weight · divergence)."""
    parts_2N: Tensor
    """[2,N]: CE and divergence before their weights, 0 for a row of weight 0."""
    ranks_N: Tensor
    """[N] int64: classes that come before the label; K + 5 where there is no label to be found."""
    gradient_BRK: Tensor
    """The derivative of the sum of the losses by the student's logits; empty if it was not asked for."""


class Linear(NamedTuple):
    """A linear layer's input and parameters."""

    hidden_ND: Tensor
    weight_KD: Tensor
    bias_K: Tensor | None


class Fused(NamedTuple):
    """What the fused linear layer is computed from."""

    student: Linear
    teacher_hidden_NE: Tensor | None
    """The hidden states of a teacher that comes as a linear layer, else None; its `kind` is "logits"."""
    teacher_weight_KE: Tensor | None
    teacher_bias_K: Tensor | None
    teacher: Teacher
    labels: Labels
    weights_N: Tensor
    numbers: Tensor
    form: Form
