"""Files: a fit that was killed goes on to the same bits, and nothing that is not ours is read or overwritten."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import zipfile

import numpy as np
import pytest

import scorefusion as sf
from scorefusion import _files
from scorefusion.analytic import GaussianMixture

VP = sf.schedule.VP()
MODELS = [GaussianMixture([1], [[m, 0.0]], [1.0]).model(VP) for m in (-1.0, 3.0)]
DATA = GaussianMixture([1], [[0.0, 0.0]], [1.0]).sample(600, seed=1)
LATER = np.concatenate([DATA[:599], DATA[:1]])  # another last datum


def learn(data=DATA, models=MODELS, **settings):
    return sf.fit(models, data, **{"progress": False, "draws": 4, "schedule": VP, **settings})


def assert_same(one, other):
    assert np.array_equal(one.statistics.total(), other.statistics.total())
    assert np.array_equal(one.statistics.per_group()[0], other.statistics.per_group()[0])
    assert np.array_equal(one.weights, other.weights)
    assert one.evaluations == other.evaluations


def interrupted_after(calls, error=KeyboardInterrupt):
    """The models, the first of which raises at this call."""
    left = [calls]

    def score(x, t):
        left[0] -= 1
        if left[0] < 0:
            raise error
        return MODELS[0](x, t)

    return [score, MODELS[1]]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "fit.ckpt"


@pytest.mark.parametrize("calls", [0, 1, 5, 9, 10])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
@pytest.mark.parametrize("batch_size", [64, 100])
def test_an_interrupted_fit_goes_on_to_the_same_bits(path, calls, error, batch_size):
    with pytest.raises(error):
        learn(models=interrupted_after(calls, error), checkpoint=path, batch_size=100)
    assert path.exists() == (calls > 0)
    fit = learn(checkpoint=path, batch_size=batch_size)
    assert_same(fit, learn())


def test_a_finished_fit_calls_nothing_again(path):
    whole = learn(checkpoint=path)
    assert_same(learn(models=interrupted_after(0), checkpoint=path), whole)


@pytest.mark.parametrize("calls", [1, 5, 9])
def test_a_loader_is_read_again_and_compared(path, calls):
    loader = [DATA[i : i + 70] for i in range(0, 600, 70)]
    with pytest.raises(KeyboardInterrupt):
        learn(loader, interrupted_after(calls), checkpoint=path)
    before = path.read_bytes()
    for foreign in ([DATA[:70] + 1, *loader[1:]], [], [DATA[:3]]):
        with pytest.raises(ValueError, match=r"is of another fit: data differ. It was left as it is"):
            learn(foreign, checkpoint=path)
        assert path.read_bytes() == before
    assert_same(learn(loader, checkpoint=path), learn())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"data": LATER}, "data"),
        ({"data": DATA[:599]}, "data"),
        ({"data": DATA.astype("float32")}, "data"),
        ({"seed": 1}, "seed"),
        ({"draws": 6}, "draws"),
        ({"t_range": (0.1, 0.2)}, "t_range, edges"),
        ({"weighting": "likelihood"}, "weighting"),
        ({"weighting": lambda t: t}, "weighting"),
        ({"targets": "posterior"}, "targets"),
        ({"bins": 3}, "edges"),
        ({"first_datum": 1}, "first_datum"),
        ({"models": MODELS[:1]}, "k"),
        ({"schedule": sf.schedule.VP(0.2), "models": [lambda x, t: x] * 2}, "schedule"),
    ],
)
def test_a_checkpoint_of_another_fit_is_refused_and_stays(path, change, named):
    with pytest.raises(KeyboardInterrupt):
        learn(models=interrupted_after(3), checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=rf"is of another fit: .*{named}.* differ"):
        learn(**change, checkpoint=path)
    assert path.read_bytes() == before
    assert_same(learn(checkpoint=path), learn())


def test_it_is_written_while_the_fit_goes_on(path, monkeypatch):
    monkeypatch.setattr("scorefusion.fitting._CHECKPOINT_SECONDS", 0.0)
    seen = []

    def looking(x, t):
        if path.exists():
            seen.append(_files.read(path, "checkpoint")[0]["cost"]["evaluations"])
        return MODELS[0](x, t)

    learn(models=[looking, MODELS[1]], checkpoint=path, batch_size=100)
    assert seen == sorted(set(seen))
    assert len(seen) > 20


def test_after_a_score_that_is_not_finite_the_fit_can_go_on(path):
    broken = interrupted_after(10**9)
    count = [0]

    def sometimes(x, t):
        count[0] += 1
        return MODELS[1](x, t) * (np.nan if count[0] == 7 else 1.0)

    with pytest.raises(ValueError, match=r"models\[1\] returned NaN"):
        learn(models=[broken[0], sometimes], checkpoint=path)
    calls = []
    fit = learn(models=[lambda x, t: calls.append(1) or MODELS[0](x, t), MODELS[1]], checkpoint=path)
    assert np.array_equal(fit.statistics.total(), learn().statistics.total())
    assert len(calls) < fit.model_calls / 2
    assert fit.evaluations > 2400  # what was lost was paid for


KILLED = textwrap.dedent("""
    import sys, time
    import scorefusion as sf, scorefusion.fitting
    from scorefusion.analytic import GaussianMixture
    scorefusion.fitting._CHECKPOINT_SECONDS = 0.0
    VP = sf.schedule.VP()
    exact = [GaussianMixture([1], [[m, 0.0]], [1.0]).model(VP) for m in (-1.0, 3.0)]
    def slow(x, t):
        time.sleep(1e-3)
        return exact[0](x, t)
    data = GaussianMixture([1], [[0.0, 0.0]], [1.0]).sample(600, seed=1)
    print("ready", flush=True)
    sf.fit([slow, exact[1]], data, draws=4, batch_size=32, schedule=VP, progress=False, checkpoint=sys.argv[1])
""")


def test_killed_at_random_moments_it_goes_on_to_the_same_bits(path):
    random, killed = np.random.default_rng(0), 0
    for _ in range(int(os.environ.get("SCOREFUSION_KILLS", "6"))):
        child = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE)
        assert child.stdout.readline() == b"ready\n"
        time.sleep(random.uniform(0.0, 0.3))
        child.send_signal(signal.SIGKILL)
        killed += child.wait() == -signal.SIGKILL
        child.stdout.close()
        if random.random() < 0.2 or not path.exists():
            continue
        done = _files.read(path, "checkpoint")[0]["cost"]["evaluations"]
        if done == 2400:
            assert_same(learn(checkpoint=path), learn())
            path.unlink()
    assert killed
    assert_same(learn(checkpoint=path), learn())


# Saved fits


def test_a_fit_is_saved_whole(path):
    fit = learn()
    for original in (fit, fit.without(1), fit.with_prior([0.1, 0.9], 2.0)):
        original.save(path)
        loaded = sf.Fit.load(path)
        assert_same(loaded, original)
        assert str(loaded) == str(original)
        assert np.array_equal(loaded.bootstrap(10), original.bootstrap(10))
    more = learn(DATA[:9], first_datum=600)
    assert_same(loaded.merge(more), fit.with_prior([0.1, 0.9], 2.0).merge(more))
    with pytest.raises(ValueError, match="holds no schedule"):
        loaded.per_time()(0.5)
    assert loaded.per_time(VP)(0.5).shape == (2,)


def test_what_is_not_a_saved_fit_is_refused(path, tmp_path):
    learn().save(path)
    whole = path.read_bytes()
    for length in [0, 1, 100, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="truncated or damaged"):
            sf.Fit.load(path)
    random = np.random.default_rng(0)
    for _ in range(100):
        changed, at = bytearray(whole), int(random.integers(len(whole)))
        changed[at] ^= 1 << int(random.integers(8))
        path.write_bytes(changed)
        try:
            assert_same(sf.Fit.load(path), learn())  # a bit that says nothing, like a date
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017
    np.savez(path, a=np.ones(3))
    os.replace(f"{path}.npz", path)
    with pytest.raises(ValueError, match="not a file of scorefusion"):
        sf.Fit.load(path)
    np.save(path.with_suffix(".npy"), np.ones(3))
    with pytest.raises(ValueError, match="not a file of scorefusion"):
        sf.Fit.load(path.with_suffix(".npy"))
    np.savez(path, a=np.array([{}], object), allow_pickle=True)
    os.replace(f"{path}.npz", path)
    with pytest.raises(ValueError, match="not a file of scorefusion"):
        sf.Fit.load(path)
    with pytest.raises(FileNotFoundError):
        sf.Fit.load(tmp_path / "missing")
    checkpoint = tmp_path / "checkpoint"
    learn(checkpoint=checkpoint)
    with pytest.raises(ValueError, match="holds a checkpoint, not a fit"):
        sf.Fit.load(checkpoint)
    learn().save(path)
    with pytest.raises(ValueError, match="holds a fit, not a checkpoint"):
        learn(checkpoint=path)


def test_objects_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="sums holds Python objects, which are not written"):
        _files.write(tmp_path / "fit", "fit", {}, {"sums": np.array([{}], object)})
    assert not list(tmp_path.iterdir())


def test_altered_content_is_noticed(path):
    learn().save(path)
    with np.load(path) as archive:
        content = dict(archive)
    content["sums"][0, 0, 0] += 1e-9
    np.savez(path, **content)
    os.replace(f"{path}.npz", path)
    with pytest.raises(ValueError, match="was altered: the SHA-256"):
        sf.Fit.load(path)


def test_another_version_is_named(path, monkeypatch):
    monkeypatch.setattr(_files, "_VERSION", 2)
    learn().save(path)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="is of version 2 of the format; this scorefusion reads 1"):
        sf.Fit.load(path)


def test_a_file_holds_arrays_and_json_alone(path):
    learn().save(path)
    with zipfile.ZipFile(path) as archive:
        assert all(name.endswith(".npy") for name in archive.namelist())
    with np.load(path, allow_pickle=False) as archive:
        assert json.loads(archive["json"].tobytes())["format"] == "scorefusion"


def test_a_write_that_fails_leaves_the_old_file(path, monkeypatch):
    learn().save(path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space left"):
        learn(DATA[:10]).save(path)
    assert path.read_bytes() == before


# Files that suffered, and disks that are full


@pytest.fixture
def small(tmp_path):
    """A file of ours, its bytes, and what it holds."""
    path = tmp_path / "small"
    _files.write(path, "fit", {"settings": {"k": 2}}, {"start": np.arange(3), "sums": np.ones((3, 1, 5))})
    return path, path.read_bytes(), _files.read(path, "fit")


def test_every_bit_flipped_gives_an_error_or_the_content(small):
    """SCOREFUSION_FLIPS=8 flips all bits of every byte; else two of them."""
    path, whole, (meta, arrays) = small
    for at in range(len(whole)):
        for bit in sorted({0, at % 8} if "SCOREFUSION_FLIPS" not in os.environ else range(8)):
            changed = bytearray(whole)
            changed[at] ^= 1 << bit
            path.write_bytes(changed)
            try:
                got, found = _files.read(path, "fit")
            except ValueError as error:
                assert str(path) in str(error)  # noqa: PT017
                continue
            assert got == meta, (at, bit)
            assert found.keys() == arrays.keys()
            assert all(np.array_equal(found[name], arrays[name]) for name in arrays), (at, bit)


def test_every_length_but_the_whole_is_an_error(small):
    path, whole, _ = small
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="truncated or damaged"):
            _files.read(path, "fit")


FULL = textwrap.dedent("""
    import os, resource, signal, sys
    import numpy as np
    import scorefusion as sf
    from scorefusion.analytic import GaussianMixture
    path, limit = sys.argv[1], int(sys.argv[2])
    VP = sf.schedule.VP()
    models = [GaussianMixture([1], [[m, 0.0]], [1.0]).model(VP) for m in (-1.0, 3.0)]
    data = GaussianMixture([1], [[0.0, 0.0]], [1.0]).sample(600, seed=1)
    if limit:  # what a full disk does, for those who may not make one
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        sf.fit(models, data, draws=4, schedule=VP, progress=False, checkpoint=path)
    except OSError as error:
        print("refused:", error)
""")


def fitted_on_a_full_disk(path, limit=0):
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path), str(limit)], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="limits of files are POSIX")
def test_a_full_disk_leaves_the_checkpoint_of_before(path):
    with pytest.raises(KeyboardInterrupt):
        learn(models=interrupted_after(5), checkpoint=path)
    before = path.read_bytes()
    assert "refused: " in fitted_on_a_full_disk(path, limit=len(before) + 100)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # nothing half written is left in the way
    assert_same_but_for_cost(learn(checkpoint=path), learn())


def test_a_disk_that_is_really_full(tmp_path):
    """A file system of 2 MiB, all of it taken."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a file system")
    try:
        path = disk / "fit.ckpt"
        with pytest.raises(KeyboardInterrupt):
            learn(models=interrupted_after(1), checkpoint=path)
        before = path.read_bytes()
        filler = disk / "filler"
        with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"x" * 4096):
                pass
        assert "No space left" in fitted_on_a_full_disk(path)
        assert path.read_bytes() == before
        filler.unlink()
        assert "refused" not in fitted_on_a_full_disk(path)
        assert_same_but_for_cost(learn(checkpoint=path), learn())
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True, capture_output=True)
        with pytest.raises(OSError, match="Read-only"):
            learn(seed=2, checkpoint=disk / "other.ckpt")
        assert_same_but_for_cost(learn(checkpoint=path), learn())  # what is finished is read alone
    finally:
        subprocess.run(["umount", str(disk)], check=True, capture_output=True)


def assert_same_but_for_cost(one, other):
    """What was lost was paid for."""
    assert np.array_equal(one.statistics.total(), other.statistics.total())
    assert np.array_equal(one.weights, other.weights)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_what_is_no_file_is_not_replaced(tmp_path):
    link = tmp_path / "full"
    link.symlink_to("/dev/full")
    for there in (link, tmp_path):
        with pytest.raises(ValueError, match="is none: it is left as it is"):
            learn().save(there)
    assert link.is_symlink()


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        learn().save(tmp_path / "missing" / "fit")
