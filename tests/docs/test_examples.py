"""The example's data are what its formula makes."""

import importlib.util
from pathlib import Path

DATA = Path(__file__).resolve().parents[2] / "examples" / "data"


def test_the_data_file_is_what_its_formula_makes() -> None:
    spec = importlib.util.spec_from_file_location("make_river_gauges", DATA / "make_river_gauges.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.render() == (DATA / "river_gauges.csv").read_text(encoding="utf-8")
