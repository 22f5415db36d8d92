"""Run notebooks where they are, as they are to be committed: `python tests/run_notebook.py notebooks/04*.ipynb`.

A new kernel runs every cell, in order. Pictures are reduced to 256 colours, which nobody sees and which makes them a
third as large. Times, which differ at every run, are left out.
"""

import base64
import io
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

COLOURS = 256


def smaller(png: str) -> str:
    """The same picture, if that is smaller, with a palette."""
    from PIL import Image

    picture, file = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"), io.BytesIO()
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return min(png, base64.b64encode(file.getvalue()).decode(), key=len)


def run(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": path.parent}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=place).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                output["data"]["image/png"] = smaller(output["data"]["image/png"])
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        run(Path(name))
        print(f"{name}: {Path(name).stat().st_size:,} bytes")
