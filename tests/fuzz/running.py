"""One case on one engine: calls in turn, and everything that comes out of them, by name.

This file needs nothing but the library: a program that shows a failure ends with a copy of it.
"""

import copy

import numpy as np

import tinygrad_rnn as tg


def tensors(tree):
    """The tensors in nested tuples and lists."""
    if isinstance(tree, (tuple, list)):
        return [x for each in tree for x in tensors(each)]
    return [tree]


def like(tree, new):
    """A tree of the same form, with tensors from an iterator."""
    if isinstance(tree, (tuple, list)):
        return type(tree)(like(each, new) for each in tree)
    return next(new)


def laid_out(array, layout):
    """The same numbers, elsewhere in memory."""
    if layout == "reversed":
        return np.ascontiguousarray(array[..., ::-1])[..., ::-1]
    if layout == "apart":
        wide = np.full((*array.shape[:-1], 2 * array.shape[-1] + 1), np.nan, array.dtype)
        wide[..., 1::2] = array
        return wide[..., 1::2]
    if layout == "inner":
        wide = np.full((*array.shape[:-1], array.shape[-1] + 3), np.nan, array.dtype)
        wide[..., 2:-1] = array
        return wide[..., 2:-1]
    if layout == "fortran":
        return np.asfortranarray(array)
    if layout == "read-only":
        array = array.copy()
        array.flags.writeable = False
    return array


class Run:
    """A layer, and the calls that it gets."""

    def __init__(self, make, engine, dtype, nudge=0.0, draw=0):
        self.make, self.engine, self.dtype, self.nudge, self.draw = make, engine, dtype, nudge, draw
        self.layer, self.other = make(dtype), None
        self.layer.fused = engine
        self.held = []  # (array, its numbers), which nobody may change
        self.late = None
        self.nudged(self.layer)

    def nudged(self, layer):
        for number, p in enumerate(layer.parameters()):
            random = np.random.default_rng([17, number])
            p.numpy()[...] *= 1 + self.nudge * random.uniform(-1, 1, p.shape)

    def numbers(self, random, shape, layout="plain"):
        array = np.asarray(random.uniform(-1, 1, shape)).astype(np.float32)
        array = np.asarray(array * (1 + self.nudge * random.uniform(-1, 1, shape)), self.dtype)
        return laid_out(array, layout)

    def keep(self, values):
        for value in values:
            if value is not None:
                array = value.numpy() if isinstance(value, tg.Tensor) else value
                self.held.append((array, array.copy()))

    def event(self, name, random):
        layer = self.layer
        parameters = list(layer.parameters())
        if name in ("train", "eval"):
            getattr(layer, name)()
        elif name == "update":
            for p in parameters:
                p.numpy()[...] = p.numpy() + 0.05 * self.numbers(random, p.shape)
        elif name == "data" and parameters:
            for p in parameters:
                p.data = np.asarray(p.numpy() + 0.05 * self.numbers(random, p.shape))
        elif name == "replace" and parameters:
            old = parameters[random.integers(len(parameters))]
            new = tg.nn.Parameter(old.numpy() * 0.9)
            for module in {id(m): m for m in layer.modules()}.values():
                for attribute, value in list(vars(module).items()):
                    if value is old:
                        setattr(module, attribute, new)
        elif name == "load":
            layer.load_state_dict({key: np.asarray(value) * 0.95 for key, value in layer.state_dict().items()})
        elif name == "copy":
            self.layer = copy.deepcopy(layer)
        elif name == "number":
            for module in layer.modules():
                for attribute, value in list(vars(module).items()):
                    if attribute.startswith("rate"):
                        setattr(module, attribute, value * 0.8)
        elif name == "sibling":
            if self.other is None:
                self.other = self.make(self.dtype)
                self.other.fused = self.engine
                for p in self.other.parameters():
                    p.numpy()[...] *= 1.5
            x = tg.from_numpy(self.last[0]) if len(self.last) == 1 else tuple(map(tg.from_numpy, self.last))
            self.other(x, **self.values)

    def call(self, number, call):
        """Forward, backward; returns the results by name."""
        random, layer = np.random.default_rng([self.draw, number]), self.layer
        shapes = [(call["T"], call["B"], width) for width in call["widths"]]
        if call.get("batch_first"):
            shapes = [(B, T, width) for T, B, width in shapes]
        self.last = [self.numbers(random, shape, call["layout"]) for shape in shapes]
        values = {name: (call["B"], *shape) for name, shape in call.get("values", {}).items()}
        values = {name: self.numbers(random, shape, call["state layout"]) for name, shape in values.items()}
        self.values = {name: tg.from_numpy(array) for name, array in values.items()}
        ours = [p.data for p in layer.parameters()]  # which what comes may change
        self.held = [each for each in self.held if not any(np.may_share_memory(each[0], a) for a in ours)]
        for name in call["before"]:
            self.event(name, random)
            layer = self.layer
        wanted = call["wanted"]
        asks = lambda kind, n: wanted == "all" or wanted == kind or (wanted == "some" and (number + n) % 3 != 1)
        xs = [tg.from_numpy(array).requires_grad_(asks("x", n)) for n, array in enumerate(self.last)]
        x = xs[0] if len(xs) == 1 else tuple(xs)
        values = {name: v.detach().requires_grad_(asks("states", n)) for n, (name, v) in enumerate(self.values.items())}
        named = dict(layer.named_parameters())
        for n, p in enumerate(named.values()):
            p.requires_grad_(asks("parameters", n + 1))
        states, given = [], None
        if call["given"]:
            with tg.no_grad():
                before, layer.fused = layer.fused, "never"
                pattern = layer(x, **values)[1]
                layer.fused = before
            for n, state in enumerate(tensors(pattern)):
                array = self.numbers(random, state.shape, call["state layout"])
                states.append(tg.from_numpy(array).requires_grad_(asks("states", n + 2)))
            given = like(pattern, iter(states))
        options = values if call["lengths"] is None else {"lengths": call["lengths"], **values}
        if call["every"]:
            options = options | {"return_states": True}
        leaves = {**{f"x{n}": x for n, x in enumerate(xs)}, **{f"s{n}": s for n, s in enumerate(states)}}
        leaves |= {**values, **named}
        self.keep(leaves.values())
        if call["engine"] == "never":
            layer.fused = "never"
        tg.manual_seed(100 + number)
        recording = tg.record(layer) if call["record"] and call["mode"] == "grad" else None
        if call["mode"] == "no_grad":
            with tg.no_grad():
                returned = layer(x, given, **options)
        elif recording:
            with recording as recorded:
                returned = layer(x, given, **options)
        else:
            returned = layer(x, given, **options)
        drawn = tg.rand(1).item()
        layer.fused = self.engine
        y, final, *every = returned
        found = {"y": y, **{f"final {n}": v for n, v in enumerate(tensors(final))}}
        found |= {f"every {n}": v for n, v in enumerate(tensors(every))}
        self.keep(found.values())
        results = {name: v.numpy().copy() for name, v in found.items()}
        results["the next number drawn"] = np.array(drawn)
        if recording:
            for n, part in enumerate(recorded if isinstance(recorded, list) else [recorded]):
                results |= {f"record {n} {name}": part[name].numpy().copy() for name in part.names}

        def backward():
            weights = np.random.default_rng([2, number])
            made = {
                name: weights.uniform(-1, 1, v.shape).astype(np.float32).astype(self.dtype) for name, v in found.items()
            }
            chosen = {name: v for name, v in found.items() if call["loss"] == "all" or name.startswith(call["loss"])}
            if call["loss"] == "laid out":
                chosen = {name: v for name, v in found.items() if name == "y"}
            inputs = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad and call["mode"] == "grad"}
            outputs = {name: v for name, v in chosen.items() if v.requires_grad}
            if not inputs or not outputs:
                return {f"d{name}": np.zeros(leaf.shape, self.dtype) for name, leaf in inputs.items()}
            gradients = {}
            if call["loss"] == "laid out":
                sources, dys = (
                    list(outputs.values()),
                    [tg.from_numpy(laid_out(made[name], "apart")) for name in outputs],
                )
            else:
                sources, dys = [sum((v * made[name]).sum() for name, v in outputs.items())], None
            values = list(inputs.values())
            take = lambda **how: tg.grad(sources, values, dys, allow_unused=True, **how)
            arrays = lambda ds: [np.zeros(v.shape, self.dtype) if d is None else d.numpy() for v, d in zip(values, ds)]
            if call["second"]:
                first = take(create_graph=True)
                gradients |= {f"d{name}": a.copy() for name, a in zip(inputs, arrays(first))}
                norm = [(d * d).sum() for d in first if d is not None and d.requires_grad]
                second = tg.grad(sum(norm), values, allow_unused=True) if norm else [None] * len(values)
                gradients |= {f"second d{name}": a.copy() for name, a in zip(inputs, arrays(second))}
                return gradients
            ds = take(retain_graph=call["twice"])
            self.keep(ds)
            gradients = {f"d{name}": a.copy() for name, a in zip(inputs, arrays(ds))}
            if call["twice"]:
                for name, a, b in zip(inputs, arrays(ds), arrays(take())):
                    np.testing.assert_array_equal(a, b, err_msg=f"d{name}, the second time")
            return gradients

        late, self.late = self.late, None
        if late:
            late()
        if call["late"]:
            self.late = lambda: results.update(backward())
        else:
            results.update(backward())
        return results


def run(make, calls, engine, dtype, nudge=0.0, draw=0):
    """The results of all calls, a dictionary for each."""
    one = Run(make, engine, dtype, nudge, draw)
    found = [one.call(number, call) for number, call in enumerate(calls)]
    if one.late:
        one.late()
    for array, numbers in one.held:
        np.testing.assert_array_equal(array, numbers, err_msg="an array of the user's was written to")
    return found


def distances(found, expected):
    """call and name -> the largest difference, and the largest entry expected."""
    result = {}
    for number, (ours, theirs) in enumerate(zip(found, expected)):
        for name, value in theirs.items():
            if name.startswith("record") and name not in ours:
                continue
            assert name in ours, f"call {number}: {name} is missing"
            assert ours[name].shape == value.shape, f"call {number}: {name} is {ours[name].shape}, not {value.shape}"
            same_dtype = ours[name].dtype == value.dtype or name.startswith("record")  # a mask is one of 0 and 1
            assert same_dtype, f"call {number}: {name} is {ours[name].dtype}, not {value.dtype}"
            same = (ours[name] == value) | (np.isnan(ours[name]) & np.isnan(value))
            with np.errstate(all="ignore"):
                apart = np.where(same, 0, np.abs(ours[name].astype(np.float64) - value))
            apart = np.where(np.isnan(apart), np.inf, apart)
            finite = np.abs(value[np.isfinite(value)])
            result[number, name] = float(apart.max(initial=0)), float(finite.max(initial=0))
    return result
