"""Short texts for the parameters of a run, of which its name is made."""


def short(number: float | str) -> str:
    """Return a number with few characters, as it would be typed; a text is returned as it is.

    Examples:
        >>> short(1e-7), short(25000.0), short(0.001), short(8.21e-7), short("exact")
        ('1e-7', '2.5e4', '1e-3', '8.21e-7', 'exact')
        >>> short(200), short(0.5), short(0.0)
        ('200', '0.5', '0')
    """
    if isinstance(number, str):
        return number
    if not number or 0.01 <= abs(number) < 10_000:
        return f"{number:g}"
    mantissa, _, exponent = f"{number:.5e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def with_seed(words: str, seed: int) -> str:
    """Append the seed."""
    return f"{words} seed {seed}"


def with_reg(words: str, reg: float) -> str:
    """Append the regulariser, unless it is 0."""
    return f"{words} reg {short(reg)}" if reg else words
