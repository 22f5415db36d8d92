"""Whether gradients are the slopes."""

import re

from ..autograd.gradcheck import GradcheckError, gradcheck
from .lines import line_of_step
from .subject import Found, Subject, weighted, words


def check_gradients(s: Subject) -> Found:
    """Gradients agree with finite differences, on both engines."""
    for engine in s.engines:
        hx = tuple(state.requires_grad_() for state in s.hx())
        x = s.x().requires_grad_()
        wrong: dict[str, str] = {}
        for name, p in {"x": x, **dict(zip(s.cell.state_names, hx)), **s.learned()}.items():
            try:
                gradcheck(lambda _, x=x, hx=hx, e=engine: weighted(s.run(e, x, hx)), [p])
            except GradcheckError as error:
                told = re.search(r"backward gives .*", str(error))
                wrong[name] = told[0] if told else str(error)
        if wrong:
            name = next((name for name in wrong if name in s.learned()), next(iter(wrong)))
            yield f"the gradient of {', '.join(wrong)} is not the slope ({words(engine)}; of {name}, {wrong[name]})", \
                line_of_gradient(s, list(wrong))  # fmt: skip
            return


def line_of_gradient(s: Subject, names: list[str]) -> str:
    """The line of the step that cuts a gradient; else one that reads what has the wrong one."""
    cuts = r"detach|no_grad|\.numpy\(|\.data\b|clip_gradient|straight_through|np\."
    own = [rf"self\.{re.escape(name)}\b" if name in s.learned() else rf"\b{re.escape(name)}\b" for name in names]
    patterns = [*(rf"(?=.*({cuts}))(?=.*{name})" for name in own), cuts, *own]
    definition = line_of_step(s.cell)
    found = (line_of_step(s.cell, pattern) for pattern in patterns)
    return next((line for line in found if line != definition), definition)
