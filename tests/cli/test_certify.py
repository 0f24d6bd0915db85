"""`fastadv certify`: what it prints, keeps, and refuses."""

import json

import pytest

MODEL = "certify -m softmax --data digits -n 6 --sigma 0.25 --rounded --draws 200 --batch-size 64"


@pytest.mark.slow
def test_it_prints_a_table_or_json_and_goes_on_in_its_folder(fastadv, refused):
    done = fastadv(f"{MODEL} --radii 0.1,0.2 --run-dir run")
    assert "certified accuracy" in done.out
    assert "6 images" in done.out
    assert "smoothed model" in done.out
    refused(f"{MODEL} --radii 0.1,0.2 --run-dir run", "pass --resume")
    again = fastadv(f"{MODEL} --radii 0.1,0.2 --run-dir run --resume --json").json
    assert len(again["certificates"]) == 6
    assert again["config"]["sigma"] == 0.25
    whole = fastadv(f"{MODEL} --all-draws --json").json
    assert {row["draws"] for row in whole["certificates"]} == {200}
    assert json.dumps(whole)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("--sigma 0", "sigma"), ("--alpha 1", "alpha"), ("--radii 0.1,x", "expected a number"),
        ("--sound", "grid of 1/255"),
    ],
)  # fmt: skip
def test_it_refuses(refused, more, says):
    refused(f"{MODEL} {more}", says)
