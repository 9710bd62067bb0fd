"""What the methods on feature maps share: the note about blocks that are left out."""


def blocks_left_out(name: str, student: int, teacher: int, *, kept: str = "first") -> list[str]:
    """The note that says which blocks are not paired where the networks have different numbers of them; else no note.

    kept: "first" or "last", those that are paired.
    """
    if student == teacher:
        return []
    few, longer = min(student, teacher), "student" if student > teacher else "teacher"
    return [
        f"{name}: the student has {student} blocks and the teacher {teacher}: the {kept} {few} are paired and the rest "
        f"of the {longer}'s left out"
    ]
