"""NIST StRD linear least squares: certified values to nine digits and more through our own regression.

Data and certified values: NIST Statistical Reference Datasets (public domain). Each certified value is
checked a second time against least squares in exact rational arithmetic, which knows no rounding.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest

from analysis.regression.least_squares import CollinearError, ols

PONTIUS_Y = (
    "0.11019 0.21956 0.32949 0.43899 0.54803 0.65694 0.76562 0.87487 0.98292 1.09146 1.20001 1.30822 1.41599 "
    "1.52399 1.63194 1.73947 1.84646 1.95392 2.06128 2.16844 0.11052 0.22018 0.32939 0.43886 0.54798 0.65739 "
    "0.76596 0.87474 0.98300 1.09150 1.20004 1.30818 1.41613 1.52408 1.63159 1.73965 1.84696 1.95445 2.06177 "
    "2.16829"
)
NORRIS = (
    "0.1 0.2 338.8 337.4 118.1 118.2 888.0 884.6 9.2 10.1 228.1 226.5 668.5 666.3 998.5 996.3 449.1 448.6 "
    "778.9 777.0 559.2 558.2 0.3 0.4 0.1 0.6 778.1 775.5 668.8 666.9 339.3 338.0 448.9 447.5 10.8 11.6 557.7 "
    "556.0 228.3 228.1 998.0 995.8 888.8 887.6 119.6 120.2 0.3 0.3 0.6 0.3 557.6 556.8 339.3 339.1 888.0 887.2 "
    "998.5 999.0 778.9 779.0 10.2 11.1 117.6 118.3 228.9 229.2 668.4 669.1 449.2 448.9 0.2 0.5"
)
FILIP = (
    "0.8116 -6.860120914 0.9072 -4.324130045 0.9052 -4.358625055 0.9039 -4.358426747 0.8053 -6.955852379 0.8377 "
    "-6.661145254 0.8667 -6.355462942 0.8809 -6.118102026 0.7975 -7.115148017 0.8162 -6.815308569 0.8515 "
    "-6.519993057 0.8766 -6.204119983 0.8885 -5.853871964 0.8859 -6.109523091 0.8959 -5.79832982 0.8913 "
    "-5.482672118 0.8959 -5.171791386 0.8971 -4.851705903 0.9021 -4.517126416 0.909 -4.143573228 0.9139 "
    "-3.709075441 0.9199 -3.499489089 0.8692 -6.300769497 0.8872 -5.953504836 0.89 -5.642065153 0.891 -5.031376979 "
    "0.8977 -4.680685696 0.9035 -4.329846955 0.9078 -3.928486195 0.7675 -8.56735134 0.7705 -8.363211311 0.7713 "
    "-8.107682739 0.7736 -7.823908741 0.7775 -7.522878745 0.7841 -7.218819279 0.7971 -6.920818754 0.8329 "
    "-6.628932138 0.8641 -6.323946875 0.8804 -5.991399828 0.7668 -8.781464495 0.7633 -8.663140179 0.7678 "
    "-8.473531488 0.7697 -8.247337057 0.77 -7.971428747 0.7749 -7.676129393 0.7796 -7.352812702 0.7897 "
    "-7.072065318 0.8131 -6.774174009 0.8498 -6.478861916 0.8741 -6.159517513 0.8061 -6.835647144 0.846 "
    "-6.53165267 0.8751 -6.224098421 0.8856 -5.910094889 0.8919 -5.598599459 0.8934 -5.290645224 0.894 "
    "-4.974284616 0.8957 -4.64454848 0.9047 -4.290560426 0.9129 -3.885055584 0.9209 -3.408378962 0.9219 "
    "-3.13200249 0.7739 -8.726767166 0.7681 -8.66695597 0.7665 -8.511026475 0.7703 -8.165388579 0.7702 "
    "-7.886056648 0.7761 -7.588043762 0.7809 -7.283412422 0.7961 -6.995678626 0.8253 -6.691862621 0.8602 "
    "-6.392544977 0.8809 -6.067374056 0.8301 -6.684029655 0.8664 -6.378719832 0.8834 -6.065855188 0.8898 "
    "-5.752272167 0.8964 -5.132414673 0.8963 -4.811352704 0.9074 -4.098269308 0.9119 -3.66174277 0.9228 -3.2644011"
)
LONGLEY = (
    "60323 83.0 234289 2356 1590 107608 1947 61122 88.5 259426 2325 1456 108632 1948 60171 88.2 258054 3682 1616 "
    "109773 1949 61187 89.5 284599 3351 1650 110929 1950 63221 96.2 328975 2099 3099 112075 1951 63639 98.1 346999 "
    "1932 3594 113270 1952 64989 99.0 365385 1870 3547 115094 1953 63761 100.0 363112 3578 3350 116219 1954 66019 "
    "101.2 397469 2904 3048 117388 1955 67857 104.6 419180 2822 2857 118734 1956 68169 108.4 442769 2936 2798 "
    "120445 1957 66513 110.8 444546 4681 2637 121950 1958 68655 112.6 482704 3813 2552 123366 1959 69564 114.2 "
    "502601 3931 2514 125368 1960 69331 115.7 518173 4806 2572 127852 1961 70551 116.9 554894 4007 2827 130081 1962"
)
WAMPLER_DELTA = [759, -2048, 2048, -2048, 2523, -2048, 2048, -2048, 1838, -2048, 2048]
WAMPLER_DELTA += WAMPLER_DELTA[-2::-1]


def pairs(text: str) -> tuple[list[Fraction], list[Fraction]]:
    numbers = [Fraction(word) for word in text.split()]
    return numbers[0::2], numbers[1::2]


def powers(x: list[Fraction], degrees: range) -> list[list[Fraction]]:
    return [[value**k for k in degrees] for value in x]


def wampler(scale: int) -> tuple[list[Fraction], list[list[Fraction]]]:
    x = [Fraction(i) for i in range(21)]
    y = [sum((v**k for k in range(6)), Fraction(0)) + scale * d for v, d in zip(x, WAMPLER_DELTA, strict=True)]
    return y, powers(x, range(6))


def wampler2() -> tuple[list[Fraction], list[list[Fraction]]]:
    x = [Fraction(i) for i in range(21)]
    return [sum((Fraction(1, 10**k) * v**k for k in range(6)), Fraction(0)) for v in x], powers(x, range(6))


def norris() -> tuple[list[Fraction], list[list[Fraction]]]:
    y, x = pairs(NORRIS)
    return y, powers(x, range(2))


def pontius() -> tuple[list[Fraction], list[list[Fraction]]]:
    y = [Fraction(word) for word in PONTIUS_Y.split()]
    return y, powers([Fraction(150000 * (i % 20 + 1)) for i in range(40)], range(3))


def filip() -> tuple[list[Fraction], list[list[Fraction]]]:
    y, x = pairs(FILIP)
    return y, powers(x, range(11))


def longley() -> tuple[list[Fraction], list[list[Fraction]]]:
    numbers = [Fraction(word) for word in LONGLEY.split()]
    rows = [numbers[i : i + 7] for i in range(0, len(numbers), 7)]
    return [row[0] for row in rows], [[Fraction(1), *row[1:]] for row in rows]


def no_intercept(y: Sequence[int], x: Sequence[int]) -> tuple[list[Fraction], list[list[Fraction]]]:
    return [Fraction(v) for v in y], [[Fraction(v)] for v in x]


# name: (data, certified parameters, certified standard deviations, residual sd)
SETS = {
    "Norris": (
        norris(),
        [-0.262323073774029, 1.00211681802045],
        [0.232818234301152, 0.429796848199937e-3],
        0.884796396144373,
    ),
    "Pontius": (
        pontius(),
        [0.673565789473684e-3, 0.732059160401003e-6, -0.316081871345029e-14],
        [0.107938612033077e-3, 0.157817399981659e-9, 0.486652849992036e-16],
        0.205177424076185e-3,
    ),
    "NoInt1": (
        no_intercept(range(130, 141), range(60, 71)),
        [2.07438016528926],
        [0.165289256198347e-1],
        3.56753034006338,
    ),
    "NoInt2": (
        no_intercept([3, 4, 4], [4, 5, 6]),
        [0.727272727272727],
        [0.420827318078432e-1],
        0.369274472937998,
    ),
    "Filip": (
        filip(),
        [
            -1467.48961422980, -2772.17959193342, -2316.37108160893, -1127.97394098372, -354.478233703349,
            -75.1242017393757, -10.8753180355343, -1.06221498588947, -0.670191154593408e-1, -0.246781078275479e-2,
            -0.402962525080404e-4,
        ],
        [
            298.084530995537, 559.779865474950, 466.477572127796, 227.204274477751, 71.6478660875927,
            15.2897178747400, 2.23691159816033, 0.221624321934227, 0.142363763154724e-1, 0.535617408889821e-3,
            0.896632837373868e-5,
        ],
        0.334801051324544e-2,
    ),
    "Longley": (
        longley(),
        [
            -3482258.63459582, 15.0618722713733, -0.358191792925910e-1, -2.02022980381683, -1.03322686717359,
            -0.511041056535807e-1, 1829.15146461355,
        ],
        [
            890420.383607373, 84.9149257747669, 0.334910077722432e-1, 0.488399681651699, 0.214274163161675,
            0.226073200069370, 455.478499142212,
        ],
        304.854073561965,
    ),
    "Wampler1": (wampler(0), [1.0] * 6, None, None),
    "Wampler2": (wampler2(), [1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5], None, None),
    "Wampler3": (
        wampler(1),
        [1.0] * 6,
        [2152.32624678170, 2363.55173469681, 779.343524331583, 101.475507550350, 5.64566512170752, 0.112324854679312],
        2360.14502379268,
    ),
    "Wampler4": (
        wampler(100),
        [1.0] * 6,
        [215232.624678170, 236355.173469681, 77934.3524331583, 10147.5507550350, 564.566512170752, 11.2324854679312],
        236014.502379268,
    ),
    "Wampler5": (
        wampler(10000),
        [1.0] * 6,
        [21523262.4678170, 23635517.3469681, 7793435.24331583, 1014755.07550350, 56456.6512170752, 1123.24854679312],
        23601450.2379268,
    ),
}  # fmt: skip


def digits(found: float, certified: float) -> float:
    """Log relative error: how many digits agree."""
    if found == certified:
        return 15.0
    return -np.log10(abs(found - certified) / abs(certified))


def exact_solution(y: list[Fraction], X: list[list[Fraction]]) -> list[Fraction]:
    """Normal equations by Gauss–Jordan in rationals: exact."""
    k = len(X[0])
    rows = [
        [sum((r[i] * r[j] for r in X), Fraction(0)) for j in range(k)]
        + [sum((r[i] * v for r, v in zip(X, y, strict=True)), Fraction(0))]
        for i in range(k)
    ]
    for i in range(k):
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for j in range(k):
            if j != i:
                rows[j] = [a - rows[j][i] * b for a, b in zip(rows[j], rows[i], strict=True)]
    return [row[k] for row in rows]


def as_long(y: list[Fraction], X: list[list[Fraction]]) -> tuple[np.ndarray, np.ndarray]:
    """The data in extended precision, as a table of decimals would be read."""

    def long(value: Fraction) -> np.longdouble:
        return np.longdouble(value.numerator) / np.longdouble(value.denominator)

    return np.array([long(v) for v in y]), np.array([[long(v) for v in row] for row in X])


@pytest.mark.parametrize("name", SETS)
def test_certified_values(name: str) -> None:
    (y, X), certified, sds, residual_sd = SETS[name]
    fit = ols(*as_long(y, X), [f"B{i}" for i in range(len(X[0]))])
    assert min(map(digits, fit.params, certified)) >= 9
    if sds is not None:
        found = [fit.se(parameter) for parameter in fit.names]
        assert min(map(digits, found, sds)) >= (6 if name == "Filip" else 9)
    if residual_sd is not None:
        assert digits(fit.sigma, residual_sd) >= 9


@pytest.mark.parametrize("name", SETS)
def test_certified_values_are_the_exact_solution(name: str) -> None:
    (y, X), certified, *_ = SETS[name]
    exact = exact_solution(y, X)
    assert min(digits(float(value), c) for value, c in zip(exact, certified, strict=True)) > 13


def test_r_squared_of_norris() -> None:
    y, X = SETS["Norris"][0]
    assert ols(*as_long(y, X), ["B0", "B1"]).r_squared == pytest.approx(0.999993745883712, rel=1e-12)


def test_longley_collinear_column_is_named() -> None:
    y, X = as_long(*longley())
    doubled = np.column_stack([X, 2 * X[:, 1] - X[:, 2]])
    with pytest.raises(CollinearError, match="is determined by the other factors"):
        ols(y, doubled, [*"abcdefg", "combination"])
