"""Checkpoints: everything comes back, or one kind of error and nothing has changed."""

import builtins
import errno
import json
import os
import pickle
import random
import stat
import struct
import threading
import tracemalloc

import numpy as np
import pytest
import safetensors
import safetensors.numpy

import tinygrad_rnn as tg
from tinygrad_rnn import checkpoint
from tinygrad_rnn.checkpoint import CheckpointError, load_checkpoint, load_weights, save_checkpoint, save_weights


class Model(tg.nn.Module):
    """Shapes and dtypes of every kind: none of these arrays may come back in another form."""

    def __init__(self, size=2):
        self.weight = tg.nn.Parameter(tg.randn(3, size))
        self.scale = tg.nn.Parameter(np.float64(tg.generator().random()))
        self.none = tg.nn.Parameter(tg.zeros(0, 3))
        self.layers = [tg.nn.Linear(size, 2)]
        self.register_buffer("seen", tg.tensor(tg.generator().integers(0, 9, 2)))
        self.register_buffer("mask", tg.tensor(np.array([True, False])))


def optimiser_of(model, kind=tg.optim.AdamW, lr=0.5, **options):
    first, *rest = model.parameters()
    return kind([{"params": [first], "lr": lr}, {"params": rest}], **options)


def train(model, optimiser, steps=2):
    for _ in range(steps):
        for p in model.parameters():
            p.grad = tg.Tensor(np.asarray(tg.generator().standard_normal(p.shape), p.dtype))
        optimiser.step()


def made(seed, steps=2):
    tg.manual_seed(seed)
    model = Model()
    optimiser = optimiser_of(model, lr=0.1 * seed)
    train(model, optimiser, steps)
    return model, optimiser


def fingerprint(model, optimiser):
    """All that a checkpoint restores, bit for bit."""
    saved = optimiser.state_dict()
    arrays = list(model.state_dict().items())
    arrays += [(number, key, value) for number, state in saved["state"].items() for key, value in sorted(state.items())]
    return [(*names, np.shape(a), np.asarray(a).dtype, np.asarray(a).tobytes()) for *names, a in arrays], saved[
        "param_groups"
    ], tg.get_rng_state()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.safetensors"


@pytest.fixture
def saved(path):
    """A checkpoint, and what was in it."""
    model, optimiser = made(seed=1)
    save_checkpoint(path, model, optimiser, step=7, metadata={"epoch": 3})
    return fingerprint(model, optimiser)


@pytest.fixture
def other():
    """Another run, for the checkpoint to be loaded into."""
    return made(seed=2, steps=3)


def put(path, blob):
    """A new file each time: file systems may force a file that was cut and rewritten to the disk."""
    path.unlink()
    path.write_bytes(blob)


def refused(path, *args, match=None, **kwargs):
    """Loading raises exactly our error, which names the file."""
    with pytest.raises(CheckpointError, match=match) as caught:
        load_checkpoint(path, *args, **kwargs)
    assert type(caught.value) is CheckpointError and str(caught.value).startswith(f"cannot load {path}: ")


# ---- Round trips -----------------------------------------------------------------------------------------------------


def test_everything_comes_back_bit_for_bit(path, saved, other):
    assert fingerprint(*other) != saved
    result = load_checkpoint(path, *other)
    assert fingerprint(*other) == saved
    assert (result.step, result.metadata) == (7, {"epoch": 3})


@pytest.mark.parametrize(
    ("kind", "options"),
    [(tg.optim.SGD, {}), (tg.optim.SGD, {"momentum": 0.9}), (tg.optim.Adam, {"amsgrad": True}),
     (tg.optim.RMSprop, {"momentum": 0.5, "centered": True}), (tg.optim.Adagrad, {"lr_decay": 0.1}),
     (tg.optim.ASGD, {"t0": 1}), (tg.optim.NAdam, {}), (tg.optim.NTASGD, {"n": 3})],
)
def test_every_optimiser_goes_on_with_the_same_bits(path, kind, options):
    runs = []
    for seed in (1, 2):
        tg.manual_seed(seed)
        model = Model()
        runs.append((model, optimiser_of(model, kind, **options)))
    first, second = runs
    train(*first)
    train(*second)
    save_checkpoint(path, *first)
    train(*first, steps=3)
    end = fingerprint(*first)
    load_checkpoint(path, *second)
    train(*second, steps=3)
    assert fingerprint(*second) == end


def test_before_the_first_step_there_is_no_state(path):
    model, optimiser = made(seed=1, steps=0)
    save_checkpoint(path, model, optimiser)
    load_checkpoint(path, *(run := made(seed=2)))
    assert fingerprint(*run) == fingerprint(model, optimiser) and run[1].state_dict()["state"] == {}


def test_parts_can_be_saved_and_loaded_alone(path, saved, other):
    model, optimiser = other
    before = fingerprint(*other)
    assert load_checkpoint(path, random_state=False).step == 7
    assert fingerprint(*other) == before
    load_checkpoint(path, model=model, random_state=False)
    assert fingerprint(*other)[1:] == before[1:] and fingerprint(*other)[0] != before[0]
    load_checkpoint(path, optimizer=optimiser)
    assert fingerprint(*other) == saved
    save_checkpoint(path, random_state=False)
    assert load_checkpoint(path, random_state=False) == checkpoint.Checkpoint(0, {})


def test_state_that_lies_in_memory_in_another_order(path):
    """safetensors writes memory as it lies; the momentum of a transposed array lies as that does."""
    p = tg.from_numpy(np.asfortranarray(np.arange(6.0).reshape(2, 3))).requires_grad_()
    q = tg.tensor(p.numpy().copy(), requires_grad=True)
    optimisers = [tg.optim.SGD([x], momentum=0.9) for x in (p, q)]
    p.grad = tg.tensor(np.arange(6.0).reshape(2, 3))
    optimisers[0].step()
    assert optimisers[0].state[p]["momentum_buffer"].flags.f_contiguous
    save_checkpoint(path, optimizer=optimisers[0])
    load_checkpoint(path, optimizer=optimisers[1])
    np.testing.assert_array_equal(optimisers[1].state[q]["momentum_buffer"], np.arange(6.0).reshape(2, 3))


def test_metadata_is_what_json_can_say(path):
    given = {"loss": 0.1, "list": [1, None, True], "text": 'ü "quoted" \\" \n', "big": 2**200, "digest": "0" * 64,
             "numpy": np.float32(0.5), "nan": float("nan"), "inf": -float("inf"), "model": {"digest": "f" * 64}}
    save_checkpoint(path, step=np.int64(3), metadata=given)
    found = load_checkpoint(path)
    assert found.step == 3 and np.isnan(found.metadata.pop("nan"))
    del given["nan"]
    assert found.metadata == given
    before = path.read_bytes()
    for bad in ({"array": np.ones(2)}, {"set": {1}}, {(1, 2): 3}):
        with pytest.raises(TypeError):
            save_checkpoint(path, metadata=bad)
    with pytest.raises(TypeError):
        save_checkpoint(path, step=1.5)
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


def test_the_same_state_makes_the_same_file(path, saved):
    first = path.read_bytes()
    save_checkpoint(path, *made(seed=1), step=7, metadata={"epoch": 3})
    assert path.read_bytes() == first


def test_any_safetensors_reader_finds_names_and_shapes(path, saved):
    with safetensors.safe_open(path, framework="numpy") as file:
        names = set(file.keys())
        content = json.loads(file.metadata()["tinygrad_rnn"])
        assert file.get_tensor("model.layers.0.weight").shape == (2, 2)
    assert {"model.weight", "model.scale", "model.seen", "optimizer.0.exp_avg", "optimizer.4.exp_avg_sq"} <= names
    assert content["format"] == "tinygrad_rnn checkpoint" and content["version"] == 1 and content["step"] == 7


def test_links_stay_links_and_permissions_are_ordinary(tmp_path, path):
    link = tmp_path / "latest.safetensors"
    save_checkpoint(path, step=1)
    link.symlink_to(path)
    save_checkpoint(link, step=2)
    assert link.is_symlink() and load_checkpoint(path).step == 2
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX systems")
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o660, 0o604])
@pytest.mark.parametrize("save", [lambda path: save_checkpoint(path, step=2), lambda path: save_weights(path, Model())])
def test_a_file_keeps_its_permissions_while_it_is_replaced_and_after(path, monkeypatch, mode, save):
    """Private weights stay private, and so does the draft from its first byte on."""
    save_checkpoint(path, step=1)
    path.chmod(mode)
    seen, write = [], os.fsync

    def watch(handle):
        seen.append(stat.S_IMODE(os.fstat(handle).st_mode))
        write(handle)

    opened, plain = [], os.open

    def watch_open(name, flags, mode=0o777, **kwargs):
        handle = plain(name, flags, mode, **kwargs)
        if str(name).endswith(".tmp"):
            opened.append(stat.S_IMODE(os.fstat(handle).st_mode))
        return handle

    monkeypatch.setattr(os, "fsync", watch)
    monkeypatch.setattr(os, "open", watch_open)
    save(path)
    monkeypatch.undo()
    assert opened == [0o600] and seen[0] == mode and stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root can give files away")
def test_a_file_keeps_its_owner_and_its_group(path, monkeypatch):
    """The permissions of a group mean something else for another group: if it cannot be kept, none has any."""
    save_checkpoint(path, step=1)
    os.chown(path, 12345, 23456)
    path.chmod(0o640)
    save_checkpoint(path, step=2)
    status = path.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (12345, 23456, 0o640)

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "fchown", refuse)
    save_checkpoint(path, step=3)
    status = path.stat()
    assert (status.st_gid, stat.S_IMODE(status.st_mode)) == (os.getgid(), 0o600)


def access_list(*entries):
    """As Linux keeps it: (kind, permissions, number) for each who may do something."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NOBODY = 0xFFFFFFFF
LISTED = access_list((1, 6, NOBODY), (2, 6, 12345), (4, 0, NOBODY), (16, 6, NOBODY), (32, 0, NOBODY))


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="access lists of Linux")
def test_a_file_keeps_its_access_list_and_gets_no_other(path, monkeypatch):
    """With a list, the permissions of the group are what anybody listed may do at most: the group itself has none."""
    save_checkpoint(path, step=1)
    path.chmod(0o600)
    try:
        os.setxattr(path, checkpoint.ACCESS, LISTED)
    except OSError:
        pytest.skip("this file system has no access lists")
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    save_checkpoint(path, step=2)
    assert os.getxattr(path, checkpoint.ACCESS) == LISTED

    def refuse(*_):
        raise OSError(errno.ENOTSUP, "not here")

    with monkeypatch.context() as patch:
        patch.setattr(os, "setxattr", refuse)
        save_checkpoint(path, step=3)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o640)
    os.setxattr(path.parent, "system.posix_acl_default", LISTED)  # for new files in this folder
    save_checkpoint(path, step=4)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    with pytest.raises(OSError, match="No data"):
        os.getxattr(path, checkpoint.ACCESS)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names here")
def test_what_is_no_file_is_not_replaced(path):
    """As root, who may replace /dev/null."""
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match=r"cannot write .*: it is there, and no file"):
        save_checkpoint(path)
    assert stat.S_ISFIFO(path.stat().st_mode) and [each.name for each in path.parent.iterdir()] == [path.name]


def test_paths_of_every_kind(path, other):
    model, optimiser = made(seed=1)
    save_checkpoint(os.fsencode(path), model, optimiser, step=5)
    for kind in (os.fsencode, os.fspath, lambda x: x):
        assert load_checkpoint(kind(path), *other).step == 5
    save_weights(os.fsencode(path), model)
    load_weights(os.fsencode(path), other[0])
    with pytest.raises(CheckpointError, match="cannot load nowhere: No such file"):
        load_checkpoint(b"nowhere")


def test_metadata_that_is_too_large_for_the_format(path):
    save_checkpoint(path, step=1)
    with pytest.raises(CheckpointError, match=f"cannot write {path}: "):
        save_checkpoint(path, step=2, metadata={"a": "x" * 101_000_000})
    assert load_checkpoint(path).step == 1 and os.listdir(path.parent) == [path.name]


def test_numbers_that_numpy_has_not_are_named(path, other):
    """bfloat16, in which PyTorch's weights usually are."""
    header = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
              "b.weight": {"dtype": "BF16", "shape": [2], "data_offsets": [4, 8]}}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(CheckpointError, match=r"b\.weight is of the type BF16, which NumPy has not; .* float\(\)"):
        load_weights(path, other[0])


# ---- Damaged files ---------------------------------------------------------------------------------------------------


def test_cut_off_at_every_byte(path, saved, other):
    blob, before = path.read_bytes(), fingerprint(*other)
    assert 2000 < len(blob) < 5000
    for size in range(len(blob)):
        put(path, blob[:size])
        refused(path, *other, match="cut off|damaged")
    assert fingerprint(*other) == before
    path.write_bytes(blob)
    load_checkpoint(path, *other)
    assert fingerprint(*other) == saved


def mutated(blob, chance):
    """One to three small accidents."""
    blob = bytearray(blob)
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        i, j = chance.randrange(len(blob)), chance.randrange(len(blob))
        match chance.randrange(7):
            case 0: blob[i] ^= 1 << chance.randrange(8)
            case 1: blob[i] = chance.randrange(256)
            case 2: blob[i:i] = chance.randbytes(chance.randint(1, 8))
            case 3: del blob[i : i + chance.randint(1, 8)]
            case 4: blob[i], blob[j] = blob[j], blob[i]
            case 5: blob[i : i + 16] = bytes(len(blob[i : i + 16]))
            case 6: blob[i : i + 8], blob[j : j + 8] = blob[j : j + 8], blob[i : i + 8]
    return bytes(blob)


def test_ten_thousand_mutations(path, saved, other):
    """Wherever they fall, in the length, the JSON, its padding, the digest or the numbers, they are noticed."""
    blob, before, chance = path.read_bytes(), fingerprint(*other), random.Random(0)
    done = 0
    while done < 10_000:
        damaged = mutated(blob, chance)
        if damaged == blob:
            continue
        put(path, damaged)
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(path, *other)
        assert type(caught.value) is CheckpointError and str(path) in str(caught.value)
        done += 1
        if done % 100 == 0:
            assert fingerprint(*other) == before
    assert fingerprint(*other) == before


def test_every_single_bit_counts(path):
    save_checkpoint(path, random_state=False)
    blob = path.read_bytes()
    for i in range(8 * len(blob)):
        flipped = bytearray(blob)
        flipped[i // 8] ^= 1 << i % 8
        put(path, flipped)
        refused(path, random_state=False)


def test_a_checkpoint_is_not_taken_for_plain_weights(path):
    model, optimiser = made(seed=1)
    save_checkpoint(path, model, optimiser)
    with pytest.raises(CheckpointError, match=r"this is a checkpoint, .*: load_checkpoint\(path, model\) reads it"):
        load_weights(path, model)


def test_a_checkpoint_needs_one_copy_of_what_it_holds(path):
    """Beside the state of the model, which is copied: the bytes of the file, and no second time with the digest in."""
    model = tg.nn.Linear(1000, 4000)
    size = 4 * 4_004_000
    tracemalloc.start()
    try:
        save_checkpoint(path, model, random_state=False)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > size and peak < 3.5 * size


# ---- Files that are whole but not what is asked for ------------------------------------------------------------------


def crafted(**changes):
    """A file with a true digest and this content."""
    content = {"step": 0, "metadata": {}, "model": False, **changes}
    return b"".join(checkpoint._encode({k: v for k, v in content.items() if v is not ...}, {}))


FOREIGN = {
    "empty": (b"", "cut off"),
    "text": (b"Call me Ishmael. Some years ago, never mind how long precisely", "no safetensors file"),
    "pickle": (pickle.dumps({"weight": [1.0, 2.0]}), "no safetensors file"),
    "zip": (b"PK\x03\x04" + bytes(200), "no safetensors file"),
    "zeros": (bytes(100), "no safetensors file"),
    "JSON is a list": ((2).to_bytes(8, "little") + b"[]", "damaged"),
    "JSON is deep": ((200_000).to_bytes(8, "little") + b"[" * 200_000, "damaged"),
    "no UTF-8": ((4).to_bytes(8, "little") + b'"\xff\xfe"', "damaged"),
    "plain weights": (safetensors.numpy.save({"weight": np.ones(2)}), "no checkpoint; load_weights"),
    "other metadata": (safetensors.numpy.save({}, {"tinygrad_rnn": "{}"}), "no checkpoint"),
    "metadata no JSON": (safetensors.numpy.save({}, {"tinygrad_rnn": "hello"}), "damaged"),
    "metadata a list": (safetensors.numpy.save({}, {"tinygrad_rnn": "[1]"}), "damaged"),
    "no digest": (
        safetensors.numpy.save({}, {"tinygrad_rnn": json.dumps({"format": checkpoint.FORMAT, "version": 1})}),
        "does not match its digest",
    ),
    "no step": (crafted(step=...), "step"),
    "random state is a number": (crafted(random_state=5), "cannot load"),
    "random state of another generator": (crafted(random_state={"bit_generator": "MT19937", "state": {}}), "PCG64"),
    "random state without numbers": (crafted(random_state={"bit_generator": "PCG64"}), "state"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_files(path, other, name):
    blob, message = FOREIGN[name]
    path.write_bytes(blob)
    before = fingerprint(*other)
    refused(path, match=message)
    refused(path, *other)
    assert fingerprint(*other) == before


def test_a_newer_format_is_left_to_a_newer_library(path, other, monkeypatch):
    monkeypatch.setattr(checkpoint, "VERSION", 2)
    save_checkpoint(path, *other)
    monkeypatch.undo()
    refused(path, *other, match="its format is version 2, and this tinygrad_rnn reads version 1: update it")


def test_missing_files(tmp_path, path, other):
    refused(path, *other, match="No such file")
    refused(tmp_path, *other, match="directory|denied")


def test_what_the_file_does_not_hold(path, other):
    before = fingerprint(*other)
    save_checkpoint(path, random_state=False)
    refused(path, random_state=True, match="no random state; load it with random_state=False")
    refused(path, model=other[0], random_state=False, match="it holds no model")
    refused(path, optimizer=other[1], random_state=False, match="it holds no optimiser")
    assert fingerprint(*other) == before


def wrong_runs():
    """A model and optimiser each that the checkpoint does not fit, and why."""
    model = Model(size=3)
    yield model, optimiser_of(model), r"weight has shape \[3, 2\], expected \[3, 3\]|has shape"
    model = Model()
    model.extra = tg.nn.Parameter(tg.ones(1))
    optimiser = optimiser_of(Model())
    yield model, optimiser, "missing: extra"
    model = Model()
    del model.layers
    yield model, optimiser_of(Model()), "unexpected: layers.0.bias, layers.0.weight"
    model = Model().double()
    yield model, optimiser_of(model), "weight is float32 in the file and float64 in the model"
    model = Model()
    yield model, optimiser_of(model, tg.optim.Adam), "it holds the state of AdamW, not of Adam"
    yield model, tg.optim.AdamW(model.parameters()), r"groups have \[5\] parameters, those of the state dict \[1, 4\]"
    first, *rest = model.parameters()
    swapped = [{"params": [rest.pop()]}, {"params": [first, *rest]}]
    yield model, tg.optim.AdamW(swapped), "of parameter 0 has shape"


@pytest.mark.parametrize("number", range(7))
def test_a_checkpoint_of_another_run_changes_nothing(path, saved, number):
    tg.manual_seed(2)
    model, optimiser, message = list(wrong_runs())[number]
    for p in (p for group in optimiser.param_groups for p in group["params"]):
        p.grad = tg.Tensor(np.ones_like(p.numpy()))
    optimiser.step()
    before = fingerprint(model, optimiser)
    refused(path, model, optimiser, match=message)
    assert fingerprint(model, optimiser) == before


def test_a_wrong_model_does_not_let_the_right_optimiser_in_nor_the_other_way_round(path, saved, other):
    (model, optimiser), wider = other, Model(size=3)
    before = fingerprint(*other)
    refused(path, wider, optimiser, match="does not fit Model")
    refused(path, model, optimiser_of(model, tg.optim.SGD), match="not of SGD")
    assert fingerprint(*other) == before


FORGED = {  # what is written into a file whose digest is right, and what is said of it
    "step of the run": (lambda c, t: c.update(step="x"), "its step is no whole number"),
    "metadata": (lambda c, t: c.update(metadata=[1]), "its metadata no dict"),
    "betas": (lambda c, t: c["optimizer"]["param_groups"][1].update(betas=0.5), "betas must be 2 finite numbers"),
    "lr": (lambda c, t: c["optimizer"]["param_groups"][0].update(lr="x"), "lr must be a finite number"),
    "amsgrad": (lambda c, t: c["optimizer"]["param_groups"][0].update(amsgrad="no"), "amsgrad must be True or False"),
    "step of a parameter": (lambda c, t: c["optimizer"]["numbers"]["1"].update(step="x"), "step .* is no number"),
    "no step": (lambda c, t: c["optimizer"]["numbers"]["1"].pop("step"), "parameter 1 lacks step"),
    "no exp_avg": (lambda c, t: t.pop("optimizer.1.exp_avg"), "parameter 1 lacks exp_avg"),
    "another name": (lambda c, t: t.update({"optimizer.1.x": t.pop("optimizer.1.exp_avg")}), "1 lacks exp_avg"),
    "no such parameter": (lambda c, t: c["optimizer"]["numbers"].update({"9": {"step": 1}}), "belongs to no group"),
    "numbers": (lambda c, t: c["optimizer"].update(numbers=3), ""),
    "random state": (lambda c, t: c.update(random_state={"bit_generator": "PCG64"}), ""),
    "schedule": (lambda c, t: c["scheduler"]["state"].update(base_lrs=3), ""),
    "last epoch": (lambda c, t: c["scheduler"]["state"].update(last_epoch="x"), "last_epoch"),
}


@pytest.mark.parametrize("what", FORGED)
def test_a_forged_file_is_refused_whole(path, other, what):
    model, optimiser = made(seed=1)
    save_checkpoint(path, model, optimiser, step=1, scheduler=tg.optim.lr_scheduler.StepLR(optimiser, 5))
    content, tensors = checkpoint._decode(path.read_bytes())
    spoil, message = FORGED[what]
    spoil(content, tensors)
    path.write_bytes(b"".join(checkpoint._encode({k: v for k, v in content.items() if k != "digest"}, tensors)))
    own = tg.optim.lr_scheduler.StepLR(other[1], 5)
    before, random_state, schedule_before = fingerprint(*other), tg.get_rng_state(), own.state_dict()
    with pytest.raises(CheckpointError, match=f"cannot load .*{message}"):
        load_checkpoint(path, *other, scheduler=own)
    assert fingerprint(*other) == before
    assert tg.get_rng_state() == random_state and own.state_dict() == schedule_before


# ---- Writing goes wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["open", "write", "fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_an_error_while_writing_leaves_the_old_checkpoint_and_nothing_else(path, other, monkeypatch, where, error):
    save_checkpoint(path, *made(seed=1))
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise error

    class Half:
        """A file that takes half of what is written."""

        def __init__(self, path, mode):
            self.file = real_open(path, mode)

        def __enter__(self):
            return self

        def __exit__(self, *args):
            self.file.close()

        def write(self, blob):
            self.file.write(blob[: len(blob) // 2])
            fail()

    real_open = open
    with monkeypatch.context() as patch:
        if where in ("open", "write"):
            patch.setattr(builtins, "open", fail if where == "open" else Half)
        else:
            patch.setattr(os, where, fail)
        with pytest.raises((CheckpointError, KeyboardInterrupt)) as caught:
            save_checkpoint(path, *other)
    if isinstance(error, OSError):
        assert type(caught.value) is CheckpointError
        assert str(caught.value) == f"cannot write {path}: No space left on device"
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


def test_a_full_disk(path, saved, other):
    """The operating system's own refusal, by a limit on the size of files."""
    resource = pytest.importorskip("resource", reason="limits on the size of files are POSIX's")
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(CheckpointError, match=r"cannot write .*run.safetensors: File too large"):
            save_checkpoint(path, *other)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


def test_folders_that_cannot_be_written(tmp_path, path, other):
    save_checkpoint(path, *other)
    before = path.read_bytes()
    reasons = "(No such file|Not a directory|Is a directory|.* denied)"
    for bad in (tmp_path / "missing" / "run.safetensors", path / "run.safetensors", tmp_path):
        for save in (lambda bad: save_checkpoint(bad, *other), lambda bad: save_weights(bad, other[0])):
            with pytest.raises(CheckpointError, match=f"cannot write {bad}: {reasons}"):
                save(bad)
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_to_write(tmp_path, path, other):
    save_checkpoint(path, *other)
    before = path.read_bytes()
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(CheckpointError, match=f"no file can be made beside it, in {tmp_path}: Permission denied"):
            save_checkpoint(path, *other, step=1)
    finally:
        tmp_path.chmod(0o755)
    assert path.read_bytes() == before


def test_several_writers_and_a_reader_at_once(path):
    """The last to rename wins; the reader never sees a mixture."""
    model = tg.nn.Module()
    model.weight = tg.nn.Parameter(tg.zeros(20_000))
    save_checkpoint(path, model, random_state=False)

    def write(writer):
        own = tg.nn.Module()
        own.weight = tg.nn.Parameter(tg.full((20_000,), float(writer)))
        for _ in range(20):
            save_checkpoint(path, own, step=writer, random_state=False)

    writers = [threading.Thread(target=write, args=(n,)) for n in (1, 2)]
    for thread in writers:
        thread.start()
    seen = set()
    while any(thread.is_alive() for thread in writers):
        step = load_checkpoint(path, model, random_state=False).step
        assert (model.weight.numpy() == step).all()
        seen.add(step)
    for thread in writers:
        thread.join()
    assert seen & {1, 2} and os.listdir(path.parent) == [path.name]


# ---- Plain weights ---------------------------------------------------------------------------------------------------


def test_weights_alone(path, other):
    source = made(seed=1)[0]
    save_weights(path, source)
    load_weights(path, other[0])
    for name, array in source.state_dict().items():
        np.testing.assert_array_equal(other[0].state_dict()[name], array)
    assert set(safetensors.numpy.load_file(path)) == set(source.state_dict())


def test_weights_are_converted_to_the_models_dtype(path):
    source, target = tg.nn.Linear(3, 2).double(), tg.nn.Linear(3, 2)
    save_weights(path, source)
    load_weights(path, target)
    np.testing.assert_array_equal(target.weight.numpy(), source.weight.numpy().astype(np.float32))


def test_weights_that_do_not_fit_or_are_none(path, saved, other):
    model, wider = other[0], Model(size=3)
    before = fingerprint(*other)
    with pytest.raises(CheckpointError, match="this is a checkpoint, not plain weights"):
        load_weights(path, model)
    save_weights(path, wider)
    with pytest.raises(CheckpointError, match=r"weight has shape \[3, 3\], expected \[3, 2\]"):
        load_weights(path, model)
    save_weights(path, model)
    blob = path.read_bytes()
    for size in range(len(blob)):
        put(path, blob[:size])
        with pytest.raises(CheckpointError, match=f"cannot load {path}: "):
            load_weights(path, model)
    with pytest.raises(CheckpointError, match="No such file"):
        load_weights(path.with_name("none"), model)
    path.write_bytes(b'[\0\0\0\0\0\0\0{"a":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'.ljust(8 + 91) + b"xx")
    with pytest.raises(CheckpointError, match="BF16"):
        load_weights(path, model)
    assert fingerprint(*other) == before


def test_pytorch_reads_what_we_write_and_the_other_way_round(path):
    torch = pytest.importorskip("torch", reason="PyTorch is the other side of this test")
    from safetensors.torch import load_file, save_file

    ours, theirs = tg.nn.LSTM(3, 4, num_layers=2), torch.nn.LSTM(3, 4, num_layers=2)
    save_weights(path, ours)
    theirs.load_state_dict(load_file(path))
    for name, array in ours.state_dict().items():
        np.testing.assert_array_equal(theirs.state_dict()[name].numpy(), array)
    save_file(torch.nn.LSTM(3, 4, num_layers=2).state_dict(), path)
    load_weights(path, ours)
    np.testing.assert_array_equal(ours.state_dict()["weight_hh_l1"], safetensors.numpy.load_file(path)["weight_hh_l1"])


MISPLACED = [
    (lambda p, m, o, s: save_checkpoint(m, p), "save_checkpoint: the path comes first, and is no Model"),
    (lambda p, m, o, s: load_checkpoint(m, p), "load_checkpoint: the path comes first, and is no Model"),
    (lambda p, m, o, s: save_weights(m, p), "save_weights: the path comes first, and is no Model"),
    (lambda p, m, o, s: load_weights(m, p), "load_weights: the path comes first, and is no Model"),
    (lambda p, m, o, s: save_checkpoint(p, o, m), "model must be the Module itself, and is a AdamW"),
    (lambda p, m, o, s: save_checkpoint(p, m, s), "optimizer must be the Optimizer itself, and is a StepLR"),
    (lambda p, m, o, s: load_checkpoint(p, m, scheduler=o), "scheduler must be the LRScheduler itself, and is a AdamW"),
    (lambda p, m, o, s: save_checkpoint(p, m.state_dict()), r"and is a dict: not its state_dict\(\)"),
    (lambda p, m, o, s: save_weights(p, m.state_dict()), r"and is a dict: not its state_dict\(\)"),
    (lambda p, m, o, s: load_weights(p, m.state_dict()), r"and is a dict: not its state_dict\(\)"),
]


@pytest.mark.parametrize(("call", "words"), MISPLACED, ids=[words for _, words in MISPLACED])
def test_what_stands_in_anothers_place_is_told(path, saved, other, call, words):
    model, optimiser = other
    blob = path.read_bytes()
    with pytest.raises(TypeError, match=words):
        call(path, model, optimiser, tg.optim.lr_scheduler.StepLR(optimiser, 1))
    assert path.read_bytes() == blob


@pytest.mark.parametrize("load", [load_checkpoint, load_weights])
def test_files_of_other_writers_are_told_from_broken_ones(path, saved, other, load):
    model, _ = other
    np.savez(path.with_suffix(".npz"), a=np.ones(2))  # a zip archive, as torch.save writes
    put(path, pickle.dumps(model.state_dict()))
    for file in (path, path.with_suffix(".npz")):
        with pytest.raises(CheckpointError, match=r"an archive or a pickle, as torch\.save and np\.savez write"):
            load(file, model)
    for blob in (b"", b"text", b"text and more of it"):
        put(path, blob)
        with pytest.raises(CheckpointError, match="this is no safetensors file, or it has been cut off"):
            load(path, model)


def test_a_learning_rate_that_is_a_tensor(path, other):
    model, optimiser = other
    optimiser.param_groups[0]["lr"] = tg.tensor(0.25)
    save_checkpoint(path, model, optimiser)
    optimiser.param_groups[0]["lr"] = 1.0
    load_checkpoint(path, model, optimiser)
    assert optimiser.param_groups[0]["lr"] == 0.25
