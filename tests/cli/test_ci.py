"""What CI reads of `fastadv evaluate`: exit codes, one line of reasons, and a summary."""

from xml.etree import ElementTree

import pytest

LINE = "-n 60 -a fgsm -a pgd:steps=5 --radius 0.05 --no-indicators"


@pytest.mark.slow
def test_a_share_that_is_not_reached_is_exit_code_4(fastadv, net):
    line = f"evaluate {net} {LINE}"
    measured = fastadv(f"{line} --json").json["measured"]
    clean, robust = measured["clean_accuracy"], measured["worst_case"]
    assert 0 < robust < clean < 1
    assert fastadv(f"{line} --fail-under robust={robust},clean={clean}").err == ""
    done = fastadv(f"{line} --fail-under robust={robust + 0.01},clean={clean}", code=4)
    assert done.err == f"fastadv: robust accuracy {robust:g} is below {robust + 0.01:g}\n"
    assert "worst of all" in done.out
    done = fastadv(f"{line} --fail-under robust=1,clean=1 --json", code=4)
    assert done.json["measured"]["worst_case"] == robust
    assert done.err.endswith(f"is below 1; clean accuracy {clean:g} is below 1\n")


@pytest.mark.slow
def test_the_summary_has_each_attack_and_what_failed(fastadv, net, folder):
    line = f"evaluate {net} -n 4 -a fgsm -a pgd:steps=5 --radius 0.05 --strict"
    fastadv(f"{line} --summary a.md --fail-under robust=0", code=3)  # too few samples for a verdict
    lines = (folder / "a.md").read_text().splitlines()
    assert lines[0] == "### small_cnn on digits test: 4 samples, L∞ 0.05"
    assert [line.split("|")[1].strip() for line in lines if line.startswith("|")][3:5] == [
        "FGSM, L∞ 0.05", "PGD-5, L∞ 0.05",
    ]  # fmt: skip
    assert lines[-3].endswith("is at least 0")
    assert lines[-1].startswith("**Failed:** Inconclusive")
    fastadv(f"{line} --summary a.xml --fail-under robust=1", code=4)  # a fact goes before doubt
    suite = ElementTree.parse(folder / "a.xml").getroot()
    cases = {case.get("name"): case.find("failure") for case in suite}
    assert cases.keys() == {"fgsm L∞ 0.05", "pgd:steps=5", "robust accuracy >= 1", "no sign of masking"}
    failed = {name for name, failure in cases.items() if failure is not None}
    assert failed == {"robust accuracy >= 1", "no sign of masking"}
    assert (suite.get("tests"), suite.get("failures")) == ("4", "2")
    fastadv(f"evaluate {net} -n 4 -a fgsm --radius 0.05 --summary b.xml")
    assert {case.get("name") for case in ElementTree.parse(folder / "b.xml").getroot()} == {
        "fgsm L∞ 0.05", "verdict on masking, not required",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--radius 0.1 --fail-under robust=1.5", "robust: expected a finite number >= 0 and <= 1, got 1.5"),
        ("--radius 0.1 --fail-under robust=50%", "got '50%'"),
        ("--radius 0.1 --fail-under pgd=0.5", "no share 'pgd'; there are robust, clean"),
        ("--radius 0.1 --fail-under robust", "KEY=VALUE"),
        ("-a fmn --fail-under robust=0.5", "no attack has a radius"),
        ("--radius 0.1 --run-dir a --shard 0/2 --fail-under clean=0.5", "--fail-under is of all images"),
        ("--radius 0.1 --run-dir a --shard 0/2 --summary a.md", "--summary is of all images"),
    ],
)
def test_what_has_no_sense_is_refused_before_the_work(refused, line, says):
    refused(f"evaluate -m softmax --data digits -n 5 {line}", says)
