"""Words about numbers."""


def counted(count: int, noun: str, verb: str = "") -> str:
    """`1 epoch`, `1,200 epochs`; with a verb in its plural, `1 row is`, `2 rows are`."""
    one = count == 1
    several = noun + ("es" if noun.endswith(("s", "x", "tch", "branch")) else "s")
    said = {"are": "is", "have": "has"}[verb] if one and verb else verb
    return f"{count:,} {noun if one else several}{' ' if said else ''}{said}"
