"""`nox`: the golden files with the oldest and the newest versions that calotype supports, under each Python."""

import nox

OLDEST = ("numpy==1.26.0", "Pillow==11.3.0", "onnxruntime==1.20.0", "onnx==1.17.0", "constriction==0.4.0")
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]


@nox.session(python=PYTHONS)
@nox.parametrize("age", ["oldest", "newest"])
def exactness(session: nox.Session, age: str) -> None:
    """The exactness matrix with onnxruntime."""
    oldest = OLDEST if age == "oldest" and session.python in PYTHONS[:3] else ()
    session.install(".", *oldest)
    session.run("python", "tools/exactness.py", "--only", "onnxruntime")
