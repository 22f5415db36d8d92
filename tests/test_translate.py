"""`demos/translate.py`: its dates are spelt as people do, what it tests was never seen, the seed decides results."""

import datetime
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from demo_modules import loaded
from demo_options import check_refused

import tinygrad_rnn as tg

SCRIPT = Path(__file__).parent.parent / "demos" / "translate.py"


@pytest.fixture(scope="module")
def demo():
    """The script as a module."""
    with loaded("translate") as module:
        yield module


def on_the_tape(demo, hidden=3):
    tg.manual_seed(0)
    model = demo.Translator(hidden)
    for module in model.modules():
        if hasattr(module, "fused"):
            module.fused = "never"
    return model


@pytest.mark.slow
def test_run_leaves_a_picture_numbers_and_a_table(tmp_path):
    command = [sys.executable, "-W", "error", str(SCRIPT), "--quick", "--seeds", "2", "--out", str(tmp_path)]
    done = subprocess.run([*command, "--show", "May 1 99"], capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "12/12" in done.stderr  # the progress bar
    row = r"^\| all in words +\| March the twenty-first, nineteen eighty-seven \| \d+\.\d%, \d+\.\d% +\|$"
    assert re.search(row, done.stdout, re.M), done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["translate.json", "translate.png"]
    assert (tmp_path / "translate.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((tmp_path / "translate.json").read_text())
    assert [r["seed"] for r in results] == [0, 1]
    assert all(0 <= r["all"] <= 1 and r["losses"] for r in results)


def test_how_dates_are_spelt(demo):
    spelt = {name: spell(datetime.date(2005, 2, 12)) for name, spell in demo.FORMATS.items()}
    assert spelt == {
        "numbers": "12/2/2005",
        "dots": "12.02.2005",
        "dashes, two digits": "12-2-05",
        "day, month": "12 February 2005",
        "month, ordinal": "February 12th, 2005",
        "short, two digits": "Feb 12 05",
        "weekday": "Saturday, 12 February 2005",
        "ordinal in words": "the twelfth of February, 2005",
        "all in words": "February the twelfth, two thousand five",
    }
    words = "first second third fourth fifth eighth ninth thirteenth twentieth twenty-first thirtieth thirty-first"
    assert [demo.ordinal_in_words(n) for n in (1, 2, 3, 4, 5, 8, 9, 13, 20, 21, 30, 31)] == words.split()
    assert [demo.ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 22, 23, 30, 31)] == (
        "1st 2nd 3rd 4th 11th 12th 13th 21st 22nd 23rd 30th 31st".split()
    )
    assert demo.year_in_words(1950) == "nineteen fifty" and demo.year_in_words(2000) == "two thousand"
    assert demo.year_in_words(2010) == "twenty ten" and demo.year_in_words(1999) == "nineteen ninety-nine"


def test_every_text_says_one_date(demo):
    """Of a hundred years no two days are spelt alike, none is too long, and all letters are known."""
    days = [demo.FIRST + datetime.timedelta(day) for day in range(demo.DAYS)]
    assert days[0].isoformat() == "1950-01-01" and days[-1].isoformat() == "2049-12-31"
    for spell in demo.FORMATS.values():
        texts = {spell(date) for date in days}
        assert len(texts) == demo.DAYS and max(map(len, texts)) <= demo.LONGEST
        assert not {letter for text in texts for letter in text.lower()} - set(demo.LETTERS)


def test_kept_days_are_not_learnt_from(demo):
    days, kept = demo.dates_of(0)
    assert len(kept) == 3652 and sorted([*days, *kept]) == list(range(demo.DAYS))
    assert set(kept) != set(demo.dates_of(1)[1])
    texts, dates, names = demo.draw(np.random.default_rng(0), kept, 300)
    assert {(date - demo.FIRST).days for date in dates} <= set(kept) and set(names) == set(demo.FORMATS)
    assert texts == [demo.FORMATS[name](date) for name, date in zip(names, dates)]
    assert demo.spelt(demo.answers(dates)) == [date.isoformat() for date in dates]


def test_code(demo):
    x, lengths = demo.code(["May 1", "30.11.99"])
    assert x.shape == (demo.LONGEST, 2, len(demo.LETTERS)) and lengths.tolist() == [5, 8]
    assert "".join(demo.LETTERS[k] for k in x[:5, 0].argmax(-1)) == "may 1" and not x[5:, 0].any()
    shifted = demo.before(np.array([[3], [0], [5]])).argmax(-1)[:, 0]
    assert shifted.tolist() == [len(demo.WRITTEN), 3, 0]


def test_it_writes_what_scores_highest_one_after_the_other(demo):
    """Given what it wrote, the scores of the whole say the same; what is beyond the end of a text changes nothing."""
    model, texts = on_the_tape(demo), ["May 1 99", "the third of March, 1987"]
    written = model.write(texts)
    assert written.shape == (demo.LENGTH, 2)
    assert (model(texts, written).numpy().argmax(-1) == written).all()
    alone, alpha = model.looks(texts[0])
    assert alone == demo.spelt(written)[0]
    assert alpha.shape == (demo.LENGTH, len(texts[0]))
    np.testing.assert_allclose(alpha.sum(-1), 1, rtol=1e-5)  # it looks at nothing beyond the end


def test_what_is_right(demo):
    """Exact matches are counted: of a model that knows the answers, and of one that gets every third wrong."""

    class Knows:
        def __init__(self, every):
            self.every = every

        def write(self, texts):
            rng, kept = np.random.default_rng([0, 2]), demo.dates_of(0)[1]
            written = demo.answers(demo.draw(rng, kept, len(texts))[1])
            written[-1, :: self.every] = 0  # a dash
            return written

    for every, share in ((10**6, 299 / 300), (3, 200 / 300)):
        result = demo.Result(0, 0)
        demo.test(Knows(every), result, demo.dates_of(0)[1], 300)
        assert result.all == pytest.approx(share)
        assert result.wrong[0][1].endswith("-") and len(result.right) == len(demo.FORMATS)


@pytest.mark.slow
def test_the_seed_decides(demo):
    chosen = demo.arguments().parse_args("--updates 2 --hidden 4 --batch 4 --tests 10".split())
    losses = lambda seed: demo.learn(seed, chosen)[1].losses
    assert losses(0) == losses(0) != losses(1)


@pytest.mark.parametrize("wrong", ["--show été", "--seed -1", "--updates 0", "--lr inf", f"--show {'a' * 99}"])
def test_wrong_options(wrong, demo, capsys):
    check_refused(demo.arguments(), wrong, capsys)


def test_readme_shows_a_default_run(demo):
    """Its table has all formats, its figures are those of the claim, its picture is small."""
    text = (SCRIPT.parent / "README.md").read_text(encoding="utf-8")
    assert "`python demos/translate.py" in text
    text = text.partition("## An alignment that nobody taught")[2].partition("\n## ")[0]
    for name, spell in demo.FORMATS.items():
        example = re.escape(spell(datetime.date(1987, 3, 21)))
        assert re.search(rf"^\| {name} \| {example} \| \d+\.\d%.* \|$", text, re.M), name
    (shares,) = re.findall(r"^\| all \|  \| (.*) \|$", text, re.M)
    assert all(float(share.rstrip("%")) > 99 for share in shares.split(", "))
    assert "(translate.png)" in text and (SCRIPT.parent / "translate.png").stat().st_size < 200_000
