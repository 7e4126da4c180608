"""Operations beside Python: the same bits as at once, whoever does them, and nothing goes before it is read."""

import gc
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from frameworks import framework

import scorefusion as sf
from scorefusion import _core
from scorefusion._core import Aside
from scorefusion.fitting import _nobody_else_holds

SHAPE = (64, 300)  # more than is done at once


@pytest.fixture
def home(request):
    return framework(request.param, "cpu")


def operands(home, dtype="float32", m=3):
    return [home.normal(SHAPE, dtype, seed=j) for j in range(m)]


ROWS = np.random.default_rng(4)
SCALE, WEIGHT, CELL = ROWS.normal(size=(SHAPE[0], 2)), ROWS.uniform(size=SHAPE[0]), ROWS.integers(0, 3, SHAPE[0])


def added(aside, u):
    """What three arrays add to sums of zeros, which are filled after `wait`."""
    sums = np.zeros((3, 5))
    aside.add_rows(u, SCALE, None, WEIGHT, CELL, sums)
    return sums


def added_by_hand(G):
    sums = np.zeros((3, 5))
    assert _core.add_rows(np.asarray(G, np.float64), SCALE, None, WEIGHT, CELL, sums) == -1
    return sums


def same(home, a, b):
    assert type(a) is type(b)
    return np.array_equal(np.asarray(home.numpy(a), np.float64), np.asarray(home.numpy(b), np.float64))


@pytest.mark.parametrize("home", ["numpy", "torch", "jax"], indirect=True)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("at_once", [False, True])
def test_the_same_bits(home, dtype, at_once):
    aside = Aside(at_once=at_once)
    noise = sf.Noise(3, sample=np.arange(SHAPE[0]))
    for _ in range(20):
        u = operands(home, dtype)
        z = aside.noise_like(noise, u[0], None)
        y = aside.combine([*u, z], [1.0, 2.0, 3.0, 4.0], None)
        x = aside.combine([y, z], np.full((SHAPE[0], 2), 0.5), None)  # of what is not there yet
        sums = added(aside, [y, z, x])
        assert aside.wait() == -1
        expected = sf.combine([*u, noise.like(u[0])], [1.0, 2.0, 3.0, 4.0])
        assert same(home, z, noise.like(u[0]))
        assert same(home, y, expected)
        assert same(home, x, sf.combine([expected, noise.like(u[0])], [0.5, 0.5]))
        assert np.array_equal(sums, added_by_hand(home.numpy(sf.gram([y, z, x]))))


@pytest.mark.parametrize("home", ["numpy", "torch"], indirect=True)
def test_into_out_of_any_layout(home):
    u = operands(home)
    aside = Aside(at_once=False)
    plain = home.array(np.zeros(SHAPE), "float32")
    assert aside.combine(u, [1.0, 2.0, 3.0], plain) is plain
    odd = home.transpose(home.array(np.zeros(SHAPE[::-1]), "float32"), (1, 0))
    assert aside.noise_like(sf.Noise(1), u[0], odd) is odd
    aside.wait()
    assert same(home, plain, sf.combine(u, [1.0, 2.0, 3.0]))
    assert same(home, odd, sf.Noise(1).like(u[0]))
    with pytest.raises(ValueError, match="out overlaps"):
        aside.combine([u[0][:-1]], [1.0], u[0][1:])


def test_what_nobody_holds_lives_until_it_is_read_and_written():
    before = sf.combine([np.ones(SHAPE, np.float32)], [1.0]).sum()
    for _ in range(50):
        aside = Aside(at_once=False)
        for seed in range(5):
            aside.combine(operands(framework("numpy", "cpu")), [1.0, 1.0, 1.0], None)
            added(aside, [np.ones(SHAPE, np.float32), np.ones(SHAPE, np.float32), sf.Noise(seed)])
        del aside
    gc.collect()
    assert sf.combine([np.ones(SHAPE, np.float32)], [1.0]).sum() == before


def test_references_go_when_all_is_done():
    aside, x = Aside(at_once=False), np.ones(SHAPE, np.float32)
    known = sys.getrefcount(x)
    y = aside.combine([x, x], [1.0, 1.0], None)
    assert sys.getrefcount(x) > known
    aside.wait()
    assert sys.getrefcount(x) == known
    assert sys.getrefcount(y) == 2
    assert (y == 2).all()
    aside.wait()  # of nothing


def test_errors_come_at_once():
    aside = Aside(at_once=False)
    with pytest.raises(ValueError, match="one shape"):
        aside.combine([np.ones((2, 3)), np.ones((3, 2))], [1.0, 1.0], None)
    with pytest.raises(TypeError, match="int64"):
        aside.noise_like(sf.Noise(1), np.ones((2, 3), np.int64), None)
    x, sums = np.ones(SHAPE, np.float32), np.zeros((3, 5))
    with pytest.raises(ValueError, match="cell that is not there"):
        aside.add_rows([x, x, x], SCALE, None, WEIGHT, CELL + 1, sums)
    with pytest.raises(ValueError, match="shapes do not fit"):
        aside.add_rows([x, x, x, x], SCALE, None, WEIGHT, CELL, sums)
    assert aside.wait() == -1
    assert not sums.any()


@pytest.mark.parametrize("at_once", [False, True])
def test_rows_that_are_not_finite_end_the_adding_until_that_is_told(at_once):
    aside, sums = Aside(at_once=at_once), np.zeros((3, 5))
    good = operands(framework("numpy", "cpu"))
    bad = [v.copy() for v in good]
    bad[1][7, 3] = np.nan
    for u in (good, bad, good):
        aside.add_rows(u, SCALE, None, WEIGHT, CELL, sums)
    assert aside.wait() == 7 * 3 + 1
    once = added_by_hand(sf.gram(good))
    assert np.array_equal(sums, once)
    assert aside.wait() == -1
    more = added(aside, good)
    aside.wait()
    assert np.array_equal(more, once)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_has_its_own():
    script = """
        import os, sys, time
        import numpy as np, scorefusion as sf
        from scorefusion._core import Aside

        aside, x = Aside(at_once=False), np.ones((64, 3000), np.float32)
        aside.combine([x], [2.0], None)
        time.sleep(0.1)  # until the thread sleeps: memory that is asked for while it is forked would stay locked (ASan)
        pid = os.fork()
        if pid == 0:
            try:
                aside.wait()
            except RuntimeError as error:
                assert "forked" in str(error)
            else:
                os._exit(1)
            own = Aside(at_once=False)
            y = own.combine([x], [2.0], None)
            own.wait()
            os._exit(0 if (y == 2).all() else 2)
        aside.wait()
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """
    subprocess.run([sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)], check=True, timeout=60)


@pytest.mark.parametrize("home", ["numpy", "torch"], indirect=True)
def test_who_else_holds_an_array_is_told(home):
    def fresh():
        return home.array(np.ones(3), "float32") * 2

    held, base = fresh(), fresh()
    assert _nobody_else_holds([fresh(), fresh()])
    assert not _nobody_else_holds([fresh(), held])
    assert not _nobody_else_holds([base[:2]])


def network_that_reuses_its_buffer(buffers):
    """What it returned is overwritten by its next call."""

    def network(x, t):
        buffer = buffers.setdefault(x.shape, np.empty_like(x))
        np.multiply(x, 0.5 + 0.1 * t[:1].mean(), out=buffer)
        return buffer

    return network


@pytest.mark.parametrize("kind", ["own", "view", "tensor", "again"])
def test_a_fit_reads_what_a_network_writes_again_before_it_does(kind):
    torch = pytest.importorskip("torch")
    home = framework("torch" if kind == "tensor" else "numpy", "cpu")
    data = home.normal((256, 400), "float32", seed=1)
    inner = network_that_reuses_its_buffer({})
    networks = {
        "own": inner,
        "view": lambda x, t: inner(x, t)[:],
        "tensor": lambda x, t: torch.from_numpy(inner(x.numpy(), t.numpy())),
        "again": lambda x, t: x,
    }
    VP = sf.schedule.VP()

    def learned(copied):
        def asked(x, t):
            out = networks[kind](x, t)
            return home.array(np.array(home.numpy(out)), "float32") if copied else out

        other = sf.Model(lambda x, t: x * -0.3, "epsilon", VP)
        models = [sf.Model(asked, "epsilon", VP), other]
        return sf.fit(models, data, draws=6, batch_size=64, progress=False)

    a, b = learned(copied=False), learned(copied=True)
    assert np.array_equal(a.statistics.total(), b.statistics.total())
