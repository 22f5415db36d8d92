"""Checkpoints: everything a training run needs to go on as if it had never stopped, in one safetensors file.

    for step in range(start, 10_000):
        ...
        if step % 100 == 0:
            tg.save_checkpoint("run.safetensors", model, optimizer, step=step, scheduler=scheduler)

    start = tg.load_checkpoint("run.safetensors", model, optimizer, scheduler=scheduler).step + 1

Three promises. A run that was killed and resumed ends with the same bits as one that was not: weights, the states of
optimiser and schedule and the random numbers to come are all in the file. Whenever the process dies, the file holds the
old checkpoint or the new one, whole: the new one is written beside it, forced to the disk and then renamed over it. And
loading either restores everything or raises `CheckpointError` and changes nothing, whatever the file holds: the header
carries a digest of every other byte of the file, and nothing is unpickled.

The file is a plain safetensors file: "model.<name>" and "optimizer.<number>.<name>" are its tensors, and everything
else is JSON under "tinygrad_rnn" in its metadata.
"""

import contextlib
import errno
import hashlib
import json
import operator
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from .autograd.creation import get_rng_state, set_rng_state
from .autograd.tensor import Tensor
from .nn.module import Module
from .optim.lr_scheduler import LRScheduler
from .optim.optimizer import Optimizer

VERSION = 1  # of the format; a reader refuses what is newer than itself
FORMAT = "tinygrad_rnn checkpoint"


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or loaded; the message names the file and the cause. Nothing was changed.

        >>> import tinygrad_rnn as tg
        >>> tg.load_checkpoint("no_such_file.safetensors")
        Traceback (most recent call last):
            ...
        tinygrad_rnn.checkpoint.CheckpointError: cannot load no_such_file.safetensors: No such ...
    """


@dataclass(frozen=True)
class Checkpoint:
    """What `load_checkpoint` returns besides what it restores.

        >>> import tinygrad_rnn as tg
        >>> checkpoint = tg.Checkpoint(step=7, metadata={"lr": 0.1})  # as `load_checkpoint` returns one
        >>> checkpoint.step, checkpoint.metadata["lr"]
        (7, 0.1)

    Attributes:
        step: as given to `save_checkpoint`.
        metadata: as given to `save_checkpoint`, in JSON's types: tuples have become lists, keys strings.
    """

    step: int
    metadata: dict[str, Any]


# ---- Saving and loading ----------------------------------------------------------------------------------------------


def save_checkpoint(
    path: str | os.PathLike[str],
    model: Module | None = None,
    optimizer: Optimizer | None = None,
    step: int = 0,
    random_state: bool = True,
    metadata: Mapping[str, Any] | None = None,
    scheduler: LRScheduler | None = None,
) -> None:
    """Write weights, optimiser, schedule, step and random state to one safetensors file, all or nothing.

        >>> import tempfile
        >>> import tinygrad_rnn as tg
        >>> model = tg.nn.Linear(2, 2)
        >>> optimizer = tg.optim.Adam(model.parameters())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     tg.save_checkpoint(f"{folder}/run.safetensors", model, optimizer, step=100)
        ...     tg.load_checkpoint(f"{folder}/run.safetensors", model, optimizer).step
        100

    The file appears at `path` at once and complete, over an older one if there is one. A process that is killed in the
    middle leaves the older one untouched and a file `.tinygrad_rnn-*.tmp` beside it, which may be deleted. The new file
    has the permissions of the older one.

    Args:
        path: where to; its folder must exist.
        model: its parameters and buffers are saved. Gradients are not: save after `step()`.
        optimizer: its options and state are saved.
        step: how far the run has come, for you.
        random_state: save the state of the library's generator in this thread, which dropout and `rand` draw from.
        metadata: anything that JSON can hold, for you: the epoch, the best loss, how the model was made.
        scheduler: its state is saved; the learning rates of now are the optimiser's, which has to be saved too.

    Raises:
        CheckpointError: the file cannot be written. What was at `path` still is.
        TypeError: `metadata`, or the state of a schedule of your own, holds something that JSON cannot.
    """
    _check_kinds("save_checkpoint", path, model, optimizer, scheduler)
    tensors: dict[str, np.ndarray] = {}
    content: dict[str, Any] = {"step": operator.index(step), "metadata": dict(metadata or {}), "model": False}
    if model is not None:
        content["model"] = True
        tensors |= {f"model.{name}": array for name, array in model.state_dict().items()}
    if optimizer is not None:
        saved = optimizer.state_dict()
        numbers: dict[int, dict[str, Any]] = {}
        for number, state in saved["state"].items():
            arrays = {key: value for key, value in state.items() if isinstance(value, np.ndarray)}
            tensors |= {f"optimizer.{number}.{key}": array for key, array in arrays.items()}
            numbers[number] = {key: value for key, value in state.items() if key not in arrays}
        groups = saved["param_groups"]
        content["optimizer"] = {"type": type(optimizer).__name__, "param_groups": groups, "numbers": numbers}
    if scheduler is not None:
        content["scheduler"] = {"type": type(scheduler).__name__, "state": scheduler.state_dict()}
    if random_state:
        content["random_state"] = get_rng_state()
    with _explained("write", path, but=(TypeError,)):
        _write(path, *_encode(content, tensors))


def load_checkpoint(
    path: str | os.PathLike[str],
    model: Module | None = None,
    optimizer: Optimizer | None = None,
    random_state: bool = True,
    scheduler: LRScheduler | None = None,
) -> Checkpoint:
    """Restore what `save_checkpoint` saved: everything that is asked for, or nothing.

        >>> import tempfile
        >>> import tinygrad_rnn as tg
        >>> model = tg.nn.Linear(2, 2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     tg.save_checkpoint(f"{folder}/run.safetensors", model, step=3, metadata={"note": "tuned"})
        ...     tg.load_checkpoint(f"{folder}/run.safetensors", tg.nn.Linear(2, 2))
        Checkpoint(step=3, metadata={'note': 'tuned'})

    Args:
        path: of the file.
        model: gets the weights, of the same names, shapes and dtypes; None leaves them in the file.
        optimizer: gets options and state; an optimiser of the same kind and the same groups of parameters.
        random_state: continue this thread's random numbers from where they were.
        scheduler: gets its state; a schedule of the same kind, and for as many groups.

    Returns:
        The step and the metadata.

    Raises:
        CheckpointError: the file is missing, cut off, altered, no checkpoint, of a newer format, without what is asked
            for, or of another model, optimiser or schedule. All of them, and the random state, are as they were.
    """
    _check_kinds("load_checkpoint", path, model, optimizer, scheduler)
    with _explained("load", path):
        content, tensors = _decode(_read(path))
        if type(content["step"]) is not int or not isinstance(content["metadata"], dict):
            raise ValueError("its step is no whole number, or its metadata no dict")
        result = Checkpoint(content["step"], content["metadata"])
        # Check first...
        if model is not None:
            weights = _weights(content, tensors, model)
        if optimizer is not None:
            groups, state = optimizer.read_state_dict(_optimizer_state(content, tensors, optimizer))
        if scheduler is not None:
            schedule = scheduler.read_state_dict(_scheduler_state(content, scheduler))
        if random_state:
            if "random_state" not in content:
                raise ValueError("it holds no random state; load it with random_state=False")
            np.random.default_rng().bit_generator.state = content["random_state"]  # would raise
        # ... then change. The model's check of names and shapes is the last that can fail, and it changes nothing then.
        if model is not None:
            model.load_state_dict(weights)
        if optimizer is not None:
            optimizer.param_groups, optimizer.state = groups, state
        if scheduler is not None:
            scheduler.take(schedule)
        if random_state:
            set_rng_state(content["random_state"])
        return result


def save_weights(path: str | os.PathLike[str], model: Module) -> None:
    """Write a model's parameters and buffers alone, under their `state_dict` names, as safetensors.

        >>> import tempfile
        >>> import tinygrad_rnn as tg
        >>> import os
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     tg.save_weights(f"{folder}/weights.safetensors", tg.nn.Linear(2, 2))
        ...     os.listdir(folder)
        ['weights.safetensors']

    PyTorch reads the file with `safetensors.torch.load_file`, and its built-in layers understand the names.

    Raises:
        CheckpointError: the file cannot be written. What was at `path` still is.
    """
    _check_kinds("save_weights", path, model)
    state = model.state_dict()
    with _explained("write", path):
        _write(path, safetensors.numpy.save(_contiguous(state)))


def load_weights(path: str | os.PathLike[str], model: Module) -> None:
    """Read a model's parameters and buffers from a safetensors file, as by `save_weights` or from PyTorch.

        >>> import tempfile
        >>> import tinygrad_rnn as tg
        >>> trained, fresh = tg.nn.Linear(2, 2), tg.nn.Linear(2, 2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     tg.save_weights(f"{folder}/weights.safetensors", trained)
        ...     tg.load_weights(f"{folder}/weights.safetensors", fresh)
        >>> bool((fresh.weight == trained.weight).all())
        True

    Values are converted to the dtypes of the model.

    Raises:
        CheckpointError: the file is missing or no safetensors file, or names or shapes are not those of the model,
            which then is as it was.
    """
    _check_kinds("load_weights", path, model)
    with _explained("load", path):
        model.load_state_dict(_plain(_read(path)))


def _check_kinds(function: str, path: Any, model: Any, optimizer: Any = None, scheduler: Any = None) -> None:
    """Raise TypeError for what stands in another's place: PyTorch takes the path last, and states for objects."""
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise TypeError(f"{function}: the path comes first, and is no {type(path).__name__}")
    places = ("model", model, Module), ("optimizer", optimizer, Optimizer), ("scheduler", scheduler, LRScheduler)
    for name, given, kind in places:
        if given is not None and not isinstance(given, kind):
            got = "dict: not its state_dict()" if isinstance(given, dict) else type(given).__name__
            raise TypeError(f"{function}: {name} must be the {kind.__name__} itself, and is a {got}")


@contextlib.contextmanager
def _explained(verb: str, path: str | os.PathLike[str], but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Whatever goes wrong inside, `but` for some, is one kind of error, with the file's name and the cause."""
    try:
        yield
    except but:
        raise
    except Exception as error:
        cause = error.strerror or error if isinstance(error, OSError) else error
        kind = "" if isinstance(error, (OSError, ValueError, RuntimeError)) else f"{type(error).__name__}: "
        raise CheckpointError(f"cannot {verb} {os.fsdecode(path)}: {kind}{cause}") from error


def _weights(content: dict[str, Any], tensors: dict[str, np.ndarray], model: Module) -> dict[str, np.ndarray]:
    """The model's part of the file, in its own dtypes: rounding would not continue the run that was saved."""
    if not content["model"]:
        raise ValueError("it holds no model")
    weights = {name.removeprefix("model."): a for name, a in tensors.items() if name.startswith("model.")}
    for name, own in model.state_dict().items():
        if name in weights and weights[name].dtype != own.dtype:
            raise ValueError(f"{name} is {weights[name].dtype} in the file and {own.dtype} in the model")
    return weights


def _optimizer_state(
    content: dict[str, Any], tensors: dict[str, np.ndarray], optimizer: Optimizer
) -> dict[str, Any]:
    """The optimiser's part of the file, as its `state_dict()` was."""
    if "optimizer" not in content:
        raise ValueError("it holds no optimiser")
    saved, kind = content["optimizer"], type(optimizer).__name__
    if saved["type"] != kind:
        raise ValueError(f"it holds the state of {saved['type']}, not of {kind}")
    state = {int(number): dict(numbers) for number, numbers in saved["numbers"].items()}
    for name, array in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".", 2)
            state[int(number)][key] = array
    return {"state": state, "param_groups": saved["param_groups"]}


def _scheduler_state(content: dict[str, Any], scheduler: LRScheduler) -> dict[str, Any]:
    """The schedule's part of the file, as its `state_dict()` was."""
    if "scheduler" not in content:
        raise ValueError("it holds no schedule")
    saved, kind = content["scheduler"], type(scheduler).__name__
    if saved["type"] != kind:
        raise ValueError(f"it holds the state of {saved['type']}, not of {kind}")
    return saved["state"]


# ---- The bytes of a checkpoint ---------------------------------------------------------------------------------------

KEY = "tinygrad_rnn"
DIGITS = 64  # of a blake2b digest of 32 bytes
MARK = rb'\"digest\":\"'  # what stands before them, in JSON inside JSON


def _encode(content: dict[str, Any], tensors: dict[str, np.ndarray]) -> tuple[Any, Any, Any]:
    """A safetensors file with `content` as JSON in its metadata, and a digest of all bytes but its own.

    It is in three pieces: to join them would take another copy of everything.
    """
    content = {"digest": "0" * DIGITS, "format": FORMAT, "version": VERSION, **content}
    text = json.dumps(content, separators=(",", ":"), default=_number)
    blob = safetensors.numpy.save(_contiguous(tensors), metadata={KEY: text})
    start, digest = _digest(blob)
    assert blob[start : start + DIGITS] == b"0" * DIGITS
    return memoryview(blob)[:start], digest.encode(), memoryview(blob)[start + DIGITS :]


def _decode(blob: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The content and the tensors of a checkpoint, once it is certain that they are what was written."""
    try:
        text = _header(blob).get("__metadata__", {}).get(KEY)
        content = json.loads(text or "{}")
        version = content["version"] if content.get("format") == FORMAT else None
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        raise ValueError("this is no safetensors file, or its header is damaged") from None
    if version is None:
        raise ValueError("this is a safetensors file, but no checkpoint; load_weights reads plain weights")
    if version != VERSION:
        raise ValueError(f"its format is version {version}, and this tinygrad_rnn reads version {VERSION}: update it")
    if content.get("digest") != _digest(blob)[1]:
        raise ValueError("the file is damaged: its content does not match its digest")
    return content, _tensors(blob)


def _header(blob: bytes) -> dict[str, Any]:
    """What a safetensors file says of itself: its metadata, and of each tensor the dtype, the shape and the place."""
    header: dict[str, Any] = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
    return header


def _plain(blob: bytes) -> dict[str, np.ndarray]:
    """The tensors of a file that is no checkpoint, in which they would have other names."""
    tensors = _tensors(blob)
    if KEY in (_header(blob).get("__metadata__") or {}):
        raise ValueError("this is a checkpoint, not plain weights: load_checkpoint(path, model) reads it")
    return tensors


def _digest(blob: bytes) -> tuple[int, str]:
    """Where in the file its digest stands, and the digest of everything else."""
    start = blob.find(MARK) + len(MARK)
    digest = hashlib.blake2b(memoryview(blob)[:start], digest_size=DIGITS // 2)
    digest.update(memoryview(blob)[start + DIGITS :])
    return start, digest.hexdigest()


def _number(x: Any) -> Any:
    """NumPy's numbers, and a learning rate that is a tensor, as Python's, for JSON."""
    if isinstance(x, np.generic) or (isinstance(x, Tensor) and not x.ndim):
        return x.item()
    raise TypeError(f"a checkpoint holds JSON: numbers, texts, lists and dicts, not {type(x).__name__}")


def _contiguous(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """safetensors writes an array's memory as it lies, strides or not."""
    return {name: np.asarray(array, order="C") for name, array in tensors.items()}


def _tensors(blob: bytes) -> dict[str, np.ndarray]:
    """What a safetensors file holds, by name; it comes in any order."""
    try:
        return dict(sorted(safetensors.numpy.load(blob).items()))
    except KeyError as error:
        names = [name for name, entry in _header(blob).items() if entry.get("dtype") == error.args[0]]
        if not names:
            raise
        raise ValueError(
            f"{names[0]} is of the type {error.args[0]}, which NumPy has not; save it as float32, in PyTorch by float()"
        ) from None


def _read(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file that may be a safetensors one, by the length of its header that it begins with."""
    blob = Path(os.fsdecode(path)).read_bytes()
    if not 2 <= int.from_bytes(blob[:8], "little") <= len(blob) - 8:
        if blob.startswith((b"PK\x03\x04", b"\x80")):
            raise ValueError(
                "this is an archive or a pickle, as torch.save and np.savez write, and no safetensors file: read it "
                "there, and give its arrays to load_state_dict or write them with safetensors' save_file"
            )
        raise ValueError("this is no safetensors file, or it has been cut off")
    return blob


def _write(path: str | os.PathLike[str], *pieces: Any) -> None:
    """Replace the file by one with these bytes, in such an order that no crash leaves anything between.

    Whoever could not read the old file cannot read the new one, at no time.
    """
    target = Path(os.path.realpath(os.fsdecode(path)))  # a symbolic link stays one
    draft = target.with_name(f".tinygrad_rnn-{secrets.token_hex(8)}.tmp")
    old = target.stat() if target.exists() else None
    if old and stat.S_ISDIR(old.st_mode):
        raise IsADirectoryError(errno.EISDIR, "Is a directory")
    if old and not stat.S_ISREG(old.st_mode):
        raise OSError("it is there, and no file")
    try:
        with open(_new_file(draft, target, old), "wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, target)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
    with contextlib.suppress(OSError):  # not every system can sync a folder; the file is whole in any case
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _new_file(path: Path, target: Path, old: os.stat_result | None) -> int:
    """The handle of a file with the permissions of the target, if it is there, which nobody else could open before."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        handle = os.open(path, flags, 0o600 if old else 0o666)
    except PermissionError as error:  # of a folder, whatever one may do with the file itself
        told = f"no file can be made beside it, in {path.parent}: {error.strerror}"
        raise PermissionError(error.errno, told) from None
    if old and os.name == "posix":
        try:
            _give_access(handle, target, old)
        except BaseException:
            os.close(handle)
            raise
    return handle


ACCESS = "system.posix_acl_access"  # where Linux keeps who else may read a file


def _give_access(handle: int, target: Path, old: os.stat_result) -> None:
    """Let those read and write an open file who may do so with the old one, as far as that is in our power.

    The permissions of a group are those of another group, and mean something else, if the file cannot be given to the
    old one, or without the old list of who else has access: then no group has any.
    """
    mode = old.st_mode & 0o777
    new = os.fstat(handle)
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        try:
            os.fchown(handle, old.st_uid if os.geteuid() == 0 else -1, old.st_gid)
        except OSError:
            mode &= ~0o070
    if hasattr(os, "getxattr"):
        with contextlib.suppress(OSError):  # one that the folder gives to new files
            os.removexattr(handle, ACCESS)
        access = b""
        with contextlib.suppress(OSError):  # there is none
            access = os.getxattr(target, ACCESS)
        try:
            if access:
                os.setxattr(handle, ACCESS, access)
        except OSError:
            mode &= ~0o070
    os.fchmod(handle, mode)
