"""Sizes as users write them."""


def size_in_bytes(text: str) -> int:
    """`512m`, `1.5GiB`, `64kb`, `100`: units are powers of 1024. Raises ValueError."""
    number = text.strip().lower()
    for ending in ("ib", "b"):
        if number.endswith(ending):
            number = number[: -len(ending)]
            break
    power = "kmgtp".find(number[-1:]) + 1 if number else 0
    if power:
        number = number[:-1]
    if not number or not number[0].isdigit():
        raise ValueError(text)
    return int(float(number.strip()) * 1024**power)
