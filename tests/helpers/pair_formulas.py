"""The losses between a student's logits and one teacher's, of one row, as their papers (or codes) state them.

Everything is in probabilities and in Python's floats; `v` are the numbers of the loss by name.
"""

import math


def softmax(row, temperature=1.0):
    powers = [math.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a)


def standardised(row):
    mean = sum(row) / len(row)
    variance = sum((value - mean) ** 2 for value in row) / (len(row) - 1)
    return [(value - mean) / (1e-7 + math.sqrt(variance)) for value in row]


def binary(p, place):
    return p[place], 1 - p[place]


def without(p, place):
    return [value / (1 - p[place]) for k, value in enumerate(p) if k != place]


def dkd(student, teacher, label, v):
    p, q = softmax(teacher, v["temperature"]), softmax(student, v["temperature"])
    target, others = kl(binary(p, label), binary(q, label)), kl(without(p, label), without(q, label))
    return v["temperature"] ** 2 * (v["alpha"] * target + v["beta"] * others)


def nkd(student, teacher, label, v):
    target = -softmax(teacher)[label] * math.log(softmax(student)[label])
    p, q = (without(softmax(row, v["temperature"]), label) for row in (teacher, student))
    others = -sum(a * math.log(b) for a, b in zip(p, q, strict=True))
    return v["alpha"] * target + v["gamma"] * v["temperature"] ** 2 * others


def rld(student, teacher, label, v):
    tau = v["target_temperature"]
    top = max(range(len(teacher)), key=lambda k: teacher[k])
    scd = tau**2 * kl(binary(softmax(teacher, tau), top), binary(softmax(student, tau), label))
    kept = [k for k in range(len(teacher)) if teacher[k] < teacher[label]]
    if not kept:
        return v["alpha"] * scd
    p, q = (softmax([row[k] for k in kept], v["temperature"]) for row in (teacher, student))
    return v["alpha"] * scd + v["beta"] * v["temperature"] ** 2 * kl(p, q)


def ttm(student, teacher, label, v, weighted=False):
    powers = [p ** v["exponent"] for p in softmax(teacher)]
    divergence = kl([power / sum(powers) for power in powers], softmax(student))
    return v["kl_weight"] * (sum(powers) if weighted else 1.0) * divergence


def ab(student, teacher, label, v, continuous=False):
    a, b = v["alpha"], v["beta"]
    pairs = list(zip(softmax(teacher, v["temperature"]), softmax(student, v["temperature"]), strict=True))
    if a and b and a + b:
        both = sum(p**a * q**b - a / (a + b) * p ** (a + b) - b / (a + b) * q ** (a + b) for p, q in pairs)
        found, factor = -both / (a * b), 1.0
    elif a == b == 0:
        found, factor = 0.5 * sum(math.log(q / p) ** 2 for p, q in pairs), 1.0
    elif a == 0:
        found, factor = sum(q**b * math.log((q / p) ** b) - q**b + p**b for p, q in pairs) / b, 1 / b
    elif b == 0:
        found, factor = sum(p**a * math.log((p / q) ** a) - p**a + q**a for p, q in pairs) / a, 1 / a
    else:
        found, factor = sum(math.log((q / p) ** a) + (p / q) ** a - 1 for p, q in pairs) / a, 1 / a
    return v["weight"] * found * (factor if continuous else 1.0)


def jsd(student, teacher, label, v):
    p, q, beta = softmax(teacher, v["temperature"]), softmax(student, v["temperature"]), v["mixture"]
    if beta == 0:
        return v["weight"] * kl(p, q)
    if beta == 1:
        return v["weight"] * kl(q, p)
    m = [beta * x + (1 - beta) * y for x, y in zip(p, q, strict=True)]
    return v["weight"] * (beta * kl(p, m) + (1 - beta) * kl(q, m))


FORMULAS = {
    "dkd": dkd,
    "nkd": nkd,
    "rld": rld,
    "ttm": ttm,
    "wttm": lambda *given: ttm(*given, weighted=True),
    "ab": ab,
    "ab_continuous": lambda *given: ab(*given, continuous=True),
    "jsd": jsd,
}
"""What compares the two networks; ce_weight times the cross-entropy is added to it."""
