"""The self-test passes where packed traces stay apart, and fails where they are mixed."""

from __future__ import annotations

import pytest

from r1kit.training.block_diagonal import TOLERANCE, PackingProof, prove


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_traces_stay_apart_on_this_machine(attention: str) -> None:
    proof = prove(attention)
    assert proof.holds, str(proof)
    assert proof.mixed > 100 * proof.apart, "a test without power would pass anywhere"


def test_half_precision_stays_within_its_tolerance() -> None:
    assert prove("eager", dtype="bfloat16").holds


def test_mixed_documents_fail_and_a_test_without_power_says_so() -> None:
    assert not PackingProof("eager", "cpu", "float32", 0.3, 0.3).holds
    assert "SEE EACH OTHER" in str(PackingProof("eager", "cpu", "float32", 0.3, 0.3))
    assert "proves nothing" in str(PackingProof("eager", "cpu", "float32", 0.0, TOLERANCE["float32"] / 2))


def test_the_doctor_proves_it_for_a_profile(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    from r1kit.cli import main

    monkeypatch.setattr("sys.argv", ["r1kit", "doctor", "--packing"])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    assert "packed traces stay apart: sdpa on cpu" in capsys.readouterr().out


def test_an_attention_that_is_not_there_is_said_and_fails(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    from r1kit.cli import main

    monkeypatch.setattr("sys.argv", ["r1kit", "doctor", "--packing", "--profile", "mi350x-8"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    assert "flash_attention_2 cannot be used on this machine" in capsys.readouterr().out
