"""A cell as somebody who knows PyTorch writes it: the text of a loop over time, made from the traced step.

    once        maths of weights, and of what holds for a sequence
    ahead       everything that no state has a part in, for all steps at once
    loop        the rest, step by step, with PyTorch's own functions

Products of a state with several weights are one, with the weights side by side; what is added to a product is added by
it (`torch.addmm`); what is cut in pieces is cut once (`split`); a sum over products of matrices is an `einsum`. Nothing
is copied that PyTorch does not copy by itself. It is eager: what `torch.compile` would make of it is another matter.
"""

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn.autograd import table
from tinygrad_rnn.fusion.program import Program, Value, columns_of, made_of
from tinygrad_rnn.nn.cells import gru_variants

TAKEN = {"torch", "F", "T", "B", "N", "ys", "x_all", "start", "p", "given"}
WHOLE = slice(None)

SIGNS = {"add": "+", "sub": "-", "mul": "*", "div": "/", "pow": "**", "remainder": "%", "matmul": "@",
         "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}  # fmt: skip
CALLS = {"softplus": "F.softplus", "leaky_relu": "F.leaky_relu", "elu": "F.elu", "silu": "F.silu", "gelu": "F.gelu",
         "logsigmoid": "F.logsigmoid", "phi": "torch.special.ndtr", "floor_divide": "torch.floor_divide"}  # fmt: skip


# ---- What PyTorch has one function for -------------------------------------------------------------------------------

LOGSIGMOID, LAYER_NORM = SimpleNamespace(name="logsigmoid"), SimpleNamespace(name="layer_norm")


def in_functions(program: Program) -> Program:
    """The program with these functions in place of what they are made of here."""
    new: dict[Value, Value] = {}
    for value in program.values:
        inputs = tuple(new.get(x, x) if isinstance(x, Value) else x for x in value.inputs)
        value_now = value if inputs == value.inputs else dataclasses.replace(value, inputs=inputs)
        for pattern in (_softplus, _logsigmoid, _normalised, _scaled, _shifted, _slice_of_slices):
            found = pattern(value_now)
            if found is not None:
                row, inputs, attributes = found
                value_now = dataclasses.replace(value_now, row=row, inputs=inputs, attributes=attributes)
        new[value] = value_now
    outputs = tuple(new[x] for x in program.outputs)
    return program._replace(values=tuple(made_of([*outputs, *program.states, *program.inputs])), outputs=outputs)


Found = tuple[Any, tuple[Any, ...], dict[str, Any]]


def _made(x: Any, row: Any) -> bool:
    return isinstance(x, Value) and x.row is row


def _softplus(value: Value) -> Found | None:
    """`where(x > 20, x, softplus(x))`, which PyTorch's is."""
    if value.row is not table.where:
        return None
    test, x, y = value.inputs
    if _made(test, table.gt) and _made(y, table.softplus) and test.inputs == (x, 20.0) and y.inputs == (x,):
        return table.softplus, (x,), {}
    return None


def _logsigmoid(value: Value) -> Found | None:
    """`-softplus(-x)`."""
    y = value.inputs[0] if value.row is table.neg else None
    if _made(y, table.softplus) and _made(y.inputs[0], table.neg):
        return LOGSIGMOID, y.inputs[0].inputs, {}
    return None


def _mean_of(value: Any) -> Value | None:
    """What a value is the mean over the last dimension of."""
    if _made(value, table.div) and _made(value.inputs[0], table.sum) and not isinstance(value.inputs[1], Value):
        total, x = value.inputs[0], value.inputs[0].inputs[0]
        last = total.attributes["keepdim"] and tuple(total.attributes["dim"]) == (len(x.shape) - 1,)
        return x if last and value.inputs[1] == x.shape[-1] else None
    return None


def _normalised(value: Value) -> Found | None:
    """`c rsqrt(mean(c c) + eps)`, c being `x - mean(x)`."""
    if value.row is not table.mul or not _made(value.inputs[1], table.rsqrt):
        return None
    c, scale = value.inputs
    inside = scale.inputs[0]
    if not (_made(c, table.sub) and _made(inside, table.add) and not isinstance(inside.inputs[1], Value)):
        return None
    squares = _mean_of(inside.inputs[0])
    square = (_made(squares, table.mul) and squares.inputs == (c, c)) or (
        _made(squares, table.square) and squares.inputs == (c,)
    )
    if square and _mean_of(c.inputs[1]) is c.inputs[0]:
        return LAYER_NORM, (c.inputs[0],), {"eps": float(inside.inputs[1])}
    return None


def _scaled(value: Value) -> Found | None:
    """One with weights."""
    if value.row is table.mul and _made(value.inputs[0], LAYER_NORM) and _is_vector(value, value.inputs[1]):
        y, weight = value.inputs
        return (LAYER_NORM, (*y.inputs, weight), y.attributes) if len(y.inputs) == 1 else None
    return None


def _shifted(value: Value) -> Found | None:
    """One with weights, and a bias."""
    if value.row is table.add and _made(value.inputs[0], LAYER_NORM) and _is_vector(value, value.inputs[1]):
        y, bias = value.inputs
        return (LAYER_NORM, (*y.inputs, bias), y.attributes) if len(y.inputs) == 2 else None
    return None


def _is_vector(value: Value, x: Any) -> bool:
    return isinstance(x, Value) and not x.per_row and x.shape == value.shape[-1:]


def _slice_of_slices(value: Value) -> Found | None:
    """A concatenation of neighbours is a slice."""
    if value.row is not table.cat or not all(_made(x, table.slice) and x.per_row for x in value.inputs):
        return None
    wholes = {x.inputs[0] for x in value.inputs}
    if len(wholes) > 1 or len(value.shape) != 2 or value.attributes["dim"] != 1:
        return None
    (whole,) = wholes
    spans = [columns_of(whole, x.attributes["at"]) for x in value.inputs]
    if len(whole.shape) != 2 or None in spans or any(a[1] != b[0] for a, b in itertools.pairwise(spans)):  # type: ignore[index]
        return None
    at = (WHOLE, slice(spans[0][0], spans[-1][1]))  # type: ignore[index]
    return table.slice, (whole,), {"at": at}


# ---- The text --------------------------------------------------------------------------------------------------------


class Written:
    """The text of a function that runs a program over a sequence.

    Attributes:
        text: of `loop(x_all, p, given, start)`, which returns the first state after every step.
        parameters, constants: the leaves that it wants in `p`, in order.
        given: those that hold for a sequence.
    """

    def __init__(self, program: Program) -> None:
        self.program = program = in_functions(program)
        values = [value for value in program.values if value in set(made_of(program.outputs))]
        self.readers: dict[Value, list[Value]] = {}
        for value in values:
            for x in dict.fromkeys(value.operands):
                self.readers.setdefault(x, []).append(value)
        self.outputs = set(program.outputs)
        from_state = set(program.states)
        for value in values:
            if not from_state.isdisjoint(value.operands):
                from_state.add(value)
        self.place = {v: "loop" if v in from_state else "ahead" if v.timed else "once" for v in program.values}
        self.names: dict[Value, str] = {}
        self.extra: set[str] = set()  # names of what is no value of the program
        self.linear: dict[str, tuple[str, str, str]] = {}  # of these, which are a bias and a product
        self.bases: dict[Value, str] = {}  # of sums: what is added before the loop
        self.lines: dict[str, list[str]] = {"once": [], "ahead": [], "loop": []}
        self.done: set[Value] = set()
        self.handed: dict[str, str] = {}  # what the loop takes of each step -> where all of it is
        self.repeated: dict[Value, str] = {}
        self.held = [value for value in program.held if value in self.readers or value in self.outputs]
        self.given = [value for value in program.given if value in self.readers or value in self.outputs]
        self._find_sums(values)
        self._find_products()
        for place in self.lines:
            for value in values:
                if value.row is not None and value not in self.absorbed and self.place[value] == place:
                    self._write(value)
        self.text = self._whole()

    # ---- Names -------------------------------------------------------------------------------------------------------

    def name(self, value: Value) -> str:
        if value not in self.names:
            taken = {*self.names.values(), *TAKEN}
            name = value.name
            while name in taken:
                name += "_"
            self.names[value] = name
        return self.names[value]

    def new(self, name: str) -> str:
        taken = {*self.names.values(), *TAKEN, *self.extra}
        while name in taken:
            name += "_"
        self.extra.add(name)
        return name

    def read(self, x: Any, place: str) -> str:
        """An operand, as it is called in a part of the function."""
        if not isinstance(x, Value):
            return number(x)
        name = self.name(x)
        if place == "loop" and self.place[x] == "ahead":
            self.handed[name] = f"{name}.view(T, B, {inner(x)}).unbind(0)"
        if place == "ahead" and x.rate == "sequence":
            if x not in self.repeated:
                self.repeated[x] = self.new(f"{name}_rows")
                ones = ", ".join("1" for _ in x.shape[1:])
                self.lines["ahead"].append(f"{self.repeated[x]} = {name}.repeat(T, {ones})")
            return self.repeated[x]
        return name

    # ---- Sums and products -------------------------------------------------------------------------------------------

    def _find_sums(self, values: list[Value]) -> None:
        """Sums with products in them, each taken together; and sums over products of matrices."""
        self.absorbed: set[Value] = set()
        self.terms: dict[Value, list[Any]] = {}
        self.products: dict[Value, Value] = {}  # product -> the sum that it is a term of
        self.early: set[Value] = set()  # products that are done for all steps, and are terms of a sum in the loop
        only = lambda x: len(self.readers.get(x, ())) == 1 and x not in self.outputs
        for value in reversed(values):
            place = self.place[value]
            if place == "once" or value.row is not table.add or value in self.absorbed:
                continue
            adds = lambda x: isinstance(x, Value) and x.row is table.add and self.place[x] != "once"
            terms, inside, ahead = [], [], list(reversed(value.inputs))
            while ahead:
                x = ahead.pop()
                if adds(x) and only(x) and x.shape == value.shape:
                    inside.append(x)
                    ahead += reversed(x.inputs)
                else:
                    terms.append(x)
            products = [x for x in terms if self._is_product(x, place) and only(x) and x.shape == value.shape]
            before = sum(isinstance(x, Value) and self.place[x] != place for x in terms)
            if (products or before > 1) and len(set(map(id, terms))) == len(terms):
                self.terms[value] = terms
                early = [x for x in terms if place == "loop" and self._is_product(x, "ahead") and only(x)]
                self.early |= set(early)
                self.absorbed |= {*inside, *products, *early}
                self.products |= dict.fromkeys(products, value)
        for value in values:
            x = value.inputs[0] if value.row is table.sum else None
            if isinstance(x, Value) and x.row is table.mul and only(x) and self._is_contraction(value, x):
                self.absorbed.add(x)

    def _is_product(self, x: Any, place: str = "loop") -> bool:
        return (
            isinstance(x, Value) and x.row is table.matmul and self.place[x] == place and len(x.shape) == 2
            and x.inputs[0].per_row and self.place[x.inputs[1]] == "once" and not x.inputs[1].per_row
        )  # fmt: skip

    def _is_contraction(self, total: Value, product: Value) -> bool:
        """Whether a sum of a product is of a matrix with something that is no larger than its side."""
        a, b = product.inputs
        if not (isinstance(a, Value) and isinstance(b, Value) and a.dtype == b.dtype == product.dtype):
            return False
        smaller = lambda x: math.prod(x.shape) < math.prod(product.shape)
        return len(product.shape) > 2 and (smaller(a) or smaller(b)) and not total.attributes["keepdim"]

    def _find_products(self) -> None:
        """Products of the same state with several weights."""
        by_left: dict[Value, list[Value]] = {}
        for value in self.program.values:
            if value in self.readers and self._is_product(value):
                by_left.setdefault(value.inputs[0], []).append(value)
        self.joined: dict[Value, list[Value]] = {}
        for members in by_left.values():
            if len({member.inputs[1] for member in members}) > 1:
                self.joined |= dict.fromkeys(members, members)
                self.absorbed -= set(members)
        self.pieces: dict[Value, bool] = {}  # member of a joined product -> whether its base is in it

    def _base(self, total: Value) -> str:
        """What can be added before its place is reached, under one name; "" if there is none."""
        if total not in self.bases:
            here = self.place[total]
            terms = [x for x in self.terms[total] if not isinstance(x, Value) or self.place[x] != here]
            place = "ahead" if any(isinstance(x, Value) and self.place[x] == "ahead" for x in terms) else "once"
            name, early = "", [x for x in terms if x in self.early]
            if len(terms) == 1 and isinstance(terms[0], Value) and not early:
                name = self.read(terms[0], here)
            elif any(isinstance(x, Value) for x in terms):
                name = self.new(f"{self.name(total)}_base")
                rest = [x for x in terms if x not in early]
                text = bias = " + ".join(self.read(x, place) for x in rest)
                for x in early:
                    left, right = self.read(x.inputs[0], place), self.name(x.inputs[1])
                    text = f"torch.addmm({text}, {left}, {right})" if text else f"{left} @ {right}"
                    self.linear[name] = (bias, left, right)
                if len(early) > 1 or any(isinstance(x, Value) and self.place[x] != "once" for x in rest):
                    self.linear.pop(name, None)
                self.lines[place].append(f"{name} = {text}")
                if place == "ahead":
                    self.handed[name] = f"{name}.view(T, B, {inner(total)}).unbind(0)"
            self.bases[total] = name
        return self.bases[total]

    def _join(self, members: list[Value]) -> None:
        """Products of one state as one; with what is added to each of them, if there is something for each."""
        weights = list(dict.fromkeys(member.inputs[1] for member in members))
        ready = [self.products.get(member) for member in members]
        whole = len(weights) == len(members) and all(
            total is not None and self._base(total) and self._first(total) is member and total.shape == member.shape
            and any(isinstance(x, Value) and self.place[x] == "ahead" for x in self.terms[total])
            for total, member in zip(ready, members)
        )  # fmt: skip
        left = self.read(members[0].inputs[0], "loop")
        weight = self.new(f"{left}_weights")
        self.lines["once"].append(f"{weight} = torch.cat([{', '.join(map(self.name, weights))}], 1)")
        if whole:
            base = self.new(f"{left}_base")
            parts = [self.bases[total] for total in ready if total is not None]
            for part in parts:
                self.handed.pop(part, None)
            text = self._side_by_side(parts)
            self.lines["ahead"].append(f"{base} = {text}")
            width = sum(member.width for member in members)
            self.handed[base] = f"{base}.view(T, B, {width}).unbind(0)"
            made = f"torch.addmm({base}, {left}, {weight})"
        else:
            made = f"({left} @ {weight})"
        sizes = [w.shape[1] for w in weights]
        names = {w: self.new(f"{left}_{self.name(w)}") for w in weights}
        for member in members:
            self.names[member] = names[member.inputs[1]]
            self.pieces[member] = whole
        self.lines["loop"].append(f"{', '.join(names.values())} = {made}.split({_sizes(sizes)}, -1)")

    def _side_by_side(self, parts: list[str]) -> str:
        """What is added to products, for all of them at once: if it is products of one input, those are one."""
        known = [self.linear.get(part, ("", "", "")) for part in parts]
        if not all(known[0][1] == left and bias for bias, left, _ in known) or not known[0][1]:
            return f"torch.cat([{', '.join(parts)}], 1)"
        starts = tuple(f"{part} = " for part in parts)
        self.lines["ahead"] = [line for line in self.lines["ahead"] if not line.startswith(starts)]
        bias, weight = self.new("biases"), self.new(f"{known[0][1]}_weights")
        self.lines["once"].append(f"{bias} = torch.cat([{', '.join(each[0] for each in known)}])")
        self.lines["once"].append(f"{weight} = torch.cat([{', '.join(each[2] for each in known)}], 1)")
        return f"torch.addmm({bias}, {known[0][1]}, {weight})"

    def _first(self, total: Value) -> Value | None:
        return next((x for x in self.terms[total] if x in self.products), None)

    def _sum(self, total: Value) -> str:
        """A sum in which there are products."""
        terms, place = self.terms[total], self.place[total]
        products = [x for x in terms if x in self.products and self.products[x] is total]
        others = [x for x in terms if isinstance(x, Value) and self.place[x] == place and x not in products]
        pieces = [x for x in products if x in self.joined]
        for x in pieces:
            if x not in self.pieces:
                self._join(self.joined[x])
        text = "" if any(self.pieces[x] for x in pieces) else self._base(total)
        plain = [self.read(x, place) for x in others] + [self.name(x) for x in pieces]
        own = [x for x in products if x not in pieces]
        if own and not text and plain:
            text = plain.pop()
        for x in own:
            left, right = self.read(x.inputs[0], place), self.name(x.inputs[1])
            text = f"torch.addmm({text}, {left}, {right})" if text else f"{left} @ {right}"
        return " + ".join([*([text] if text else []), *plain])

    # ---- Lines -------------------------------------------------------------------------------------------------------

    def _write(self, value: Value) -> None:
        if value in self.done:
            return
        place = self.place[value]
        if value in self.joined:
            if value not in self.pieces:
                self._join(self.joined[value])
            return
        if value.row is table.slice and self._cut(value.inputs[0], place):
            return
        text = self._sum(value) if value in self.terms else self._operation(value, place)
        self.lines[place].append(f"{self.name(value)} = {text}")
        self.done.add(value)

    def _cut(self, whole: Value, place: str) -> bool:
        """Cut a value into all of its pieces at once, if that is what becomes of it."""
        if place == "once" or self.place[whole] != place or not whole.per_row:
            return False
        pieces = [x for x in self.readers[whole] if x.row is table.slice]
        spans = []
        for piece in pieces:
            *ahead, last = piece.attributes["at"]
            if len(ahead) + 1 != len(whole.shape) or ahead != [WHOLE] * len(ahead) or not isinstance(last, slice):
                return False
            first, end, step = last.indices(whole.shape[-1])
            if step != 1:
                return False
            spans.append((first, end, piece))
        spans.sort(key=lambda span: span[:2])
        if len(spans) < 2 or any(a[1] > b[0] for a, b in itertools.pairwise(spans)):
            return False
        sizes, names, at = [], [], 0
        for first, end, piece in spans:
            if first > at:
                sizes.append(first - at)
                names.append("_")
            sizes.append(end - first)
            names.append(self.name(piece))
            at = end
        if at < whole.shape[-1]:
            sizes.append(whole.shape[-1] - at)
            names.append("_")
        self.lines[place].append(f"{', '.join(names)} = {self.read(whole, place)}.split({_sizes(sizes)}, -1)")
        self.done |= set(pieces)
        return True

    def _operation(self, value: Value, place: str) -> str:
        """One operation, with PyTorch's function for it."""
        row, attributes = value.row, dict(value.attributes)
        assert row is not None
        if row is table.sum and value.inputs[0] in self.absorbed and value.inputs[0].row is table.mul:
            return self._contraction(value, place)
        texts = [self.read(x, place) for x in value.inputs]
        number_like = [not isinstance(x, Value) for x in value.inputs]
        truths = [isinstance(x, Value) and x.dtype == np.bool_ for x in value.inputs]
        rows = {"once": "B", "ahead": "N", "loop": "B"}[place]
        shape = lambda dims: f"({', '.join([rows if value.per_row else str(dims[0]), *map(str, dims[1:])])},)"
        if row.name in SIGNS:
            if row.name in ("add", "sub", "mul", "div"):
                texts = [f"{x}.float()" if truth else x for x, truth in zip(texts, truths)]
            return f"{texts[0]} {SIGNS[row.name]} {texts[1]}"
        if row.name in ("maximum", "minimum") and any(number_like):
            x, bound = texts if number_like[1] else texts[::-1]
            return f"{x}.clamp({'min' if row.name == 'maximum' else 'max'}={bound})"
        if row is table.clamp:
            return f"{texts[0]}.clamp({texts[1]}, {texts[2]})"
        if row is table.where:
            condition = texts[0] if truths[0] else f"({texts[0]} != 0)"
            return f"torch.where({condition}, {texts[1]}, {texts[2]})"
        if row is table.neg:
            return f"-{texts[0]}"
        if row is table.square:
            return f"{texts[0]} * {texts[0]}"
        if row is table.detach:
            return f"{texts[0]}.detach()"
        if row is table.straight_through:
            return f"{texts[1]} + ({texts[0]}{'.float()' if truths[0] else ''} - {texts[1]}).detach()"
        if row is table.gelu_tanh:
            return f"F.gelu({texts[0]}, approximate='tanh')"
        if row is table.linear:
            return f"F.linear({', '.join(texts)})"
        if row is table.sum:
            return f"{texts[0]}.sum({attributes['dim']}, keepdim={attributes['keepdim']})"
        if row in (table.amax, table.amin):
            return f"torch.{row.name}({texts[0]}, {attributes['dim']}, keepdim={attributes['keepdim']})"
        if row is table.reshape:
            return f"{texts[0]}.reshape{shape(attributes['shape'])}"
        if row is table.expand:
            return f"{texts[0]}.expand{shape(attributes['shape'])}"
        if row is table.permute:
            two = len(value.shape) == 2 and tuple(attributes["dims"]) == (1, 0)
            return f"{texts[0]}.t()" if two else f"{texts[0]}.permute{tuple(attributes['dims'])}"
        if row is table.cat:
            return f"torch.cat([{', '.join(texts)}], {attributes['dim']})"
        if row in (table.slice, table.index):
            return _indexed(texts[0], attributes["at"], value.inputs[0].shape)
        if row is table.cast:
            return f"{texts[0]}.to(torch.{np.dtype(attributes['dtype']).name})"
        if row is LAYER_NORM:
            weight, bias = [*texts[1:], "None", "None"][:2]
            return f"F.layer_norm({texts[0]}, ({value.shape[-1]},), {weight}, {bias}, {attributes['eps']!r})"
        words = [*texts, *(f"{name}={number(x)}" for name, x in attributes.items())]
        if any(number_like):
            raise NotImplementedError(f"{value!r} has no translation")
        return f"{CALLS.get(row.name, f'torch.{row.name}')}({', '.join(words)})"

    def _contraction(self, total: Value, place: str) -> str:
        """A sum over a product, as an einsum: what is 1 in an operand is left out there."""
        product, letters = total.inputs[0], "bijklmnopq"
        rank = len(product.shape)
        operands, sides = [], []
        for x in product.inputs:
            first = rank - len(x.shape)  # it is aligned with the last dimensions
            ones = [i for i in range(first, rank) if x.shape[i - first] == 1 != product.shape[i]]
            index = ", ".join("0" if i in ones else ":" for i in range(first, rank))
            operands.append(self.read(x, place) + (f"[{index}]" if ones else ""))
            sides.append("".join(letters[i] for i in range(first, rank) if i not in ones))
        result = "".join(letters[i] for i in range(rank) if i not in total.attributes["dim"])
        return f'torch.einsum("{",".join(sides)}->{result}", {", ".join(operands)})'

    # ---- The whole ---------------------------------------------------------------------------------------------------

    def _whole(self) -> str:
        """The function."""
        program, states = self.program, [self.name(state) for state in self.program.states]
        outputs = [self.read(output, "loop") for output in program.outputs]
        (x,) = program.inputs
        lines = ["def loop(x_all, p, given, start):", "    T, B, _ = x_all.shape", "    N = T * B"]
        if self.held:
            lines.append(f"    {', '.join(map(self.name, self.held))}, = p")
        if self.given:
            lines.append(f"    {', '.join(map(self.name, self.given))}, = given")
        lines += ["    # once", *(f"    {line}" for line in self.lines["once"])]
        lines += ["    # for all steps at once", f"    {self.name(x)} = x_all.reshape(N, {x.width})"]
        lines += [f"    {line}" for line in self.lines["ahead"]]
        lines += [f"    {', '.join(states)}, = start", "    ys = []"]
        if self.handed:
            sources = ", ".join(self.handed.values())
            names = ", ".join(self.handed)
            lines.append(f"    for {names}, in zip({sources}):")
        else:
            lines.append("    for _ in range(T):")
        lines += [f"        {line}" for line in self.lines["loop"]]
        lines += [f"        {', '.join(states)}, = {', '.join(outputs)},", f"        ys.append({states[0]})"]
        lines += ["    return torch.stack(ys)"]
        return "\n".join(lines) + "\n"



def inner(value: Value) -> str:
    return ", ".join(map(str, value.shape[1:]))


def number(x: Any) -> str:
    """A number as text."""
    if isinstance(x, (bool, int, tuple, np.bool_)):
        return repr(x)
    x = float(x)
    return f"float('{x}')" if not math.isfinite(x) else repr(x)


def _sizes(sizes: list[int]) -> str:
    return str(sizes[0]) if len(set(sizes)) == 1 else str([int(n) for n in sizes])


def _indexed(text: str, at: Iterable[Any], shape: tuple[int, ...]) -> str:
    """An index; one that goes backwards as a list of places, which PyTorch knows no other way."""
    parts, sizes = [], iter(shape)
    for i in at:
        if i is None or i is ...:
            parts.append("None" if i is None else "...")
            continue
        n = next(sizes)
        if isinstance(i, slice) and i.step is not None and i.step < 0:
            parts.append(str(list(range(*i.indices(n)))))
        elif isinstance(i, slice):
            ends = (i.start, i.stop, i.step)[: 3 if i.step else 2]
            parts.append(":".join("" if end is None else str(int(end)) for end in ends))
        else:
            parts.append(str(i.tolist() if isinstance(i, np.ndarray) else i))
    return f"{text}[{', '.join(parts)}]"


@contextlib.contextmanager
def in_torch() -> Iterator[None]:
    """While a step is traced: without what is written for our kernels alone."""
    kept = gru_variants._together
    gru_variants._together = lambda norm, a, b: tg.chunk(norm(tg.cat([a, b], -1)), 2, -1)
    try:
        yield
    finally:
        gru_variants._together = kept


def loop_of(program: Program) -> tuple[Written, Callable[..., Any]]:
    """The text of a loop over time, and the function."""
    import torch

    written = Written(program)
    names: dict[str, Any] = {"torch": torch, "F": torch.nn.functional}
    exec(compile(written.text, "<a loop in PyTorch>", "exec"), names)
    return written, names["loop"]
