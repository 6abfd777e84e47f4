"""Values of single columns: from the bytes of a row image, or from the text of a SELECT, to what the change event holds.

Comes in: raw bytes, or the numbers that a struct read out of them.  Goes out: JSON-ready values as design.md's table has
them; both ways give equal values.  Pure; the caches are bounded.

Sources of the stored forms: MySQL manual, "Date and Time Data Type Representation"; decimal numbers as in the server's
strings/decimal.cc (decimal2bin).
"""

from __future__ import annotations

import struct
from binascii import b2a_base64
from collections.abc import Callable
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal
from math import floor, frexp, log10
from typing import Generic, TypeVar

from cdc_reader.errors import EventUnreadable

Stored = TypeVar("Stored")
Value = TypeVar("Value")

_DIGIT_BYTES = (0, 1, 1, 2, 2, 3, 3, 4, 4, 4)
"""How many bytes so many decimal digits take, fewer than nine apart from the last."""

_DAYS_MAX = 32_768
_CLOCKS_MAX = 1 << 17
_VALUES_MAX = 4096


class Memo(dict[Stored, Value], Generic[Stored, Value]):
    """What a function made of its argument, remembered; emptied when it has grown to its limit.

    Reading ``memo[argument]`` costs a dict's look-up when the value is there, and that is the point of it.
    """

    __slots__ = ("_limit", "_make")

    def __init__(self, make: Callable[[Stored], Value], limit: int = _VALUES_MAX) -> None:
        super().__init__()
        self._make = make
        self._limit = limit

    def __missing__(self, argument: Stored) -> Value:
        value = self._make(argument)
        if len(self) >= self._limit:
            self.clear()
        self[argument] = value
        return value


# ---- DECIMAL ----


def decimal_groups(digits: int, *, leading: bool) -> tuple[tuple[int, int], ...]:
    """Bytes and digits of each group: nine digits in four bytes, the odd ones first (whole part) or last (fraction)."""
    full, odd = divmod(digits, 9)
    groups = [(4, 9)] * full
    if odd:
        groups.insert(0 if leading else full, (_DIGIT_BYTES[odd], odd))
    return tuple(groups)


def decimal_bytes(precision: int, scale: int) -> int:
    """How many bytes a DECIMAL(precision, scale) takes."""
    groups = *decimal_groups(precision - scale, leading=True), *decimal_groups(scale, leading=False)
    return sum(width for width, _ in groups)


def decimal_text(stored: bytes, precision: int, scale: int) -> str:
    """A DECIMAL as the server prints it, with all ``scale`` digits."""
    bits = len(stored) * 8
    number = int.from_bytes(stored, "big") ^ 1 << bits - 1
    negative = number >> bits - 1 == 1
    if negative:
        number ^= (1 << bits) - 1
    text = ""
    whole = 0
    offset = 0
    magnitude = number.to_bytes(len(stored), "big")
    for width, digits in decimal_groups(precision - scale, leading=True):
        whole = whole * 10**digits + int.from_bytes(magnitude[offset : offset + width], "big")
        offset += width
    for width, digits in decimal_groups(scale, leading=False):
        text += f"{int.from_bytes(magnitude[offset : offset + width], 'big'):0{digits}d}"
        offset += width
    sign = "-" if negative else ""
    return f"{sign}{whole}.{text}" if scale else f"{sign}{whole}"


# ---- dates and times ----


def _date_text(stored: int) -> str:
    """A DATE from its three bytes: day 5 bits, month 4, year 15."""
    return f"{stored >> 9:04d}-{stored >> 5 & 15:02d}-{stored & 31:02d}"


def _datetime_day_text(stored: int) -> str:
    """The day of a DATETIME from its highest 23 bits: a sign that is always set, year * 13 + month, day; ends with T."""
    year, month = divmod(stored >> 5 & 0x1FFFF, 13)
    return f"{year:04d}-{month:02d}-{stored & 31:02d}T"


def _epoch_day_text(days: int) -> str:
    """A day by its number since 1970-01-01 in the Gregorian calendar; ends with T.

    Counted in eras of 400 years that begin on 1 March, so that the leap day is a year's last.
    """
    era, day_of_era = divmod(days + 719_468, 146_097)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month_from_march = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * month_from_march + 2) // 5 + 1
    month = month_from_march + 3 if month_from_march < 10 else month_from_march - 9
    year = era * 400 + year_of_era + (month <= 2)
    return f"{year:04d}-{month:02d}-{day:02d}T"


def _clock_text(packed: int) -> str:
    """A time of day from 17 bits: hours 5, minutes 6, seconds 6."""
    return f"{packed >> 12:02d}:{packed >> 6 & 63:02d}:{packed & 63:02d}"


def _second_text(second: int) -> str:
    """A time of day from its seconds since midnight."""
    return f"{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}"


DATES: Memo[int, str] = Memo(_date_text, _DAYS_MAX)
DATETIME_DAYS: Memo[int, str] = Memo(_datetime_day_text, _DAYS_MAX)
EPOCH_DAYS: Memo[int, str] = Memo(_epoch_day_text, _DAYS_MAX)
CLOCKS: Memo[int, str] = Memo(_clock_text, _CLOCKS_MAX)
SECONDS: Memo[int, str] = Memo(_second_text, _CLOCKS_MAX)


def zero_timestamp(scale: int) -> str:
    """What a TIMESTAMP of zero is: the server's mark for no moment, not 1970."""
    return "0000-00-00T00:00:00" + (f".{0:0{scale}d}" if scale else "") + "Z"


def time_text(stored: bytes, scale: int) -> str:
    """A TIME from its three bytes and those of its fraction: a sign, hours 10 bits, minutes 6, seconds 6.

    Both together are one number with an offset, so that the fraction of a negative time counts downwards too.
    """
    fraction_bits = len(stored) * 8 - 24
    number = int.from_bytes(stored, "big") - (0x800000 << fraction_bits)
    magnitude = abs(number)
    clock = magnitude >> fraction_bits
    text = f"{'-' if number < 0 else ''}{clock >> 12 & 0x3FF:02d}:{clock >> 6 & 63:02d}:{clock & 63:02d}"
    if not scale:
        return text
    fraction = magnitude & (1 << fraction_bits) - 1
    return f"{text}.{fraction:0{fraction_bits // 4}d}"[: len(text) + 1 + scale]


def packed_datetime_text(packed: int) -> str:
    """A date and time from the 64 bits that JSON and the server's memory hold, six digits of fraction."""
    seconds, micros = packed >> 24, packed & 0xFFFFFF
    year, month = divmod(seconds >> 22, 13)
    return f"{year:04d}-{month:02d}-{seconds >> 17 & 31:02d} {_clock_text(seconds & 0x1FFFF)}.{micros:06d}"


def packed_time_text(packed: int) -> str:
    """A time from such 64 bits."""
    sign = "-" if packed < 0 else ""
    seconds, micros = abs(packed) >> 24, abs(packed) & 0xFFFFFF
    return f"{sign}{seconds >> 12 & 0x3FF:02d}:{seconds >> 6 & 63:02d}:{seconds & 63:02d}.{micros:06d}"


# ---- FLOAT ----

_FLOAT = struct.Struct("<f")
_FLOAT_EXPONENT_MIN = -148
_FLOAT_EXPONENT_NORMAL_MIN = -125
_POWERS = tuple(float(10**exponent) for exponent in range(23))
"""The powers of ten that a double holds exactly."""


def _decimals_for_eight_digits(exponent: int) -> int:
    """How many decimals the smallest FLOAT with this exponent has in eight digits; 0 where powers aren't exact."""
    decimals = 7 - floor(log10(2.0 ** (exponent - 1)))
    return decimals if exponent >= _FLOAT_EXPONENT_NORMAL_MIN and 2 <= decimals < len(_POWERS) else 0


_FLOAT_SCALES = {
    exponent: (_decimals_for_eight_digits(exponent), 2.0 ** (exponent - 25))
    for exponent in range(_FLOAT_EXPONENT_MIN, 129)
}
"""By frexp's exponent: decimals for eight digits, and half the distance to the next FLOAT."""


def shortest_float(exact: float) -> float:
    """A FLOAT, given as the double equal to it, as the double whose shortest decimal form gives that FLOAT again.

    Most values need eight digits.  Where these are few enough for exact powers of ten, a division finds them faster than
    formatting does: a whole number below 2**53 over one gives the double next to that decimal (Clinger, 1990).
    """
    fraction, exponent = frexp(exact)
    decimals, half_step = _FLOAT_SCALES[exponent]
    if decimals and fraction not in (0.5, -0.5):
        power = _POWERS[decimals]
        if not -1e8 < exact * power < 1e8:
            decimals -= 1
            power = _POWERS[decimals]
        found = round(exact * power) / power
        if -half_step < found - exact < half_step:
            power = _POWERS[decimals - 1]
            if not -half_step <= round(exact * power) / power - exact <= half_step:
                return found
    return _shortest_by_formatting(exact, fraction, exponent)


def _shortest_by_formatting(exact: float, fraction: float, exponent: int) -> float:
    """Six digits always survive in a FLOAT, and nine always suffice (FLT_DIG, FLT_DECIMAL_DIG)."""
    packed = _FLOAT.pack(exact)
    if fraction in (0.5, -0.5) or exponent < _FLOAT_EXPONENT_NORMAL_MIN:
        return _shortest_by_trying(exact, packed)
    for digits in (6, 7, 8):
        found = float(f"{exact:.{digits}g}")
        if _FLOAT.pack(found) == packed:
            return found
    return float(f"{exact:.9g}")


def _shortest_by_trying(exact: float, packed: bytes) -> float:
    """For powers of two and subnormal values.

    The neighbour below a power of two is nearer than the one above, so the nearest decimal may miss where the next one
    hits; a subnormal value may need fewer than six digits.
    """
    number = Decimal(exact)
    for digits in range(1, 9):
        for rounding in (ROUND_HALF_EVEN, ROUND_CEILING, ROUND_FLOOR):
            candidate = float(Context(prec=digits, rounding=rounding).create_decimal(number))
            if _FLOAT.pack(candidate) == packed:
                return candidate
    return float(f"{exact:.9g}")


FLOATS: Memo[float, float] = Memo(shortest_float)
"""Not for zeros: the negative one equals the other as a key."""


# ---- the rest ----


def base64_text(content: bytes) -> str:
    """Binary content as base64, on one line."""
    return b2a_base64(content, newline=False).decode("ascii")


def set_text(bits: int, members: tuple[str, ...]) -> str:
    """A SET's members in definition order, comma-separated."""
    if bits >> len(members):
        raise EventUnreadable("a SET holds members that its definition doesn't have")
    return ",".join(member for index, member in enumerate(members) if bits >> index & 1)
