"""Noise: the promised bits wherever and however it is regenerated, close to its float64 values, and normal."""

import itertools
import math

import numpy as np
import pytest
import tolerance
from cases import SHAPES, shape_name
from exact import assert_same_bits, rounded
from frameworks import DTYPES
from scipy import stats

import scorefusion as sf

LARGE = [0, 1, 2**32 - 1, 2**32, 2**40 + 3, 2**53 + 1]


def values(home, noise, shape, dtype="float32"):
    """What the noise stands for, in NumPy."""
    return home.numpy(noise.like(home.array(np.zeros(shape), dtype)))


# --- which numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_the_generator_gives_the_known_answers(counter, key, words):
    assert [int(w) for w in sf.reference.philox4x32(counter, key)] == words


def test_the_first_four_elements_come_from_the_first_known_answer(home):
    """u₁ = (w + 1)·2⁻³², angle = 2π·w'·2⁻³², cos before sin, written out."""
    w = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    expected = []
    for a, b in (w[:2], w[2:]):
        radius, angle = math.sqrt(-2 * math.log((a + 1) / 2**32)), 2 * math.pi * b / 2**32
        expected += [radius * math.cos(angle), radius * math.sin(angle)]
    np.testing.assert_allclose(sf.reference.normal(0, 0, 0, (1, 4))[0], expected, rtol=1e-14)
    tolerance.assert_within(values(home, sf.Noise(0), (1, 4)), [expected], tolerance.NOISE)


@pytest.mark.parametrize("shape", SHAPES, ids=shape_name)
def test_it_is_close_to_the_reference_for_every_size(home, shape):
    z = values(home, sf.Noise(7, 11, 5), shape)
    tolerance.assert_within(z, sf.reference.normal(7, 11, 5, shape), tolerance.NOISE)


@pytest.mark.parametrize("sample", LARGE)
@pytest.mark.parametrize("D", [1, 2, 4, 7, 32, 129])
def test_samples_of_any_index_are_close_to_the_reference(home, sample, D):
    z = values(home, sf.Noise(7, 11, sample), (5, D))
    tolerance.assert_within(z, sf.reference.normal(7, 11, sample, (5, D)), tolerance.NOISE)


@pytest.mark.parametrize("D", [4, 7, 32, 129, 16385])
def test_element_indices_go_up_to_two_to_the_sixty_four(home, D):
    last = (2**64 - 1) // D - 1
    z = values(home, sf.Noise(7, 11, last - 4), (5, D))
    tolerance.assert_within(z, sf.reference.normal(7, 11, last - 4, (5, D)), tolerance.NOISE)
    tolerance.assert_within(z, sf.reference.normal(7, 11, last - 4 + np.arange(5), (5, D)), tolerance.NOISE)
    with pytest.raises(ValueError, match="too large"):
        values(home, sf.Noise(7, 11, last), (5, D))


@pytest.mark.parametrize("D", [1, 3, 1000])
def test_the_index_carries_into_its_high_word_within_a_block(home, D):
    """q passes 2³² in the middle of the array."""
    first = 4 * 2**32 // D - 2 - 50 // D
    z = values(home, sf.Noise(1, 2, first), (100, D))
    tolerance.assert_within(z, sf.reference.normal(1, 2, first, (100, D)), tolerance.NOISE)


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("stream", [0, 2**32 + 5, 2**63, 2**64 - 1])
def test_seed_and_stream_have_sixty_four_bits(home, seed, stream):
    z = values(home, sf.Noise(seed, stream), (2, 5))
    tolerance.assert_within(z, sf.reference.normal(seed, stream, 0, (2, 5)), tolerance.NOISE)


IDS = {
    "unordered": [9, 2, 5, 0, 7],
    "repeated": [3, 3, 3, 1, 3],
    "large": [2**40, 0, 2**40 + 1, 2**33, 2**31],
    "backwards": [4, 3, 2, 1, 0],
}


@pytest.mark.parametrize("D", [1, 3, 4, 30, 137, 16385])
@pytest.mark.parametrize("ids", IDS.values(), ids=IDS)
def test_every_sample_may_have_its_own_index(home, ids, D):
    z = values(home, sf.Noise(7, 11, home.array(np.array(ids, np.int64))), (5, D))
    for b, sample in enumerate(ids):
        assert_same_bits(z[b : b + 1], values(home, sf.Noise(7, 11, sample), (1, D)))


@pytest.mark.parametrize("D", [3, 137])
def test_indices_may_be_strided(home, D):
    ids = home.array(np.arange(20, dtype=np.int64))[1::3]
    expected = values(home, sf.Noise(7, 0, home.array(np.arange(20)[1::3].copy())), (7, D))
    assert_same_bits(values(home, sf.Noise(7, 0, ids), (7, D)), expected)


# --- the same bits everywhere ------------------------------------------------------------------------------------


@pytest.mark.parametrize("D", [1, 2, 3, 5, 31, 32, 33, 137, 4096, 16387])
@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_any_split_of_the_batch_gives_the_same_bits(home, D, parts):
    whole = values(home, sf.Noise(3, 4, 10), (7, D))
    cuts = np.array_split(np.arange(7), parts)
    split = [values(home, sf.Noise(3, 4, 10 + int(cut[0])), (len(cut), D)) for cut in cuts]
    assert_same_bits(np.concatenate(split), whole)


@pytest.mark.parametrize("shape", [(97, 3), (20, 32), (3, 137), (2, 16387), (3, 2, 5, 7)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("ids", [False, True])
def test_every_operation_sees_the_stored_values(home, shape, dtype, ids):
    """Also in float64 work, which takes the float32 value."""
    sample = home.array(np.random.default_rng(0).integers(0, 2**40, shape[0])) if ids else 3
    x, noise, c = home.normal(shape, dtype), sf.Noise(5, 6, sample), home.normal((shape[0], 2), seed=9)
    z = noise.like(home.array(np.zeros(shape), "float32"))
    virtual, stored = [x, noise], [x, z]
    same = [
        (sf.combine(virtual, c), sf.combine(stored, c)),
        (sf.gram(virtual), sf.gram(stored)),
        *zip(sf.combine_gram(virtual, c), sf.combine_gram(stored, c), strict=True),
        (sf.residual(virtual, c).loss, sf.residual(stored, c).loss),
        (sf.residual(virtual, c).grad, sf.residual(stored, c).grad),
    ]
    for a, b in same:
        assert_same_bits(home.numpy(a), home.numpy(b))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(97, 3), (3, 137)])
def test_like_rounds_once_to_the_dtype_of_its_example(home, dtype, shape):
    z = values(home, sf.Noise(5), shape, dtype)
    assert_same_bits(z, rounded(values(home, sf.Noise(5), shape), dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(97, 3), (3, 137)])
def test_out_alone_decides_where_noise_is_rounded(home, dtype, shape):
    x = home.array(np.zeros(shape), "bfloat16")
    y = home.numpy(sf.combine([x, sf.Noise(5)], [1.0, 1.0], out=home.array(np.zeros(shape), dtype)))
    assert_same_bits(y, rounded(values(home, sf.Noise(5), shape), dtype))


def test_memory_layout_does_not_matter(home):
    """d counts in the logical order of the event."""
    x = home.normal((3, 4, 5, 6))
    transposed = home.array(np.zeros((3, 6, 5, 4), np.float32)).swapaxes(1, 3)
    plain = home.numpy(sf.combine([x, sf.Noise(5)], [0.0, 1.0]))
    assert_same_bits(home.numpy(sf.combine([transposed, sf.Noise(5)], [0.0, 1.0])), plain)
    assert_same_bits(home.numpy(sf.Noise(5).like(transposed)), plain)


def test_every_library_gets_the_same_bits(every_home):
    shape = (5, 33)
    z = sf.Noise(5, 6, 7).like(every_home.array(np.zeros(shape, np.float32)))
    assert type(z) is type(every_home.normal((1,)))
    tolerance.assert_within(every_home.numpy(z), sf.reference.normal(5, 6, 7, shape), tolerance.NOISE)
    y = sf.combine([every_home.normal(shape), sf.Noise(5, 6, 7)], [0.0, 1.0])
    assert_same_bits(every_home.numpy(y), every_home.numpy(z))


def test_it_may_come_first_and_twice(home):
    x, noise = home.normal((3, 137)), sf.Noise(5)
    z = home.numpy(sf.combine([noise, x, noise], [1.0, 0.0, 1.0]))
    assert_same_bits(z, 2 * values(home, noise, (3, 137)))


# --- how exact ---------------------------------------------------------------------------------------------------


def test_the_error_is_below_the_promise_on_millions_of_words(home):
    """All 2³² words are run through by a program of their own; here a sample of them."""
    shape = (64, 2**15)
    error = abs(values(home, sf.Noise(1), shape) - sf.reference.normal(1, 0, 0, shape))
    assert error.max() <= tolerance.NOISE


def noise_of_words(words):
    """A Noise whose sample of four elements comes from these four words: Philox run backwards."""
    for seed in itertools.count():
        c0, c1, c2, c3 = words
        for round_ in reversed(range(10)):
            k0, k1 = seed + round_ * 0x9E3779B9 & WORD, round_ * 0xBB67AE85 & WORD
            b0, b2 = c3 * pow(0xD2511F53, -1, 2**32) & WORD, c1 * pow(0xCD9E8D57, -1, 2**32) & WORD
            c0, c1, c2, c3 = b0, c0 ^ (0xCD9E8D57 * b2 >> 32) ^ k0, b2, c2 ^ (0xD2511F53 * b0 >> 32) ^ k1
        if (q := c0 | c1 << 32) < 2**62:  # else there is no such sample
            return sf.Noise(seed, c2 | c3 << 32, q)


WORD = 2**32 - 1
NEAR = range(-2, 3)
RADII = {(center + k) & WORD for center in [0, 2**31, *(int(2**k * 2**0.5) for k in range(2, 32))] for k in NEAR}
ANGLES = {(eighth * 2**29 + k) & WORD for eighth in range(8) for k in NEAR}


@pytest.mark.parametrize("seed", range(5))
def test_extreme_words_are_exact_too(home, seed):
    """Where u₁ is least, next to 1 and around powers of √2; where the angle is near a multiple of an eighth turn."""
    rng = np.random.default_rng(seed)
    like = home.array(np.zeros((1, 4), np.float32))
    radii, angles = rng.permutation(sorted(RADII)), rng.choice(sorted(ANGLES), len(RADII))
    for radius, angle in zip(radii.tolist(), angles.tolist(), strict=True):
        words = [radius, angle, WORD - radius, WORD - angle]
        noise = noise_of_words(words)
        q, stream = noise.sample, noise.stream
        counter = [q & WORD, q >> 32, stream & WORD, stream >> 32]
        assert [int(w) for w in sf.reference.philox4x32(counter, [noise.seed, 0])] == words
        truth = sf.reference.normal(noise.seed, stream, q, (1, 4))
        tolerance.assert_within(home.numpy(noise.like(like)), truth, tolerance.NOISE)


# --- how normal --------------------------------------------------------------------------------------------------
# Fixed seeds, so these pass always or never; a p-value below LIKELY would be chance once in ten thousand.

LIKELY = 1e-4


def two_sided(score):
    """The p-value of a standard normal score."""
    return 2 * stats.norm.sf(abs(score))


@pytest.fixture(scope="module")
def million(home):
    return values(home, sf.Noise(2024), (1000, 1003)).astype("float64").ravel()


@pytest.mark.parametrize("power", [1, 2, 3, 4, 5, 6])
def test_moments_are_those_of_a_normal(million, power):
    moment = {k: math.prod(range(k - 1, 0, -2)) if k % 2 == 0 else 0 for k in range(13)}
    error = np.mean(million**power) - moment[power]
    deviation = math.sqrt((moment[2 * power] - moment[power] ** 2) / million.size)
    assert two_sided(error / deviation) > LIKELY


def test_the_distribution_is_normal(million):
    assert stats.kstest(million, "norm").pvalue > LIKELY


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_each_place_of_four_is_normal(million, place):
    assert stats.kstest(million[place::4], "norm").pvalue > LIKELY


def test_tails_have_their_share(million):
    for bound in (3.0, 4.0):
        expected = million.size * 2 * stats.norm.sf(bound)
        seen = int((abs(million) > bound).sum())
        p = 2 * min(stats.poisson.cdf(seen, expected), stats.poisson.sf(seen - 1, expected))
        assert p > LIKELY, bound


def correlation_p_value(a, b):
    return two_sided(np.mean(a * b) * math.sqrt(a.size))


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 5, 8, 16, 1003, 4096])
def test_neighbours_are_uncorrelated(million, lag):
    assert correlation_p_value(million[:-lag], million[lag:]) > LIKELY
    squares = (million**2 - 1) / math.sqrt(2)
    assert correlation_p_value(squares[:-lag], squares[lag:]) > LIKELY


@pytest.mark.parametrize(
    "other",
    [
        sf.Noise(2025),
        sf.Noise(2024 + 2**32),
        sf.Noise(2024, 1),
        sf.Noise(2024, 2**32),
        sf.Noise(2024, 2**63),
        sf.Noise(2024, 0, 1000),
        sf.Noise(2024, 0, 2**33),
    ],
    ids=repr,
)
def test_seeds_streams_and_samples_are_uncorrelated(home, million, other):
    z = values(home, other, (1000, 1003)).astype("float64").ravel()
    assert correlation_p_value(million, z) > LIKELY
    assert correlation_p_value((million**2 - 1) / math.sqrt(2), (z**2 - 1) / math.sqrt(2)) > LIKELY
    assert stats.ks_2samp(million[:100000], z[:100000]).pvalue > LIKELY


def test_many_seeds_together_are_normal(home):
    """The first four elements of 20000 streams and of 20000 seeds."""
    zero = home.array(np.zeros((1, 4), np.float32))
    streams = np.concatenate([home.numpy(sf.Noise(1, s).like(zero))[0] for s in range(20000)])
    seeds = np.concatenate([home.numpy(sf.Noise(s, 1).like(zero))[0] for s in range(20000)])
    assert stats.kstest(streams, "norm").pvalue > LIKELY
    assert stats.kstest(seeds, "norm").pvalue > LIKELY
    assert correlation_p_value(streams.astype("float64"), seeds.astype("float64")) > LIKELY
