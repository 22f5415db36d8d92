"""Values that hold for a sequence, which a step takes by name: one engine against the other, and what may go wrong."""

import copy
import pickle
import textwrap
import threading

import numpy as np
import pytest
from fusion.comparing import assert_close, assert_engines_agree, interpret, parameter
from fusion.keyword_cells import ENGINES, FUSED, MATHS, E, H, I, Level, S, Speaker, cell, values

import tinygrad_rnn as tg
from tinygrad_rnn.fusion import epilogue
from tinygrad_rnn.fusion.fused import FusedCell
from tinygrad_rnn.nn import Cell, CellWrapper, GRUCell, Recurrent, Stack
from tinygrad_rnn.nn.recurrent import _LastCall

T, B = 5, 4
LENGTHS = [3, 5, 0, 1]


@pytest.fixture(autouse=True)
def seeded():
    tg.manual_seed(0)


def inputs(*shape, seed=0, requires_grad=True):
    """Numbers for x."""
    array = np.random.default_rng(seed).standard_normal(shape or (T, B, I))
    return tg.tensor(array, requires_grad=requires_grad)


class Speaks(Cell):
    """One that others are made of: a value in a sum, and one that may be left out."""

    def __init__(self, input_size=I, hidden_size=H):
        self.input_size, self.hidden_size = input_size, hidden_size
        self.W, self.U = parameter(input_size, hidden_size), parameter(hidden_size, hidden_size)

    def step(self, x, h, *, voice, gate=None):
        n = tg.tanh(x @ self.W + h @ self.U + voice)
        return n if gate is None else gate * n + (1 - gate) * h


def speaks(B=B, seed=1):
    random = np.random.default_rng(seed)
    return {name: tg.tensor(random.standard_normal((B, H)), requires_grad=True) for name in ("voice", "gate")}


# ---- One engine against the other ------------------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, LENGTHS, [0, 0, 0, 0]], ids=["whole", "ragged", "nothing"])
@pytest.mark.parametrize("name", FUSED)
def test_engines_agree(name, lengths, reverse, monkeypatch):
    interpret(monkeypatch)
    for every in (False, True):
        options = {"lengths": lengths, "return_states": every, "values": MATHS[name].values}
        assert_engines_agree(cell(name), (T, B, I), reverse, **options)


@pytest.mark.parametrize("name", FUSED)
def test_compiled(name):
    assert_engines_agree(cell(name), (T, B, I), lengths=LENGTHS, values=MATHS[name].values)


@pytest.mark.parametrize("wanted", ["x", "voice", "style", "W", "V"])
def test_any_gradient_alone(wanted, monkeypatch):
    interpret(monkeypatch)
    shapes = MATHS["speaker"].values
    assert_engines_agree(cell("speaker"), (T, B, I), wanted=lambda name: name == wanted, values=shapes)


@pytest.mark.parametrize("name", FUSED)
def test_more_threads_than_one(name, monkeypatch):
    monkeypatch.setattr("tinygrad_rnn.fusion.scan.WORK_PER_THREAD", 1)
    monkeypatch.setattr("tinygrad_rnn.fusion.scan.ROWS_PER_THREAD", 1)
    monkeypatch.setattr("tinygrad_rnn.fusion.scan.get_num_threads", lambda: 3)
    assert_engines_agree(cell(name), (T, B, I), lengths=LENGTHS, values=MATHS[name].values)


def test_beside_values_that_the_cell_itself_holds():
    """Masks, with which they share the arguments of a kernel."""

    class Masked(Speaks):
        def sequence_values(self, batch_size):
            return {"mask": tg.dropout(tg.ones(batch_size, H, dtype=np.float64), 0.4)}

        def step(self, x, h, *, voice, gate):
            return super().step(x, h * self.mask, voice=voice, gate=gate)

    shapes = {"voice": (H,), "gate": (H,)}
    assert_engines_agree(Masked(), (T, B, I), lengths=LENGTHS, values=shapes)
    assert_engines_agree(Masked(), (T, B, I), reverse=True, values=shapes)


def test_several_inputs():
    class Two(Cell):
        hidden_size = H

        def __init__(self):
            self.W = parameter(I, H)

        def step(self, x, h, *, voice):
            x, z = x
            return tg.tanh(x @ self.W) * z + h * voice

    found = {}
    for engine in ("require", "never"):
        one, x, z, voice = Two(), inputs(), inputs(T, B, H, seed=1), inputs(B, H, seed=2)
        one.W.numpy()[...] = 0.3
        y, h = Recurrent(one, fused=engine)((x, z), voice=voice)
        ds = tg.grad((y * y).sum() + h.sum(), [x, z, voice, one.W])
        found[engine] = {str(i): v.numpy() for i, v in enumerate((y, h, *ds))}
    assert_close(found["require"], found["never"])


@pytest.mark.parametrize("name", FUSED)
def test_second_derivatives(name):
    found = {}
    for engine in ("require", "never"):
        one, x, given = cell(name), inputs(), values(name, B)
        y, _ = Recurrent(one, fused=engine)(x, lengths=LENGTHS, **given)
        leaves = [x, *given.values()]
        first = tg.grad((y * y).sum(), leaves, create_graph=True)
        second = tg.grad(sum((d * d).sum() for d in first), [*leaves, one.W])
        found[engine] = {str(i): d.numpy() for i, d in enumerate((*first, *second))}
    assert_close(found["require"], found["never"])


@pytest.mark.parametrize("fit", [np.bool_, np.float32])
def test_a_value_of_another_dtype(fit):
    """A mask decides; what is float32 becomes float64 as on the tape."""

    class Decides(Speaks):
        def step(self, x, h, *, mask):
            n = tg.tanh(x @ self.W + h @ self.U)
            return tg.where(mask, n, h) if mask.dtype == np.bool_ else n * mask

    mask = tg.tensor(np.array([[1, 0, 1, 0]] * 2 + [[0, 1, 1, 1]] * 2).astype(fit))
    one, x = Decides(), inputs()
    ours, tape = (Recurrent(one, fused=engine)(x, mask=mask, lengths=LENGTHS)[0] for engine in ("require", "never"))
    assert (ours.numpy()[0, 0] == 0).any()
    assert_close({"y": ours.numpy()}, {"y": tape.numpy()})


USES = {  # of a mask that is no row of floats: what is made of it alone is made before the loop, in its own dtype
    "compared": lambda m, h: tg.where(m != 0, h, 0.5 * h) + (m == 1) * h + tg.where(m > h, h, 0.1),
    "a factor": lambda m, h: h * m + m * h,
    "a term": lambda m, h: h + m - (1 - 1 * m) / 7,
    "chosen": lambda m, h: tg.where(h > 0, m, h) + tg.where(m != 0, m.to(h.dtype), h),
    "counted": lambda m, h: h / (m.sum(-1, keepdim=True) + 1) + h * m.any(-1, keepdim=True),
    "negated": lambda m, h: h.masked_fill(m == 0, 0.2) + h.masked_fill(~(m != 0), 0.3),
    "in another shape": lambda m, h: tg.where(m.unsqueeze(-1) != 0, h.unsqueeze(-1), 0.0).sum(-1) + h * m[:, :1],
    "functions": lambda m, h: h * tg.exp(-tg.where(m != 0, 0.0, float("inf"))) + h * tg.maximum(h, m),
    "through weights": lambda m, h: h + m.to(h.dtype) @ np.linspace(-1, 1, H * H, dtype=h.dtype).reshape(H, H),
}


@pytest.mark.parametrize("states", [np.float64, pytest.param(np.float32, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "fit", [np.bool_, np.int64, *(pytest.param(kind, marks=pytest.mark.slow) for kind in (np.int8, np.uint8))]
)
@pytest.mark.parametrize("use", USES)
def test_a_mask_of_truth_values_or_whole_numbers(use, fit, states, monkeypatch):
    interpret(monkeypatch)

    class Uses(Speaks):
        def step(self, x, h, *, mask):
            return USES[use](mask, tg.tanh(x @ self.W + h @ self.U))

    mask, found = tg.tensor(np.array([[1, 0, 1, 0]] * 2 + [[0, 1, 1, 1]] * 2).astype(fit)), {}
    for engine in ("require", "never"):
        tg.manual_seed(0)
        one, x = Uses().to(states), tg.tensor(inputs().numpy().astype(states), requires_grad=True)
        y, _ = Recurrent(one, fused=engine)(x, mask=mask, lengths=LENGTHS)
        gradients = tg.grad(y.square().sum(), [x, one.W, one.U])
        found[engine] = {str(i): v.numpy() for i, v in enumerate((y, *gradients))}
    assert {v.dtype for v in found["require"].values()} == {np.dtype(states)}
    assert_close(found["require"], found["never"], 1e-12 if states is np.float64 else 1e-5)


def test_a_value_that_no_kernel_takes_runs_on_the_tape_and_says_what_to_write():
    layer = Recurrent(Speaks().float())
    x, voice = tg.ones(T, B, I), tg.ones(B, H, dtype=np.float64)
    words = r"voice is float64, and the states are float32: write voice\.to\(np\.float32\)"
    with pytest.warns(UserWarning, match=words):
        layer(x, voice=voice)


@pytest.mark.parametrize("layout", ["transposed", "reversed", "shared by the batch", "columns", "read-only"])
def test_values_lie_in_memory_as_they_will(layout):
    random = np.random.default_rng(0)
    made = {
        "transposed": lambda: random.standard_normal((H, B)).T,
        "reversed": lambda: random.standard_normal((B, H))[::-1, ::-1],
        "shared by the batch": lambda: np.broadcast_to(random.standard_normal(H), (B, H)),
        "columns": lambda: random.standard_normal((B, 3 * H))[:, ::3],
        "read-only": lambda: random.standard_normal((B, H)),
    }
    array = made[layout]()
    array.flags.writeable = layout != "read-only" and array.flags.writeable
    one, x = Speaks(), inputs()
    for options in ({}, {"lengths": LENGTHS}):
        found = [Recurrent(one, fused=e)(x, voice=array, **options)[0].numpy() for e in ("require", "never")]
        assert_close({"y": found[0]}, {"y": found[1]})


@pytest.mark.parametrize("engine", ["require", "never"])
def test_gradients_of_a_row_that_the_batch_shares(engine):
    row, x = tg.tensor(np.linspace(-1, 1, H), requires_grad=True), inputs()
    one = Speaks()
    Recurrent(one, fused=engine)(x, voice=row.expand(B, H))[0].sum().backward()
    apart = tg.tensor(np.broadcast_to(row.numpy(), (B, H)).copy(), requires_grad=True)
    Recurrent(one, fused=engine)(x, voice=apart)[0].sum().backward()
    np.testing.assert_allclose(row.grad.numpy(), apart.grad.numpy().sum(0), atol=1e-13)


@pytest.mark.parametrize("engine", ["require", "never"])
def test_one_tensor_in_two_places(engine):
    """As two values, and as an initial state too."""
    both, x, one = inputs(B, H, seed=3), inputs(), Speaks()
    y, _ = Recurrent(one, fused=engine)(x, both, voice=both, gate=both)
    (d,) = tg.grad((y * y).sum(), [both])
    apart = [tg.tensor(both.numpy(), requires_grad=True) for _ in range(3)]
    y, _ = Recurrent(one, fused=engine)(x, apart[0], voice=apart[1], gate=apart[2])
    ds = tg.grad((y * y).sum(), apart)
    np.testing.assert_allclose(d.numpy(), sum(d.numpy() for d in ds), atol=1e-12)


@pytest.mark.parametrize("engine", ["require", "never"])
def test_each_sequence_has_its_own(engine):
    """A sequence in a batch is as if it were alone, whatever the order of lengths is."""
    layer, x, given = Recurrent(Speaker("speaker"), fused=engine), inputs(), values("speaker", B)
    y, (h, c) = layer(x, lengths=LENGTHS, **given)
    for b, n in enumerate(LENGTHS):
        if n:
            alone, (h_1, c_1) = layer(x[:n, b : b + 1], **{name: v[b : b + 1] for name, v in given.items()})
            for a, one in ((y[:n, b], alone[:, 0]), (h[b], h_1[0]), (c[b], c_1[0])):
                np.testing.assert_allclose(a.numpy(), one.numpy(), rtol=0, atol=1e-13)


def test_what_is_made_of_values_alone_is_computed_once():
    layer = Recurrent(Speaker("speaker"), fused="require")
    layer(inputs(), **values("speaker", B))
    assert "voice [B, 2], style [B, 4], states h" in layer.explain().splitlines()[0]
    assert "voice @ V" in layer.explain() and "voice" not in layer.source("forward").replace("voice_", "")


@pytest.mark.parametrize(
    "names", [("row", "len", "T"), ("W", "U", "dh"), ("first", "t", "h_saved"), ("x_1", "dy", "h_last")]
)
def test_values_have_any_names(names):
    """Those of what kernels are made of, and of parameters."""
    text = f"""
        def step(self, x, h, *, {", ".join(names)}):
            n = tg.tanh(x @ self.W + h @ self.U + {names[0]})
            return n * {names[1]} + h * {names[2]}
    """
    made = {"tg": tg}
    exec(textwrap.dedent(text), made)
    one = type("Named", (Speaks,), {"step": made["step"]})()
    assert_engines_agree(one, (T, B, I), lengths=LENGTHS, values=dict.fromkeys(names, (H,)))
    layer, given = Recurrent(one, fused="require"), dict.fromkeys(names, inputs(B, H))
    with tg.record(layer) as r:
        layer(inputs(), **given)
    for name in names:
        np.testing.assert_array_equal(r[name].numpy()[2], given[name].numpy())


@pytest.mark.parametrize("engine", ["require", "never"])
def test_a_batch_of_none(engine):
    y, _ = Recurrent(Speaks(), fused=engine)(inputs(T, 0, I), **speaks(0))
    assert y.shape == (T, 0, H)
    y.sum().backward()


# ---- A single step ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MATHS)
def test_a_step_by_itself(name):
    one, x, given = cell(name), inputs(), values(name, B)
    _, final = Recurrent(one, fused="never")(x[:1], **given)
    state = one(x[0], **given)
    for a, b in zip(*(s if isinstance(s, tuple) else (s,) for s in (state, final))):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    alone = one(x[0, 1], **{each: v[1] for each, v in given.items()})  # without a batch
    for a, b in zip(*(s if isinstance(s, tuple) else (s,) for s in (alone, state))):
        np.testing.assert_allclose(a.numpy(), b[1].numpy(), atol=1e-14)


@pytest.mark.parametrize("name", FUSED)
def test_a_layer_called_step_by_step(name):
    """As a decoder that feeds on its own outputs is."""
    layer, x, given = Recurrent(cell(name), fused="require"), inputs(), values(name, B)
    with tg.no_grad():
        y, _ = layer(x, **given)
        state = None
        for t in range(T):
            out, state = layer(x[t : t + 1], state, **given)
            np.testing.assert_allclose(out[0].numpy(), y[t].numpy(), rtol=0, atol=1e-13)


# ---- Calls that follow each other ------------------------------------------------------------------------------------


@pytest.fixture
def repeated(monkeypatch):
    """Counts the calls that were taken to be like the last one."""
    found, plain = [], _LastCall.repeated

    def counted(self, *arguments):
        results = plain(self, *arguments)
        found.append(results is not None)
        return results

    monkeypatch.setattr(_LastCall, "repeated", counted)
    return found


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("name", FUSED)
def test_a_call_like_the_last_one_has_values_of_its_own(name, grad, repeated):
    one, x = cell(name), inputs()
    layer, tape = Recurrent(one, fused="require"), Recurrent(one, fused="never")
    with tg.enable_grad() if grad else tg.no_grad():
        seen = []
        for seed in (1, 2, 3, 1):
            given = values(name, B, seed)
            y, _ = layer(x, **given)
            np.testing.assert_allclose(y.numpy(), tape(x, **given)[0].numpy(), rtol=0, atol=1e-12)
            if grad:
                ours = tg.grad(y.sum(), [*given.values()])
                theirs = tg.grad(tape(x, **given)[0].sum(), [*given.values()])
                assert_close(*({str(i): d.numpy() for i, d in enumerate(ds)} for ds in (ours, theirs)))
            seen.append(y.numpy())
    assert repeated == [True] * 3
    assert not np.allclose(seen[0], seen[1]) and np.array_equal(seen[0], seen[3])


def test_a_call_unlike_the_last_one_is_seen_to_be(repeated):
    one, x, given = Speaks(), inputs(), speaks()
    layer, tape = Recurrent(one, fused="require"), Recurrent(one, fused="never")
    calls = [
        given,
        dict(reversed(given.items())),  # the same
        {"voice": given["voice"]},
        {"voice": given["voice"], "gate": None},
        given,
        {"voice": given["gate"]},
        {"voice": given["voice"].numpy()},
        {"voice": given["voice"], "gate": given["gate"][:, :1]},
        {"voice": tg.nn.Parameter(given["voice"].numpy())},
        given,
    ]
    for call in calls:
        np.testing.assert_allclose(layer(x, **call)[0].numpy(), tape(x, **call)[0].numpy(), rtol=0, atol=1e-12)
    assert repeated == [True, False, False, False, False, False, False, False, False]
    with pytest.raises(TypeError, match="voice is missing"):
        layer(x)
    with pytest.raises(ValueError, match="voice has shape"):
        layer(x, voice=given["voice"][:2])
    np.testing.assert_allclose(layer(x, **given)[0].numpy(), tape(x, **given)[0].numpy(), rtol=0, atol=1e-12)


def test_values_of_another_shape_compile_again():
    one, x = Speaks(), inputs()
    layer, random = Recurrent(one, fused="require"), np.random.default_rng(0)
    compiled = []
    for width in (H, 1, H):
        voice = random.standard_normal((B, width))
        np.testing.assert_allclose(
            layer(x, voice=voice)[0].numpy(), Recurrent(one, fused="never")(x, voice=voice)[0].numpy(), atol=1e-12
        )
        compiled.append(layer._last.fused)
    assert compiled[0] is compiled[2] is not compiled[1]
    layer(inputs(T, 2, I), voice=random.standard_normal((2, H)))  # of another batch the same
    assert layer._last.fused is compiled[0]


@pytest.mark.parametrize("way", ["interpreted", pytest.param("compiled", marks=pytest.mark.slow)])
def test_kernels_serve_any_length_of_a_memory(way, monkeypatch):
    """What differs is a number that they are given, unless it has to do with another size, such as multiples of H."""
    if way == "interpreted":
        interpret(monkeypatch)
    sources = {}
    for length in (5, 51) if way == "interpreted" else (5, 7, 1, H, S):
        shapes = {"memory": (length, E)}
        assert_engines_agree(cell("attends"), (T, B, I), lengths=LENGTHS, values=shapes)
        layer = Recurrent(cell("attends"), fused="require")
        layer(inputs(), memory=inputs(B, length, E))
        sources[length] = [layer.source(direction) for direction in ("forward", "backward", "inference")]
    alike = [source for length, source in sources.items() if length not in (1, H, S)]
    assert len(alike) > 1 and all(source == alike[0] for source in alike)


def test_two_threads_with_values_of_their_own():
    one = Speaker("speaker")
    layer, x, failures = Recurrent(one, fused="require"), inputs(requires_grad=False), []
    work = []
    for seed in range(4):
        given = values("speaker", B, seed)
        y, _ = Recurrent(one, fused="never")(x, **given)
        work.append((given, y.numpy(), [d.numpy() for d in tg.grad(y.sum(), [*given.values()])]))
    layer(x, **work[0][0])[0].sum().backward()

    def run(number):
        try:
            for n in range(60):
                given, expected, gradients = work[(number + n) % 4]
                lengths = {"lengths": [T] * B} if n % 3 == 0 else {}
                y, _ = layer(x, **given, **lengths)
                np.testing.assert_allclose(y.numpy(), expected, rtol=0, atol=1e-12)
                for d, wanted in zip(tg.grad(y.sum(), [*given.values()]), gradients):
                    np.testing.assert_allclose(d.numpy(), wanted, rtol=0, atol=1e-11)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "checkpoint"])
def test_copies(way, tmp_path):
    x, given = inputs(), values("speaker", B)
    layer = Recurrent(Speaker("speaker"), fused="require")
    y, _ = layer(x, **given)
    if way == "checkpoint":
        tg.save_checkpoint(tmp_path / "c.safetensors", layer)
        other = Recurrent(Speaker("speaker"), fused="require")
        for p in other.parameters():
            p.numpy()[...] = 0
        tg.load_checkpoint(tmp_path / "c.safetensors", other)
    else:
        other = copy.deepcopy(layer) if way == "deepcopy" else pickle.loads(pickle.dumps(layer))
    assert getattr(other, "_last", None) is None
    np.testing.assert_array_equal(other(x, **given)[0].numpy(), y.numpy())
    assert set(layer.state_dict()) == {"cell.W", "cell.U", "cell.V", "cell.R"}  # and no value


# ---- What may be left out --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["require", "never"])
def test_defaults(engine):
    class Scaled(Speaks):
        def step(self, x, h, *, gain=0.5, gate=None):
            n = gain * tg.tanh(x @ self.W + h @ self.U)
            return n if gate is None else gate * n

    one, x, h = Scaled(), inputs(), np.zeros((B, H))
    layer = Recurrent(one, fused=engine)
    assert one.value_names == {"gain": "optional", "gate": "None"}
    half, gate = np.full((B, H), 0.5), np.random.default_rng(0).random((B, H))
    plain = layer(x)[0].numpy()
    np.testing.assert_allclose(layer(x, gain=half)[0].numpy(), plain, rtol=0, atol=1e-13)
    np.testing.assert_array_equal(layer(x, gate=None)[0].numpy(), plain)
    assert not np.allclose(layer(x, gate=gate)[0].numpy(), plain)
    np.testing.assert_array_equal(layer(x)[0].numpy(), plain)
    np.testing.assert_array_equal(one(x[0], h).numpy(), one(x[0], h, gain=half, gate=None).numpy())
    with pytest.raises(TypeError, match="gain must be a tensor"):  # None is not what it is by default
        layer(x, gain=None)


# ---- Recording -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, LENGTHS])
@pytest.mark.parametrize(("name", "engine"), ENGINES)
def test_recording(name, engine, lengths, reverse, monkeypatch):
    """A value is there at every step, as long as a sequence lasts, with what reached it at that step."""
    interpret(monkeypatch)
    layer, x, given = Recurrent(cell(name), reverse, engine), inputs(), values(name, B)
    with tg.record(layer) as r:
        y, final = layer(x, lengths=lengths, **given)
    (y.square().sum() + (final if isinstance(final, tg.Tensor) else final[-1]).sum()).backward()
    lasts = np.arange(T)[:, None] < (T if lengths is None else np.array(lengths))
    for each, value in given.items():
        shape = (T, B, *value.shape[1:])
        running = lasts.reshape(T, -1, *[1] * (value.ndim - 1))
        assert each in r.names
        np.testing.assert_array_equal(r[each].numpy(), np.broadcast_to(np.where(running, value.numpy(), 0), shape))
        d = r.grad[each].numpy()
        assert d.shape == shape and not d[np.broadcast_to(~running, shape)].any()
        np.testing.assert_allclose(d.sum(0), value.grad.numpy(), rtol=0, atol=1e-12)


def test_both_engines_record_the_same(monkeypatch):
    """What is made of a value too, be it computed once a sequence or at every step, and of an input alone."""
    interpret(monkeypatch)

    class Named(Speaks):
        def step(self, x, h, *, voice, gate):
            key = tg.tanh(voice @ self.U)
            bent = tg.tanh(x)
            n = tg.tanh(bent @ self.W + h @ self.U) * key
            return gate * n + (1 - gate) * h

    one, found = Named(), {}
    for engine in ("require", "never"):
        x, given, layer = inputs(), speaks(), Recurrent(one, fused=engine)
        with tg.record(layer) as r:
            y, _ = layer(x, lengths=LENGTHS, **given)
        y.square().sum().backward()
        names = ("voice", "gate", "key", "bent", "n", "h")
        found[engine] = {n: r[n].numpy() for n in names} | {f"d{n}": r.grad[n].numpy() for n in names}
    assert_close(found["require"], found["never"])


@pytest.mark.parametrize("engine", ["require", "never"])
def test_a_recorded_value_that_wants_no_gradient(engine):
    layer, x = Recurrent(Level("level"), fused=engine), inputs()
    with tg.record(layer) as r:
        y, _ = layer(x, **values("level", B, requires_grad=False))
    y.sum().backward()
    assert r["gain"].shape == (T, B)
    with pytest.raises(RuntimeError, match="no gradient has reached 'gain'"):
        r.grad["gain"]


@pytest.mark.parametrize("engine", ["require", "never"])
def test_recording_leaves_the_gradient_of_a_leaf_where_it_belongs(engine):
    layer, x, given = Recurrent(Speaks(), fused=engine), inputs(), speaks()
    y, _ = layer(x, **given)
    expected = [d.numpy() for d in tg.grad(y.sum(), [*given.values()])]
    with tg.record(layer):
        y, _ = layer(x, **given)
    y.sum().backward()
    for value, d in zip(given.values(), expected):
        np.testing.assert_allclose(value.grad.numpy(), d, rtol=0, atol=1e-13)


# ---- Cells around cells, and layers of them --------------------------------------------------------------------------

AROUND = {
    "zoneout": lambda cell: tg.nn.Zoneout(cell, 0.3),
    "variational dropout": lambda cell: tg.nn.VariationalDropout(cell, input=0.2, state=0.3, states="all"),
    "weight drop": lambda cell: tg.nn.WeightDrop(cell, 0.3, "U"),
    "clipped": lambda cell: tg.nn.ClipGradient(cell, 0.01),
    "learned": tg.nn.LearnedInitialState,
    "two": lambda cell: tg.nn.Zoneout(tg.nn.ClipGradient(cell, 0.1), 0.3),
}


@pytest.mark.filterwarnings("ignore:VariationalDropout. Speaker.step hands c on")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("around", AROUND)
def test_wrappers_hand_values_on(around, training, monkeypatch):
    interpret(monkeypatch)
    one = AROUND[around](Speaker("speaker")).train(training)
    assert one.value_names == {"voice": "required", "style": "required"}
    assert_engines_agree(one, (T, B, I), lengths=LENGTHS, values=MATHS["speaker"].values)
    with pytest.raises(TypeError, match="voice is missing"):
        Recurrent(one)(inputs())


def test_a_wrapper_of_the_user_s(monkeypatch):
    interpret(monkeypatch)

    class Gated(CellWrapper):
        """With a value of its own."""

        def step(self, x, *states, gate, **values):
            new = self.cell.advance(x, states, **values)
            return tuple(gate * n + (1 - gate) * s for n, s in zip(new, states))

    one = Gated(Speaker("speaker"))
    assert one.value_names == {"voice": "required", "style": "required", "gate": "required"}
    assert_engines_agree(one, (T, B, I), values={"gate": (H,), **MATHS["speaker"].values})


def test_a_cell_with_another_one_inside(monkeypatch):
    interpret(monkeypatch)

    class Twice(Cell):
        def __init__(self):
            self.input_size, self.hidden_size, self.inner = I, H, Speaks()

        def step(self, x, h, *, voice):
            (h,) = self.inner.advance(x, (h,), voice=voice)
            return self.inner(x, h, voice=voice * 0.5, gate=tg.sigmoid(voice))

    assert_engines_agree(Twice(), (T, B, I), lengths=LENGTHS, values={"voice": (H,)})


class Plain(CellWrapper):
    """Written before there were such values."""

    def step(self, x, *states):
        return self.cell.advance(x, states)


def test_a_wrapper_that_hands_nothing_on_says_so():
    one, x = Plain(Speaks()), inputs()
    words = r"Plain: step takes no voice by name, and so Speaks would not get it: write step\(self, x, \*states, \*\*v"
    with pytest.raises(TypeError, match=words):
        Recurrent(one)(x, **speaks())
    for engine in ("require", "never"):  # the cell inside misses it
        with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'voice'"):
            Recurrent(one, fused=engine)(x)
    y, _ = Recurrent(Plain(GRUCell(I, H, dtype=np.float64)), fused="require")(x)
    assert y.shape == (T, B, H)


@pytest.mark.parametrize("engine", ["require", "never"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_layers_give_each_cell_what_it_takes(batch_first, engine):
    cells = [Speaks(), GRUCell(I, H, dtype=np.float64), Level("level"), Speaks(2 * H)]
    cells[2] = Speaks(2 * H)
    x, given = inputs(), speaks()
    net = Stack(cells, bidirectional=True, batch_first=batch_first, fused=engine)
    y, _, _ = net(x.transpose(0, 1) if batch_first else x, lengths=LENGTHS, return_states=True, **given)
    between = []
    for n, one in enumerate(cells):
        below = x if n < 2 else tg.cat(between[:2], -1)
        own = {} if n == 1 else given
        between.append(Recurrent(one, reverse=n % 2 == 1, fused=engine)(below, lengths=LENGTHS, **own)[0])
    expected = tg.cat(between[2:], -1)
    np.testing.assert_allclose((y.transpose(0, 1) if batch_first else y).numpy(), expected.numpy(), atol=1e-13)
    ours, theirs = (tg.grad(v.square().sum(), [x, *given.values()]) for v in (y, expected))
    for a, b in zip(ours, theirs):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=0, atol=1e-12)


def test_layers_without_a_batch():
    net, x, given = Stack([Speaks(), Speaks(H)]), inputs(), speaks()
    y, h = net(x[:, 2], voice=given["voice"][2], gate=given["gate"][2])
    whole, h_all = net(x, **given)
    np.testing.assert_allclose(y.numpy(), whole[:, 2].numpy(), atol=1e-13)
    np.testing.assert_allclose(h.numpy(), h_all[:, 2].numpy(), atol=1e-13)


def test_layers_refuse_what_no_cell_takes():
    net, x, given = Stack([Speaks(), GRUCell(H, H, dtype=np.float64)]), inputs(), speaks()
    with pytest.raises(TypeError, match="Stack: nothing is called voices: its cells take voice, gate by name, and"):
        net(x, voices=given["voice"])
    with pytest.raises(TypeError, match="Speaks: voice is missing"):
        net(x, gate=given["gate"])
    with pytest.raises(TypeError, match="LSTM: nothing is called memory: its cells take nothing by name"):
        tg.nn.LSTM(I, H)(tg.ones(T, B, I), memory=given["voice"])


def test_truncated_backpropagation():
    layer, x, given = Recurrent(Speaks(), fused="require"), inputs(), speaks()
    whole, _ = layer(x, **given)
    chunks = tg.nn.utils.truncated(lambda chunk, state: layer(chunk, state, **given), x.split(2))
    np.testing.assert_allclose(np.concatenate([y.numpy() for (y, _) in chunks]), whole.numpy(), atol=1e-13)


# ---- What is wrong ---------------------------------------------------------------------------------------------------

OK = np.ones((B, H))
WRONG = {
    "missing": ({}, TypeError, r"Speaks: voice is missing, which step takes by name: call with voice=\.\.\., \[B, "),
    "unknown": ({"voice": OK, "noise": OK}, TypeError, "nothing is called noise: step takes voice, gate by name, and"),
    "a state": ({"voice": OK, "h": OK}, TypeError, "Speaks: h is a state, and initial states are given as hx"),
    "a number": ({"voice": 1.0}, TypeError, r"Speaks: voice must be a tensor \[B, \.\.\.\], not float"),
    "a list": ({"voice": [[1.0] * H] * B}, TypeError, "voice must be a tensor .*, not list"),
    "None": ({"voice": None}, TypeError, "voice must be a tensor .*, not NoneType"),
    "no batch": (
        *({"voice": np.ones(H + 1)}, ValueError),
        r"voice has shape \[5\], expected \[4, \.\.\.\]: a row for each sequence of the batch\. Write voice\.ex",
    ),
    "no dimension": ({"voice": np.array(1.0)}, ValueError, r"voice has shape \[\], expected \[4, \.\.\.\]"),
    "one for all": ({"voice": np.ones((1, H))}, ValueError, r"voice has shape \[1, 4\], expected \[4, \.\.\.\]"),
    "by time": ({"voice": np.ones((T, B, H))}, ValueError, r"voice has shape \[5, 4, 4\], expected \[4, \.\.\.\]"),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("call", ["require", "never", "a step", "after a call"])
def test_wrong_values(wrong, call):
    given, error, words = WRONG[wrong]
    one, x = Speaks(), inputs()
    layer = one if call == "a step" else Recurrent(one, fused=call if call == "never" else "require")
    if call == "after a call":
        layer(x, voice=OK)
    with pytest.raises(error, match=words):
        layer(x[0] if call == "a step" else x, **given)


@pytest.mark.parametrize("name", ["x", "input", "hx", "lengths", "return_states"])
def test_names_that_calls_use_themselves(name):
    text = f"def step(self, a, h, *, {name}): return h + {name}"
    made = {}
    exec(text, made)
    kind = type("Taken", (Cell,), {"hidden_size": H, "step": made["step"]})
    words = f"step calls a value that holds for a sequence {name}, as calls of a layer name an argument of their own"
    with pytest.raises(TypeError, match=words):
        Recurrent(kind())
    with pytest.raises(TypeError, match=words):
        kind()(tg.ones(B, H))
    Renamed = type("Renamed", (Speaks,), {})
    layer = Recurrent(Renamed())
    Renamed.step = made["step"]
    with pytest.raises(TypeError, match=words):  # a step may be another one by now
        layer(inputs())


def test_a_step_of_names_alone_has_no_states():
    with pytest.raises(TypeError, match="must name its states"):
        Recurrent(type("Stateless", (Cell,), {"step": lambda self, x, *, voice: x})())(inputs(), voice=OK)


def test_values_that_do_not_fit_the_step_are_told_in_the_words_of_the_tape():
    for engine in ("require", "never"):
        with pytest.raises(ValueError, match="add"):
            Recurrent(Speaks(), fused=engine)(inputs(), voice=np.ones((B, H + 1)))


def test_what_a_kernel_is_for_is_not_known_before_a_call():
    layer = Recurrent(Speaker("speaker"))
    for ask in (layer.explain, layer.source):
        with pytest.raises(ValueError, match="the shape of voice and style is not known yet: call the layer once"):
            ask()
    layer(inputs(), **values("speaker", B))
    assert "style" in layer.source() and "voice" in layer.explain()
    assert "gate" not in Recurrent(Optional()).source()


class Optional(Speaks):
    def step(self, x, h, *, gate=None):
        n = tg.tanh(x @ self.W + h @ self.U)
        return n if gate is None else n * gate


def test_a_step_that_looks_at_the_numbers_of_a_value_runs_on_the_tape():
    class Looks(Speaks):
        def step(self, x, h, *, voice):
            return h + x @ self.W if float(voice.sum()) > 0 else h - x @ self.W

    layer, x = Recurrent(Looks()), inputs()
    with pytest.warns(UserWarning, match=r"voice|the rows of the batch meet"):
        up, _ = layer(x, voice=np.ones((B, H)))
    down, _ = layer(x, voice=-np.ones((B, H)))
    np.testing.assert_array_equal(up.numpy(), -down.numpy())


def test_a_step_that_keeps_a_value_is_refused():
    class Keeps(Speaks):
        def step(self, x, h, *, voice):
            self.kept = voice
            return h + x @ self.W

    layer = Recurrent(Keeps())
    with pytest.warns(UserWarning, match="kept"):
        layer(inputs(), voice=np.ones((B, H)))
    assert isinstance(layer.cell.kept, tg.Tensor)


def test_an_anomaly_names_the_line():
    class Logs(Speaks):
        def step(self, x, h, *, voice):
            return h + x @ self.W + tg.log(voice)

    voice = tg.tensor(np.zeros((B, H)), requires_grad=True)
    with tg.detect_anomaly(), pytest.raises(FloatingPointError, match=r"test_sequence_keywords\.py:\d+, in step"):
        Recurrent(Logs())(inputs(), voice=-voice - 1)


# ---- Validation ------------------------------------------------------------------------------------------------------


def _of_another_order(self, rows, arrays, plain=FusedCell._given):
    """Values in the order of the batch, where rows have another."""
    arguments = self.scan.forward.arguments
    self._ordered = [i for i in self._ordered if arguments[i].role != "each"]
    return plain(self, rows, arrays)


def _of_another_sequence(self, rows, arrays, plain=FusedCell._given):
    """All sequences have the values of the first."""
    arguments = self.scan.forward.arguments
    return plain(self, rows, [a[:1].repeat(len(a), 0) if b.role == "each" else a for a, b in zip(arrays, arguments)])


def _without_gradient(self, plain=epilogue.Backward._sequences):
    """Nothing is added to the gradient of what the loop reads for each sequence."""
    whole, self.program = self.program, self.program._replace(constants=())
    plain(self)
    self.program = whole


@pytest.mark.parametrize(
    ("place", "name", "fault"),
    [
        (FusedCell, "_given", _of_another_order),
        (FusedCell, "_given", _of_another_sequence),
        (epilogue.Backward, "_sequences", _without_gradient),
    ],
)
def test_validation_finds_a_fault(place, name, fault, monkeypatch):
    interpret(monkeypatch)
    monkeypatch.setattr(place, name, fault)
    layer, given = Recurrent(Speaker("speaker"), fused="require"), values("speaker", B)
    with pytest.raises(NotImplementedError, match="its kernels do not compute what step computes"):
        layer(inputs(), lengths=LENGTHS, **given)
