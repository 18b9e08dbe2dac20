"""What the package says of itself, the choice of an instruction set, a quiet import."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import rmsprop_fast
from rmsprop_fast import get_include, show_config, threads
from rmsprop_fast.__main__ import main
from rmsprop_fast.cpu import _platform, dispatch

KEYS = ["isa", "available isas", "openmp", "threads", "compiler"]


def run(code, *options, **environment):
    """Run code in a Python of its own."""
    inherited = {k: v for k, v in os.environ.items() if k != "RMSPROP_FAST_ISA"}
    return subprocess.run(
        [sys.executable, *options, "-c", code],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


# --- show_config, get_include ---------------------------------------------------------


def test_show_config_returns_a_dict_when_asked():
    config = show_config("dicts")
    assert list(config) == KEYS
    assert config["isa"] == dispatch.ISA
    assert config["available isas"] == dispatch.available()
    assert config["openmp"] == (_platform.OPENMP or None)
    assert config["threads"] == threads.count()
    assert config["compiler"] == _platform.COMPILER


def test_show_config_by_keyword_prints_nothing_when_it_returns(capsys):
    assert show_config(mode="dicts")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("arguments", [(), ("stdout",)], ids=["default", "stdout"])
def test_show_config_prints_one_line_for_each_fact(capsys, arguments):
    assert show_config(*arguments) is None
    out = capsys.readouterr().out
    config = show_config("dicts")
    lines = [line.strip().split(": ", 1) for line in out.splitlines()]
    assert [name for name, _ in lines] == KEYS
    printed = dict(lines)
    for name in KEYS:
        if name != "openmp" or config["openmp"]:
            assert printed[name] == str(config[name])


def test_show_config_says_when_the_loops_are_serial(capsys, monkeypatch):
    monkeypatch.setattr(_platform, "OPENMP", 0)
    show_config()
    assert "openmp: none: the loops are serial" in capsys.readouterr().out
    assert show_config("dicts")["openmp"] is None
    assert show_config("dicts")["threads"] == 1


@pytest.mark.parametrize("mode", ["dict", "", None, 1], ids=repr)
def test_another_mode_is_a_value_error(mode):
    with pytest.raises(ValueError, match="mode must be 'stdout' or 'dicts', got "):
        show_config(mode)


def test_the_baseline_is_always_available():
    assert dispatch.available()[0] == "baseline"


def test_get_include_is_the_folder_of_the_headers():
    folder = Path(get_include())
    assert (folder / "rmsprop_fast" / "rmsprop.h").is_file()
    assert folder.is_relative_to(Path(rmsprop_fast.__file__).parent)


def test_every_public_name_exists():
    assert sorted(rmsprop_fast.__all__) == rmsprop_fast.__all__
    for name in rmsprop_fast.__all__:
        assert hasattr(rmsprop_fast, name)


# --- python -m rmsprop_fast -----------------------------------------------------------


def test_the_command_line_prints_what_build_scripts_want(capsys):
    main(["--include"])
    assert capsys.readouterr().out == f"{get_include()}\n"
    main(["--config"])
    printed = capsys.readouterr().out
    show_config()
    assert printed == capsys.readouterr().out


def test_the_command_line_knows_the_version():
    done = subprocess.run(
        [sys.executable, "-m", "rmsprop_fast", "--version"],
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == (f"{rmsprop_fast.__version__}\n", "")


@pytest.mark.parametrize("arguments", [[], ["--include", "--config"], ["include"]])
def test_another_command_line_prints_the_usage(capsys, arguments):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: python -m rmsprop_fast" in capsys.readouterr().err


# --- RMSPROP_FAST_ISA -----------------------------------------------------------------

WHICH = """
import sys
import rmsprop_fast
loops = [m for m in sys.modules if m.startswith("rmsprop_fast.cpu._loops_")]
print(rmsprop_fast.show_config("dicts")["isa"], *loops)
"""


@pytest.mark.parametrize("isa", dispatch.available())
def test_the_environment_chooses_the_instruction_set(isa):
    done = run(WHICH, RMSPROP_FAST_ISA=isa)
    assert done.returncode == 0, done.stderr
    # And no other loops were imported: they might be illegal instructions.
    assert done.stdout.split() == [isa, f"rmsprop_fast.cpu._loops_{isa}"]


@pytest.mark.parametrize(
    "environment", [{}, {"RMSPROP_FAST_ISA": ""}], ids=["unset", "empty"]
)
def test_the_best_instruction_set_is_chosen_otherwise(environment):
    best = dispatch.available()[-1]
    done = run(WHICH, **environment)
    assert done.stdout.split() == [best, f"rmsprop_fast.cpu._loops_{best}"]


@pytest.mark.parametrize("isa", ["sse2", "AVX2", "avx2 ", "neon"], ids=repr)
def test_an_unknown_instruction_set_fails_loudly(isa):
    done = run("import rmsprop_fast", RMSPROP_FAST_ISA=isa)
    assert done.returncode == 1
    assert "RuntimeError: RMSPROP_FAST_ISA must be one of baseline" in done.stderr
    assert f"got {isa!r}" in done.stderr


def test_an_instruction_set_that_the_machine_lacks_fails_loudly(monkeypatch):
    monkeypatch.setitem(_platform.ISAS, "avx512", False)
    assert "avx512" not in dispatch.available()
    with pytest.raises(RuntimeError, match=r"must be one of baseline.* got 'avx512'"):
        dispatch.select("avx512")


# --- Importing ------------------------------------------------------------------------


def test_importing_prints_nothing_and_warns_of_nothing():
    done = run("import rmsprop_fast", "-W", "error")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_importing_starts_no_thread():
    code = """
import os, threading
import numpy
before = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0
import rmsprop_fast
after = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0
print(after - before, threading.active_count())
"""
    assert run(code).stdout.split() == ["0", "1"]


def test_neither_importing_nor_stepping_imports_cupy(tmp_path):
    (tmp_path / "cupy.py").write_text("raise SystemExit('cupy was imported')\n")
    code = """
import sys
import numpy as np
import rmsprop_fast
rmsprop_fast.RMSprop().apply_gradients([(np.ones(3), np.ones(3))])
rmsprop_fast.show_config("dicts")
print("cupy" in sys.modules)
"""
    done = run(code, PYTHONPATH=str(tmp_path))
    assert (done.stdout.split(), done.stderr) == (["False"], "")


def test_importing_needs_nothing_but_numpy():
    code = """
import sys
before = set(sys.modules)
import rmsprop_fast
names = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(names - set(sys.stdlib_module_names)))
"""
    names = set(run(code).stdout.split())
    assert {n for n in names if not n.startswith(("_cython", "_"))} <= {
        "numpy",
        "rmsprop_fast",
        "cython_runtime",
    }
