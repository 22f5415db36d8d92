"""What the compiler tells of a cell: `source`, `explain`, and both from the command line."""

import ast
import re

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.__main__ import main
from tinygrad_rnn.fusion.stages import STAGES


class MGU(tg.nn.Cell):
    """Minimal gated unit (Zhou et al., 2016): a product in mid-step."""

    def __init__(self, input_size, hidden_size):
        self.hidden_size = hidden_size
        draw = lambda *shape: tg.nn.Parameter(tg.tensor(np.random.default_rng(0).normal(0, 0.1, shape)))
        self.Wf, self.Uf, self.bf = draw(input_size, hidden_size), draw(hidden_size, hidden_size), draw(hidden_size)
        self.Wh, self.Uh, self.bh = draw(input_size, hidden_size), draw(hidden_size, hidden_size), draw(hidden_size)

    def step(self, x, h):
        f = tg.sigmoid(x @ self.Wf + h @ self.Uf + self.bf)
        n = tg.tanh(x @ self.Wh + (f * h) @ self.Uh + self.bh)
        return (1 - f) * h + f * n


class Doubtful(tg.nn.Cell):
    """A step that looks at its numbers."""

    def __init__(self, input_size, hidden_size):
        self.input_size, self.hidden_size = input_size, hidden_size

    def step(self, x, h):
        return h * 2 if h.numpy().sum() > 0 else h


class Normed(tg.nn.Cell):
    """A row reduction between loops."""

    def __init__(self, input_size, hidden_size):
        self.input_size, self.hidden_size = input_size, hidden_size
        self.W = tg.nn.Parameter(tg.ones(input_size, hidden_size))
        self.U = tg.nn.Parameter(tg.ones(hidden_size, hidden_size))

    def step(self, x, h):
        a = x @ self.W + h @ self.U
        centred = a - a.mean(-1, keepdim=True)
        return tg.tanh(centred)


def explained(cell, width):
    layer = tg.nn.Recurrent(cell, fused="require")
    dtype = next(cell.parameters()).dtype
    layer(tg.ones(3, 2, width, dtype=dtype))[0].sum().backward()
    return layer.explain()


def test_explain_tells_the_whole_story():
    text = explained(MGU(5, 4), 5)
    for said in (
        "MGU: x [T, B, 5], states h [B, 4], float64",
        "n = tanh(x_Wh + f_h_Uh + bh)",
        "h_new = (1 - f) * h + f * n",
        "f_h_Uh = (f * h) @ Uh",
        "x_Wf_and_x_Wh = x @ [Wf, Wh]: hoisted, one product [T * B, 5] @ [5, 8] for all steps",
        "1. product h_Uf = h @ Uf, [B, 4] @ [4, 4]",
        "2. forward_1, for each row: a loop over 4 columns: f, f_h",
        "f 32, n 32, f_h 32, h 32; together 128",  # four values of four float64 each
        "rematerialised rather than saved: v_5 = 1 - f",
        "dUh = f_h.T @ dv_4: one product [4, T * B] @ [T * B, 4]",
        "dbh = sum of dv_4 over all T * B rows",
        "forward: 80 flops in hoisted products, 64 in products of the loop",  # 2 * 5 * 8 and 2 * (2 * 4 * 4)
        "inference: not needed so far",
    ):
        assert said in text, text
    assert re.search(r"backward: (compiled|from the cache|had been loaded), \d+\.\d\d s", text), text


def test_explain_tells_joined_products_and_reductions():
    text = explained(tg.nn.GRUCell(3, 4), 3)
    assert "1. product h_weight_hh_T = h @ weight_hh_T, [B, 4] @ [4, 12]" in text
    assert "slices of h_weight_hh_T" in text
    assert re.search(r"\(sum\w* over the row\)", explained(Normed(3, 4), 3))


def test_source_before_the_first_call():
    layer = tg.nn.Recurrent(tg.nn.LSTMCell(3, 4))
    assert "backward: not needed so far" in layer.explain()
    for direction in ("forward", "backward", "inference"):
        text = layer.source(direction)
        names = {node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
        assert "backward" in names if direction == "backward" else "forward" in names
        assert max(map(len, text.splitlines())) <= 120
    with pytest.raises(ValueError, match="'sideways'"):
        layer.source("sideways")


def test_every_import_of_the_source_is_used():
    for cell in (MGU(3, 4), tg.nn.LSTMCell(3, 4), Normed(3, 4)):
        cell.input_size = 3
        for direction in ("forward", "backward", "inference"):
            text = tg.nn.Recurrent(cell).source(direction)
            tree = ast.parse(text)
            imported = {a.asname or a.name for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names}
            assert imported == {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} & imported


def test_every_line_of_the_step_has_its_gradient():
    layer = tg.nn.Recurrent(MGU(3, 4))
    layer.cell.input_size = 3
    text = layer.source("backward")
    for equation in ("h_new = (1 - f) * h + f * n", "n = tanh(x_Wh + f_h_Uh + bh)", "f = sigmoid(x_Wf + h_Uf + bf)"):
        assert f"gradient of: {equation}" in text


def test_what_happens_around_the_loop_can_be_read():
    """The products that left the loop, in the prologue and in the epilogue, with the user's names."""
    layer = tg.nn.Recurrent(MGU(3, 4))
    layer.cell.input_size = 3
    there, back = layer.source("forward"), layer.source("backward")
    assert "product(x_in, x_Wf_and_x_Wh_weights, x_Wf_and_x_Wh, total, 2 * H, I, " in there
    back = re.sub(r",\n +", ", ", back)
    for line in (
        "product(f_h_saved.T, dx_Wf_and_x_Wh_all[:, H:], dUh, H, H, total, ",
        "product(h_before.T, dx_Wf_and_x_Wh_all, dUf, H, H, total, ",
        "product(dx_Wf_and_x_Wh_all, x_Wf_and_x_Wh_weights.T, dx_in, total, I, 2 * H, ",
        "product(x_in.T, dx_Wf_and_x_Wh_all, dx_Wf_and_x_Wh_weights, I, 2 * H, total, ",
    ):
        assert line in back


def test_width_must_be_known():
    with pytest.raises(ValueError, match=r"Recurrent\(MGU\): .* call the layer once, or set cell.input_size"):
        tg.nn.Recurrent(MGU(3, 4)).explain()


def test_what_cannot_be_fused_says_why():
    layer = tg.nn.Recurrent(Doubtful(3, 4))
    assert "looks at the numbers" in layer.explain() and "test_explain.py" in layer.explain()
    with pytest.raises(NotImplementedError, match=r"Doubtful cannot be fused: .*looks at the numbers"):
        layer.source("forward")


def test_stacks_tell_of_every_layer():
    gru = tg.nn.GRU(3, 4, num_layers=2, bidirectional=True)
    assert re.findall(r"^Layer (\d), GRUCell: x \[T, B, (\d)\]", gru.explain(), re.MULTILINE) == [
        ("0", "3"),
        ("1", "8"),
    ]
    assert gru.source("backward", layer=1).startswith('"""GRUCell, backward')
    assert tg.nn.RNN(3, 4).explain().startswith("RNNCell: ")


def test_a_changed_cell_is_told_anew():
    layer = tg.nn.Recurrent(tg.nn.RNNCell(3, 4))
    assert "tanh(" in layer.source("forward")
    layer.cell.nonlinearity = "relu"
    assert "tanh(" not in layer.source("forward")


def test_every_stage_prints_the_program():
    cell = MGU(3, 4)
    cell.input_size = 3
    layer, said = tg.nn.Recurrent(cell), {}
    for stage in STAGES:
        said[stage] = layer.explain(stage)
    assert "f[B, 4] = sigmoid(" in said["trace"] and "dh_new" not in said["trace"]
    assert "x_Wf_and_x_Wh[B, 8] = matmul(x, Wf_and_Wh)" in said["join"].partition("Loop")[0]
    assert "x_Wf[B, 4] = matmul(x, Wf)" in said["hoist"].partition("Loop")[0]
    assert "f_h_Uh[B, 4] = matmul(f_h, Uh)" in said["hoist"].partition("Loop")[2]
    assert "dUh from f_h and dv_4" in said["transpose"]
    assert "f_h[B, 4]" in said["rematerialise"].partition("Rematerialised")[0]
    assert "f in place of x_Wf_and_x_Wh" in said["allocate"]
    assert said["print"].startswith(layer.source("forward"))
    with pytest.raises(ValueError, match="'joined'"):
        layer.explain("joined")


def test_command_line(capsys):
    assert main(["source", "gru", "backward"]) == 0
    assert capsys.readouterr().out.startswith('"""GRUCell, backward')
    assert main(["source", "lstm", "--hidden-size", "8"]) == 0
    assert "def backward(" in (out := capsys.readouterr().out) and "def forward(" in out
    assert main(["explain", "gru", "--stage", "hoist"]) == 0
    assert "GRUCell after hoist" in capsys.readouterr().out
    assert main(["explain", f"{__name__}:MGU", "--input-size", "5", "--hidden-size", "6"]) == 0
    assert capsys.readouterr().out.startswith("MGU: x [T, B, 5], states h [B, 6], float64")


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("lsmt", "no cell .lsmt.: did you mean lstm"),
        ("no_such_module:Cell", "cannot import no_such_module"),
        ("tinygrad_rnn.nn.cells:Celll", "its cells are: .*LSTMCell"),
        (f"{__name__}:Doubtful", "looks at the numbers"),
        ("tinygrad_rnn.nn:Cell", r"Cell\(28, 64\) failed"),
    ],
)
def test_command_line_says_what_is_wrong(capsys, cell, message):
    assert main(["source", cell]) == 2
    captured = capsys.readouterr()
    assert re.search(message, captured.err) and not captured.out


def test_without_a_command_it_is_a_tour(capsys):
    """A tape, a cell, its training, both engines and a kernel: what is printed is what happened."""
    assert main([]) == 0
    printed = capsys.readouterr().out
    losses = [float(loss) for loss in re.findall(r"update +\d+ +loss ([\d.]+)", printed)]
    assert len(losses) == 7 and losses[-1] < 0.2 * losses[0]
    apart, faster = re.search(r"differ by (\S+) of the largest. The kernels are (\d+) times", printed).groups()
    assert float(apart) < 2e-5 and faster
    assert "tensor([2., 4., 6.])" in printed and "# gradient of: f = sigmoid(x_Wf + h_Uf + bf)" in printed


def test_slices_of_rows_that_are_matrices():
    """They are told as they were written: columns of a vector are counted in another way."""

    class Shifts(tg.nn.Cell):
        input_size = hidden_size = 3

        def initial_state(self, batch_size):
            return tg.zeros(batch_size, 3), tg.zeros(batch_size, 3, 2)

        def step(self, x, h, tail):
            seen = tg.cat([tail, x[:, :, None]], -1)
            return seen[:, 1:].sum((1, 2), keepdim=False)[:, None] + h[:, -3:], seen[:, :, 1:]

    layer = tg.nn.Recurrent(Shifts(), fused="require")
    layer(tg.randn(2, 1, 3))
    text = layer.explain()
    assert "seen_0 = slices of seen\n" in text and "tail_new = seen[:, :, 1:]\n" in text, text
